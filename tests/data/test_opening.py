from functools import partial

import make
import pytest
from make import Memory, own_folder, picture, space

from sfseg.data.layouts import camvid, folder
from sfseg.data.opening import missing_folder, opened
from sfseg.errors import ConfigError


def test_a_set_is_opened(tmp_path):
    classes = own_folder(tmp_path)
    reader = partial(folder, root=tmp_path, split="train", classes=classes)
    assert len(opened("target_train", reader, space(3))) == 3
    memory = Memory([picture(0)])
    assert opened("source_eval", lambda: memory) is memory


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (
            partial(folder, foo=1),
            r"data\.scenes\.target_train\.foo is no .* folder, which has root, sp",
        ),
        (
            partial(folder, split="a"),
            r"target_train: folder is missing a required argument: 'root'",
        ),
    ],
)
def test_arguments_that_a_reader_has_not_or_lacks(reader, message):
    with pytest.raises(ConfigError, match=message):
        opened("target_train", reader)


def test_other_classes_than_the_tasks_are_refused():
    with pytest.raises(
        ConfigError, match=r"source_eval has 3 classes \(mine\), the task 4 \(mine\)"
    ):
        opened("source_eval", lambda: Memory([picture(0)]), space(4))


def test_what_a_reader_refuses_is_said_with_its_set():
    def refusing():
        raise ValueError("split must be one of a, b")

    with pytest.raises(ConfigError, match=r"data\.scenes\.source_train: split must be one of"):
        opened("source_train", refusing)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": 2024}, r"^data\.scenes\.target_eval\.root must be a name, got 2024, which YAML"),
        (
            {"root": 2024.5, "argument": "data.target_root"},
            r"^data\.target_root must be a name, got 2024\.5, .*: put it in quotes, '2024\.5'$",
        ),
        ({"root": "a", "classes": 3}, r"target_eval\.classes must be a name, got 3,"),
        ({"root": "a", "classes": "b", "file_list": 1}, r"target_eval\.file_list must be a name"),
        ({"root": "a", "classes": "b", "mask_suffix": False}, r"mask_suffix must .*got False"),
    ],
)
def test_numbers_are_no_names(settings, message):
    reader = partial(folder, **{"classes": "b", **settings})
    with pytest.raises(ConfigError, match=message):
        opened("target_eval", reader)
    assert missing_folder(reader) is None or settings["root"] == "a"


def test_an_argument_that_holds_names_is_not_taken_for_one(tmp_path):
    reader = partial(camvid, make.camvid(tmp_path), "test", sequences=["0001TP"])
    assert len(opened("target_eval", reader)) == 2


def test_a_folder_that_is_not_there_is_named(tmp_path):
    assert missing_folder(partial(folder, root=tmp_path)) is None
    assert missing_folder(partial(folder, root=str(tmp_path / "none"))) == tmp_path / "none"
    assert missing_folder(lambda: Memory([picture(0)])) is None
