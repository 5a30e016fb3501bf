"""What a classes' file may say, and how it is told what is wrong."""

import pytest
import yaml

from sfseg.data.classes_file import NEAREST, ClassesFile, described, load_label_space
from sfseg.labels import CITYSCAPES

NAMES = {"classes": ["road", "car", "person"]}


def read(**settings):
    return ClassesFile.of(NAMES | settings, "mine/classes.yaml")


def test_names_alone_are_enough():
    file = read()
    assert file.classes == file.task == ("road", "car", "person") and file.name == "mine"
    assert (file.values, file.colours, file.nearest) == (((0,), (1,), (2,)), None, None)


def test_one_and_several_of_a_class():
    file = read(
        values=[0, [1, 7], 65535],
        palette=[[1, 1, 1], [[2, 2, 2], [3, 3, 3]], [4, 4, 4]],
        ignore=[9, [5, 5, 5]],
        nearest=True,
        channel="green",
        subsets={"moving": [1, 2]},
    )
    assert file.values == ((0,), (1, 7), (65535,))
    assert file.colours == (((1, 1, 1),), ((2, 2, 2), (3, 3, 3)), ((4, 4, 4),))
    assert (file.ignored_ids, file.ignored_colours) == ((9,), ((5, 5, 5),))
    assert (file.nearest, file.channel) == (NEAREST, "green")
    assert file.drawn("car") == (2, 2, 2)


@pytest.mark.parametrize(
    "key", ["palette", "values", "ignore", "map", "nearest", "channel", "name"]
)
def test_a_key_left_empty_is_as_one_that_is_not_there(key):
    assert read(**{key: None}) == read()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pallete": []}, r"mine/classes\.yaml has the key 'pallete', .*mean 'palette'\?"),
        ({"ignored": [0]}, r"'ignored', which is unknown; did you mean 'ignore'\?"),
        ({"zzz": 1}, r"'zzz', which is unknown; it knows name, classes, palette"),
        ({"values": 3}, r"'values' of .* for each of the 3 classes, got 3"),
        ({"values": [0, 1]}, r"'values' of .* one stored id for each of the 3 classes, got 2"),
        ({"values": {0: 1}}, r"'values' of .* got \{0: 1\}"),
        ({"values": [0, 1, "x"]}, r"'values' of .* got 'x'; ids are from 0 to 65535"),
        ({"values": [0, 1, True]}, r"got True"),
        ({"values": [0, 1, []]}, r"got \[\]"),
        ({"values": [0, 1, 65536]}, r"got 65536"),
        ({"values": [0, 1, [2, 1]]}, r"must name each id and colour once, got 1 twice"),
        ({"ignore": 0}, r"'ignore' of .* must list ids .* or colours \[r, g, b\], got 0"),
        ({"ignore": [[1, 2]]}, r"'ignore' of .* got \[\[1, 2\]\]"),
        ({"ignore": [2]}, r"'values' and 'ignore' of .* got 2 twice"),
        ({"ignore": [9, 9, 9]}, r"got 9 twice; a colour is a list of its own, \[\[r, g, b\]\]"),
        ({"palette": [[0, 0, 1], [0, 0, 2]]}, r"'palette' of .* 3 classes, got 2"),
        ({"palette": [[0, 0, 1], [0, 0, 2], [0, 0, 256]]}, r"'palette' of .* got \[0, 0, 256\]"),
        ({"palette": [[0, 0, 1], [0, 0, 2], [0, 0, 1]]}, r"'palette' .* got \[0, 0, 1\] twice"),
        ({"palette": "red"}, r"'palette' of .* got 'red'"),
        ({"map": ["car"]}, r"'map' of .* must be like \{rider: person\}, got \['car'\]"),
        ({"map": {"cat": "car"}}, r"'map' of .* the class 'cat', .* did you mean 'car'\?"),
        ({"map": {"car": "road", "road": "person"}}, r"name the last one for both"),
        ({"map": {"car": "persn"}}, r"makes 'persn' of 'car', .*; did you mean 'person'\?"),
        ({"map": {"car": "void"}}, r"makes 'void' of 'car', .*; write null where"),
        ({"map": {"car": 255}}, r"makes '255' of 'car', .*; write null where"),
        ({"map": {"car": True}}, r"'map' of .* got True \(bool\); write names such as on, no"),
        ({"nearest": "yes"}, r"'nearest' of .* got 'yes'"),
        ({"nearest": -1}, r"'nearest' of .* got -1"),
        ({"channel": "alpha"}, r"'channel' of .*\['red', 'green', 'blue'\], got 'alpha'"),
        ({"subsets": [1]}, r"'subsets' of .* got \[1\]"),
        ({"subsets": {"few": "road"}}, r"'subsets' of .* got \{'few': 'road'\}"),
        ({"classes": ["a", False]}, r"'classes' of .* got False \(bool\); write .* in quotes"),
        ({"classes": ["a", None]}, r"got None \(NoneType\)"),
        ({"classes": ["a", ["b"]]}, r"got \['b'\] \(list\)"),
        ({"classes": ["a", " "]}, r"names of one line, got ' '"),
        ({"classes": ["a", "b\nc"]}, r"names of one line, got 'b\\nc'"),
        ({"classes": ["a", "b", "a"]}, r"must be distinct, got 'a' twice; several ids"),
        ({"classes": ["a", 1, "1"]}, r"must be distinct, got '1' twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_key(settings, message):
    with pytest.raises(ValueError, match=message):
        read(**settings)


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "classes.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
        return path

    return write


def test_a_built_in_label_space_may_stand_for_the_names(write):
    labels = load_label_space(write({"classes": "cityscapes", "map": {"rider": "person"}}))
    assert labels.classes == tuple(name for name in CITYSCAPES.classes if name != "rider")
    assert labels.palette[11] == CITYSCAPES.palette[11]
    assert described("cityscapes").classes == CITYSCAPES.classes
    with pytest.raises(ValueError, match=r"'cityscape', .* did you mean 'cityscapes'"):
        load_label_space(write({"classes": "cityscape"}))


def test_a_misspelt_list_of_classes_is_recognised(write):
    with pytest.raises(ValueError, match=r"a list 'classes' .* did you mean that by 'clases'"):
        load_label_space(write({"clases": ["a", "b"]}))


def test_a_file_in_another_encoding_is_named(write, tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_bytes("classes: [Straße, Fußgänger]\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.yaml cannot be read as text in UTF-8"):
        load_label_space(path)


@pytest.mark.parametrize("name", ["mIoU", "pixel_accuracy", "few"])
def test_classes_are_not_called_as_means_are(write, name):
    with pytest.raises(ValueError, match="must not be called as means and subsets are"):
        load_label_space(write({"classes": ["a", name], "subsets": {"few": [0]}}))
