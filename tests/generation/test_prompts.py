import re
from pathlib import Path

import pytest

from sfseg.errors import ConfigError
from sfseg.generation.prompts import prompts_of

THINGS = [
    "traffic lights", "traffic signs", "persons", "riders", "cars", "trucks", "trains", "buses",
    "motorcycles", "bicycles",
]  # fmt: skip
STUFF = [
    "roads", "sidewalks", "buildings", "walls", "fences", "poles", "vegetation", "terrain", "sky"
]  # fmt: skip
DASH_CAM = "a photo of {identifier} {cls} seen from the dash cam"
FROM_A_CAR = "a photo of {cls} in a {identifier} scene from a car"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"classes": "none"}, ["a photo of a sks urban scene"]),
        ({}, [f"a photo of sks {name}" for name in THINGS]),
        ({"classes": "things+stuff"}, [f"a photo of sks {name}" for name in THINGS + STUFF]),
        ({"template": DASH_CAM}, [f"a photo of sks {n} seen from the dash cam" for n in THINGS]),
        ({"classes": "none", "template": "a photo of a {identifier} scene from a car"},
         ["a photo of a sks scene from a car"]),
        ({"template": FROM_A_CAR}, [f"a photo of {n} in a sks scene from a car" for n in THINGS]),
    ],
)  # fmt: skip
def test_every_row_of_the_table_is_one_setting(
    settings: dict[str, str], expected: list[str]
) -> None:
    assert prompts_of("datum", **settings) == expected


def test_the_identifier_is_a_setting() -> None:
    assert prompts_of("datum", identifier="zwx")[4] == "a photo of zwx cars"


def test_street_prompts_are_a_hundred_of_one_form() -> None:
    prompts = prompts_of("clouds")
    assert len(set(prompts)) == len(prompts) == 100
    assert prompts == prompts_of("clouds")
    for prompt in prompts:
        assert re.fullmatch(r"A (photo|picture|snapshot) of [a-z ]{15,}", prompt)
    firsts = [prompt.split(" of ")[0] for prompt in prompts]
    assert sorted(map(firsts.count, set(firsts))) == [33, 33, 34]


def test_a_file_has_one_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa road in the rain \r\n\n  eine Straße {x}\n".encode())
    assert prompts_of(str(file)) == ["a road in the rain", "eine Straße {x}"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": "thing"}, "classes must be one of things, things[+]stuff, none, got 'thing'"),
        ({"template": "a photo of {identifier}"}, "must contain {cls} with classes=things"),
        ({"template": "a photo of {cls}"}, "must contain {identifier}"),
        ({"classes": "none", "template": "{identifier} {cls}"}, "must not contain {cls}"),
        ({"template": "{identifier} {cls} {city}"}, "must not contain {city}"),
        ({"template": "{identifier} {cls"}, "cannot be read"),
        ({"template": "{identifier:{x}} {cls}"}, "must not format {identifier}"),
        ({"template": "{identifier} {cls!r}"}, "must not format {cls}"),
        ({"template": "5"}, "must contain {cls}"),
        ({"identifier": " "}, "identifier must be the word"),
    ],
)
def test_templates_that_cannot_be(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prompts_of("datum", **settings)


def test_files_that_cannot_be(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n \n")
    binary.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match=r"empty\.txt is empty; write one prompt a line"):
        prompts_of(str(empty))
    with pytest.raises(ConfigError, match="is no text in UTF-8"):
        prompts_of(str(binary))
    with pytest.raises(ConfigError, match="must be one of datum, clouds, or a text file"):
        prompts_of("datun")
    with pytest.raises(ConfigError, match="belongs to prompts=datum, not to clouds"):
        prompts_of("clouds", template="{identifier} {cls}")
