import hashlib
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import Cli, Done

from sfseg.config.information import tell
from sfseg.labels import CITYSCAPES
from sfseg.runs.contact_sheet import HEIGHT, TILE
from sfseg.types import IGNORE

SIZE = (32, 64)
FOLDER = ["data=folder", "data.root=mine", "data.classes=cityscapes"]
SETS = {
    "source_train": ("source", "train", 16),
    "source_eval": ("source", "val", 3),
    "target_train": ("target", "train", 3),
    "target_eval": ("target", "val", 2),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def photo(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(256, size=(4, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, size[::-1])


def ids(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Blocks of a few of the classes, and a void corner."""
    coarse = np.random.default_rng(seed).integers(19, size=(4, 8)).astype(np.uint8)
    label = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)
    label[:2, :3] = IGNORE
    return label


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's folder in which nothing is wrong."""
    for number, (domain, split, count) in enumerate(SETS.values()):
        base = tmp_path / "mine" / domain
        for k in range(count):
            seed = 100 * number + k
            write(base / "images" / split / f"{k:02d}.png", photo(seed))
            write(base / "masks" / split / f"{k:02d}.png", ids(seed))
    return tmp_path / "mine"


def report(done: Done) -> dict:
    return json.loads((done.run / "check.json").read_text())


def state(root: Path) -> dict[str, tuple[int, str]]:
    """Time and hash of everything below a folder."""
    return {
        str(path): (
            path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(root.rglob("*"))
    }


def findings(done: Done) -> dict[tuple[str, str, str], int | None]:
    """Set, kind and file of all that was found -> pixels."""
    return {
        (name, found["kind"], found["file"]): found["pixels"]
        for name, values in report(done)["sets"].items()
        for found in values["faults"] + values["suspicions"]
    }


def test_clean_data_pass_in_silence(cli: Cli, mine: Path, cache: Path) -> None:
    before = state(mine)
    done = cli("sfseg-data", "check", *FOLDER)
    assert done.code == 0, done.output
    assert not findings(done)
    assert "fault in" not in done.output and "suspicion in" not in done.output
    assert state(mine) == before
    sets = report(done)["sets"]
    assert list(sets) == list(SETS)
    for name, (domain, split, count) in SETS.items():
        found = sets[name]
        assert found["scenes"] == found["read"] == count and found["labelled"]
        assert found["sizes"] == {"64x32": count} and found["official"] is None
        masks = [
            cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            for path in sorted((mine / domain / "masks" / split).iterdir())
        ]
        labelled = sum((mask != IGNORE).sum() for mask in masks)
        for k, class_name in enumerate(CITYSCAPES.classes):
            pixels = sum((mask == k).sum() for mask in masks)
            assert found["classes"][class_name] == {
                "pixels": pixels,
                "share": pytest.approx(pixels / labelled),
                "images": sum((mask == k).any() for mask in masks),
            }
    assert report(done)["versions"]["sfseg"] and report(done)["data"] == "folder"
    assert len(list(cache.rglob("*.npz"))) == 4
    assert str(done.run / "check.json") in done.output


def test_tables_show_sets_and_classes(cli: Cli, mine: Path) -> None:
    for k in range(3):
        (mine / "target" / "masks" / "train" / f"{k:02d}.png").unlink()
    (mine / "target" / "masks" / "train").rmdir()
    write(mine / "target" / "images" / "train" / "00.png", photo(7, (48, 80)))
    for name, columns in (("00.png", [0, 0, 1, 1]), ("01.png", [0, 0, 0, 5])):
        stripes = np.array(columns, np.uint8).repeat(16)[None].repeat(32, axis=0)
        write(mine / "target" / "masks" / "val" / name, stripes)
    done = cli("sfseg-data", "check", *FOLDER)
    assert done.code == 0, done.output
    rows = {
        cells[0]: cells[1:]
        for line in done.output.splitlines()
        if line.startswith("│") and (cells := [cell.strip() for cell in line[1:-1].split("│")])
    }
    assert rows["source train"] == ["16", "64x32", "yes", "0", "0"]
    assert rows["target train"] == ["3", "64x32 to 80x48, 2 sizes", "no", "0", "0"]
    # Only labelled sets have a column: the last is target eval.
    assert len(rows["road"]) == 3
    assert rows["road"][-1] == "62.50 2"
    assert rows["sidewalk"][-1] == "25.00 1"
    assert rows["pole"][-1] == "12.50 1"
    assert rows["train"][-1] == "-"


def flip(path: Path) -> None:
    """Change one bit in the compressed pixels of a PNG file."""
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 4
    path.write_bytes(data)


def plant(mine: Path) -> dict[tuple[str, str, str], int | None]:
    """Break a tree in every way there is; returns what has to be found."""
    base = mine / "source"
    image = [base / "images" / "train" / f"{k:02d}.png" for k in range(16)]
    mask = [base / "masks" / "train" / f"{k:02d}.png" for k in range(16)]
    image[0].write_bytes(image[0].read_bytes()[:-200])
    mask[1].write_bytes(mask[1].read_bytes()[:-30])
    image[2].write_bytes(b"")
    image[3].write_text("a note")
    write(image[4], photo(4, (80, 80)))
    mask[5].unlink()
    write(mask[6], ids(6, (16, 64)))
    label_ids = ids(7) % 19
    label_ids[5, 5:9] = 33
    write(mask[7], label_ids)
    write(mask[8], photo(8))
    write(mask[9], np.zeros(SIZE, np.uint8))
    write(mask[10], np.full(SIZE, IGNORE, np.uint8))
    outside = mask[11].rename(mine.parent / "elsewhere.png")
    mask[11].symlink_to(outside)
    flip(image[12])
    flip(mask[13])
    shutil.copy(image[14], image[15])
    shutil.copy(image[14], base / "images" / "val" / "01.png")
    shutil.rmtree(mine / "target" / "images" / "train")
    link = mine / "target" / "images" / "val" / "02.png"
    link.symlink_to(outside)
    found = {
        ("truncated or damaged", "images/train/00.png"): None,
        ("truncated or damaged", "masks/train/01.png"): None,
        ("empty file", "images/train/02.png"): None,
        ("no image", "images/train/03.png"): None,
        ("too large", "images/train/04.png"): None,
        ("no label file", "masks/train/05.png"): None,
        ("sizes differ", "masks/train/06.png"): None,
        ("ids out of range", "masks/train/07.png"): 4,
        ("unknown colours", "masks/train/08.png"): 32 * 64,
        ("one class only", "masks/train/09.png"): 32 * 64,
        ("void only", "masks/train/10.png"): 32 * 64,
        ("link out of the root", "masks/train/11.png"): None,
        ("truncated or damaged", "images/train/12.png"): None,
        ("truncated or damaged", "masks/train/13.png"): None,
        ("same picture twice", "images/train/15.png"): None,
    }
    return {
        **{("source_train", *key): pixels for key, pixels in found.items()},
        ("source_eval", "same picture twice", "images/val/01.png"): None,
        ("target_train", "set cannot be opened", ""): None,
        ("target_eval", "link out of the root", "mine/target/images/val/02.png"): None,
    }


def test_every_fault_is_found_in_one_run(cli: Cli, mine: Path, cache: Path) -> None:
    planted = plant(mine)
    before = state(mine)
    done = cli("sfseg-data", "check", *FOLDER, "data.limits.max_pixels=4000")
    assert done.code == 3 and "Traceback" not in done.output
    assert findings(done) == planted
    assert len({kind for _, kind, _ in planted}) == 13
    assert state(mine) == before
    for _, kind, file in planted:
        assert kind in done.output
        assert file.rpartition("/")[2] in done.output or kind == "truncated or damaged"
    for words in (
        "fault in source train, 4 x truncated or damaged",
        "suspicion in source train, 1 x one class only",
        "all 2048 pixels of its label are road",
        "these look like Cityscapes labelIds where trainIds are expected",
        "01.png is the same picture as source train: images/train/14.png",
        "target/images/train does not exist; point data.target_root at the data",
        "the data have faults (14)",
    ):
        assert words in done.output, words
    sets = report(done)["sets"]
    assert sets["source_train"]["scenes"] == 16 and sets["source_train"]["sizes"] == {"64x32": 11}
    assert sets["target_eval"]["scenes"] == 0
    # Only the counts of a set without faults are worth keeping.
    assert len(list(cache.rglob("*.npz"))) == 1
    assert "same picture" in json.dumps(sets["source_eval"]["suspicions"])


def test_oddities_alone_are_no_failure(cli: Cli, mine: Path) -> None:
    write(mine / "source" / "masks" / "train" / "03.png", np.zeros(SIZE, np.uint8))
    done = cli("sfseg-data", "check", *FOLDER)
    assert done.code == 0
    assert list(findings(done)) == [("source_train", "one class only", "masks/train/03.png")]


def test_labels_void_everywhere_are_a_fault(cli: Cli, mine: Path) -> None:
    for path in (mine / "target" / "masks" / "val").iterdir():
        write(path, np.full(SIZE, IGNORE, np.uint8))
    done = cli("sfseg-data", "check", *FOLDER)
    assert done.code == 3 and "void set" in done.output
    assert len(findings(done)) == 3


def test_a_sample_is_read_and_nothing_is_kept(cli: Cli, mine: Path, cache: Path) -> None:
    (mine / "source" / "images" / "train" / "01.png").write_bytes(b"")
    done = cli("sfseg-data", "check", *FOLDER, "samples=2")
    assert done.code == 0
    sets = report(done)["sets"]
    assert [values["read"] for values in sets.values()] == [2, 2, 2, 2]
    assert "16, 2 read" in done.output
    # The last set has no more than two scenes: it was read whole.
    assert len(list(cache.rglob("*.npz"))) == 1


def test_many_files_of_one_kind_are_cut_short_on_the_terminal_only(cli: Cli, mine: Path) -> None:
    for path in (mine / "source" / "masks" / "train").iterdir():
        path.write_bytes(b"")
    done = cli("sfseg-data", "check", *FOLDER)
    assert "16 x empty file" in done.output and "and 11 more" in done.output
    assert len(findings(done)) == 16


def test_names_that_are_no_text_are_shown(cli: Cli, mine: Path) -> None:
    folder = mine / "source" / "masks" / "train"
    name = b"\xff.png".decode(errors="surrogateescape")
    (mine / "source" / "images" / "train" / "00.png").rename(
        folder.parents[1] / "images/train" / name
    )
    (folder / "00.png").rename(folder / name)
    (folder / name).write_bytes(b"")
    done = cli("sfseg-data", "check", *FOLDER)
    assert done.code == 3 and "udcff.png is empty" in done.output, done.output


def street(root: Path, split: str, count: int, known: list[int]) -> None:
    """Images of Cityscapes with labels of these ids."""
    for k in range(count):
        write(root / f"leftImg8bit/{split}/a/a_{k}_leftImg8bit.png", photo(10 * len(split) + k))
        stored = np.array(known, np.uint8)[ids(k) % len(known)]
        stored[0, 0] = known[-1]
        write(root / f"gtFine/{split}/a/a_{k}_gtFine_labelIds.png", stored)


def test_a_published_data_set(cli: Cli, tmp_path: Path) -> None:
    street(tmp_path / "cityscapes", "train", 3, list(range(34)))
    street(tmp_path / "cityscapes", "val", 2, [*range(19), IGNORE])
    color = tmp_path / "cityscapes/gtFine/train/a/a_1_gtFine_labelIds.png"
    write(color, photo(3))
    done = cli("sfseg-data", "check", "data=gta5_to_cityscapes", f"data.root={tmp_path}")
    assert done.code == 3
    found = findings(done)
    labels = [f"gtFine/val/a/a_{k}_gtFine_labelIds.png" for k in range(2)]
    assert list(found) == [
        ("source_train", "set cannot be opened", ""),
        ("target_train", "colours for ids", str(color.relative_to(tmp_path / "cityscapes"))),
        ("target_train", "class in no label", ""),
        ("target_train", "mostly void", ""),
        ("target_train", "fewer images than published", ""),
        *(("target_eval", "ids out of range", label) for label in labels),
        ("target_eval", "fewer images than published", ""),
    ]
    assert found["target_train", "colours for ids", list(found)[1][2]] == 32 * 64
    assert "these look like Cityscapes trainIds where labelIds are expected" in done.output
    assert "3 of 2975 images as published" in done.output
    assert "3 of 2,975" in done.output and "point data.gta5_root at the data" in done.output


SMALL = [
    "data.size=[64,128]",
    *(f"data.scenes.{s}_{p}.length=2" for s in ("source", "target") for p in ("train", "eval")),
]


def test_drawn_scenes_are_checked_and_not_kept(cli: Cli, cache: Path) -> None:
    done = cli("sfseg-data", "check", *SMALL)
    assert done.code == 0 and not findings(done), done.output
    assert not cache.exists()


def test_a_cache_that_takes_nothing_is_no_failure(cli: Cli, mine: Path, cache: Path) -> None:
    cache.write_text("in the way")
    done = cli("sfseg-data", "check", *FOLDER)
    assert done.code == 0 and "class counts cannot be kept" in done.output


def drawn(done: Done) -> np.ndarray:
    path = done.run / "preview.png"
    assert str(path) in done.output
    return cv2.imread(str(path))[..., ::-1]


def test_preview_draws_all_sets(cli: Cli, mine: Path) -> None:
    before = state(mine)
    done = cli("sfseg-data", "preview", *FOLDER, "images=2", "opacity=1")
    assert done.code == 0, done.output
    picture = drawn(done)
    # A title, four rows of a caption and tiles of 240x480, and a legend of two lines.
    assert picture.shape == (22 + 4 * (22 + 240) + 2 * 22, 4 * TILE, 3)
    for column, (name, k) in enumerate((("source", 15), ("target", 2))):
        left = 2 * TILE * column
        row = picture[22 + 262 + 22 :][:240, left : left + 2 * TILE]
        number = 0 if name == "source" else 200
        image = cv2.resize(photo(number + k), (480, 240))[..., ::-1]
        assert np.abs(row[:, :480].astype(int) - image).mean() < 2
        label = cv2.resize(ids(number + k), (480, 240), interpolation=cv2.INTER_NEAREST)
        colours = np.array(CITYSCAPES.palette, np.uint8)[np.minimum(label, 18)]
        same = (row[:, 480:] == colours).all(axis=2)
        assert same[label != IGNORE].mean() > 0.95
    assert state(mine) == before


def test_preview_keeps_the_shape_of_images(cli: Cli, mine: Path) -> None:
    write(mine / "target" / "images" / "train" / "00.png", np.full((90, 60, 3), 200, np.uint8))
    shutil.rmtree(mine / "target" / "masks")
    done = cli("sfseg-data", "preview", *FOLDER, "images=1")
    assert done.code == 0, done.output
    picture = drawn(done)
    tile = picture[44 : 44 + HEIGHT, 2 * TILE : 3 * TILE]
    bright = (tile > 150).all(axis=2)
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    assert len(rows) == HEIGHT and len(columns) == 240
    assert abs(columns[0] + columns[-1] - (TILE - 1)) <= 1


def test_preview_of_images_flatter_than_a_note(cli: Cli, mine: Path) -> None:
    for path in (mine / "target" / "images" / "train").iterdir():
        write(path, np.full((8, 480, 3), 200, np.uint8))
    for part in ("source", "target/images/val"):
        shutil.rmtree(mine / part)
    done = cli("sfseg-data", "preview", *FOLDER, "images=1")
    assert done.code == 0, done.output
    assert drawn(done).shape[1] == 2 * TILE


def test_preview_of_broken_sets_draws_the_rest(cli: Cli, mine: Path) -> None:
    (mine / "source" / "images" / "train" / "00.png").write_bytes(b"")
    write(mine / "target" / "masks" / "train" / "00.png", np.full(SIZE, 40, np.uint8))
    shutil.rmtree(mine / "source" / "images" / "val")
    done = cli("sfseg-data", "preview", *FOLDER)
    assert done.code == 0, done.output
    assert "00.png is empty" in done.output and "40" in done.output
    assert "the source eval set cannot be drawn" in done.output
    assert drawn(done).shape[1] == 4 * TILE


def test_preview_of_the_target_alone(cli: Cli, mine: Path) -> None:
    done = cli(
        "sfseg-data", "preview", *FOLDER, "data.scenes.source_train=null",
        "data.scenes.source_eval=null",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert drawn(done).shape[1] == 2 * TILE


def test_preview_of_nothing_is_a_failure(cli: Cli) -> None:
    done = cli("sfseg-data", "preview", *FOLDER)
    assert done.code == 3 and "no scene could be drawn" in done.output
    assert not list(done.folder.rglob("preview.png"))


def test_preview_of_drawn_scenes(cli: Cli) -> None:
    done = cli("sfseg-data", "preview", *SMALL, "images=3")
    assert done.code == 0, done.output
    assert drawn(done).shape == (22 + 4 * 262 + 2 * 22, 4 * TILE, 3)


@pytest.mark.parametrize("arguments", [[], ["chekc"], ["data=folder"], ["check=1"]])
def test_an_unknown_task_gets_the_usage(cli: Cli, arguments: list[str]) -> None:
    done = cli("sfseg-data", *arguments)
    assert done.code == 2 and done.output.startswith("usage: sfseg-data check|preview")
    assert not (done.folder / "logs").exists()


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_is_no_failure(cli: Cli, word: str) -> None:
    done = cli("sfseg-data", word)
    assert done.code == 0 and "preview" in done.output


@pytest.mark.parametrize("task", ["check", "preview"])
def test_help_of_a_task_lists_its_settings(cli: Cli, task: str) -> None:
    done = cli("sfseg-data", task, "--help")
    assert done.code == 0 and f"task_name: {task}" in done.output


@pytest.mark.parametrize("task", ["check", "preview"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data=nothing"], "Could not find 'data/nothing'"),
        (["data=folder"], "data.root"),
        (["data=folder", "data.root=mine"], "classes.yaml"),
        (["data.sice=1"], "data.sice"),
        ([*SMALL, "data.scenes.source_eval.split=tset"], "data.scenes.source_eval: split must be"),
        ([*SMALL, "data.classes=camvid"], "19 classes (cityscapes), the task 11 (camvid)"),
        (["seed"], "seed"),
    ],
)
def test_settings_that_cannot_work(cli: Cli, task: str, arguments: list[str], words: str) -> None:
    done = cli("sfseg-data", task, *arguments)
    assert done.code == 2, done.output
    assert words in done.output and "Traceback" not in done.output
    assert not list(done.folder.rglob("run.json"))


@pytest.mark.parametrize(
    ("task", "setting"),
    [
        ("check", "samples=0"),
        ("check", "samples=x"),
        ("preview", "images=0"),
        ("preview", "images=null"),
    ],
)
def test_numbers_must_be_positive(cli: Cli, task: str, setting: str) -> None:
    done = cli("sfseg-data", task, setting)
    assert done.code == 2
    assert f"{setting.partition('=')[0]} must be a whole number of at least 1" in done.output


def test_the_record_holds_the_whole_command(cli: Cli) -> None:
    done = cli("sfseg-data", "check", *SMALL)
    record = json.loads((done.run / "run.json").read_text())
    assert record["command"] == ["sfseg-data", "check", *SMALL]
    assert done.run.parts[-4:-1] == ("logs", "check", "runs")
    resolved = yaml.safe_load((done.run / ".hydra" / "resolved.yaml").read_text())
    assert resolved["data"]["scenes"]["source_train"]["length"] == 2


def test_a_check_draws_the_first_pictures_with_their_masks(cli: Cli, mine: Path) -> None:
    (mine / "source" / "images" / "train" / "01.png").write_bytes(b"")
    shutil.rmtree(mine / "target" / "images" / "val")
    done = cli("sfseg-data", "check", *FOLDER)
    assert done.code == 3 and str(done.run / "check.png") in done.output
    picture = cv2.imread(str(done.run / "check.png"))[..., ::-1]
    assert picture.shape[1] == 4 * TILE
    rows = [picture[44 + 262 * k :][:240] for k in range(3)]
    for k, row in enumerate(rows):
        image = cv2.resize(photo(k), (480, 240))[..., ::-1]
        # The broken one is marked and costs nothing but its own place.
        assert (np.abs(row[:, :480].astype(int) - image).mean() < 2) == (k != 1)
        target = cv2.resize(photo(200 + k), (480, 240))[..., ::-1]
        assert np.abs(row[:, 960:1440].astype(int) - target).mean() < 2


def test_a_target_without_a_source_is_checked_alone(cli: Cli, mine: Path) -> None:
    shutil.rmtree(mine / "source")
    done = cli("sfseg-data", "check", *FOLDER)
    assert done.code == 0 and "suspicion in source train, 1 x set cannot be opened" in done.output
    alone = cli("sfseg-data", "check", *FOLDER, "with_source=false", "task_name=alone")
    assert alone.code == 0 and "source train" not in alone.output
    wanted = cli("sfseg-data", "check", *FOLDER, "with_source=true", "task_name=wanted")
    assert wanted.code == 3 and "point data.source_root at the data" in wanted.output


def test_a_file_list_as_a_shell_hands_it_over(cli: Cli, mine: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        folder = mine / "target" / "images" / split
        (folder / "00.png").rename(folder / "a street.png")
        masks = mine / "target" / "masks" / split
        (masks / "00.png").rename(masks / "its mask.png")
        lines = [f"images/{split}/a street.png masks/{split}/its mask.png"]
        lines += [f"{folder}/{k:02d}.png" for k in range(1, count)]
        (mine / "target" / f"{split}.txt").write_text("\n".join(lines))
    done = cli("sfseg-data", "check", *FOLDER, "data.target_list={split}.txt")
    assert done.code == 0, done.output
    found = report(done)["sets"]
    assert [found[f"target_{part}"]["scenes"] for part in ("train", "eval")] == [3, 2]
    assert found["target_train"]["labelled"] and not findings(done)


@pytest.mark.parametrize(
    "command",
    [
        "sfseg-train",
        "sfseg-eval",
        "sfseg-predict",
        "sfseg-data",
        "sfseg-generate",
        "sfseg-export",
        "sfseg-convert",
    ],
)
def test_every_command_says_its_version(cli: Cli, command: str) -> None:
    from sfseg import __version__

    done = cli(command, "--version")
    assert done.code == 0 and done.output == f"sfseg {__version__}\n"


@pytest.mark.parametrize(
    ("words", "has", "lacks"),
    [
        (["sfseg-train"], ["method/optimizer: ", "backbone: ", "sfseg-train -m"], ["sfseg-eval "]),
        (["sfseg-eval"], ["evaluation: ", "data: ", "sfseg-eval c"], ["method: ", "sfseg-train"]),
        (["sfseg-predict"], ["evaluation: ", "sfseg-predict"], ["data: cam", "sfseg-data"]),
        (["sfseg-generate", "personalise"], ["logger: ", "personalise i"], ["method: ", "sfseg-d"]),
        (["sfseg-data", "check"], ["data: ", "sfseg-data check"], ["method: ", "data preview"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_help_lists_what_applies(
    cli: Cli, words: list[str], has: list[str], lacks: list[str]
) -> None:
    done = cli(*words, "--help")
    assert done.code == 0
    head = done.output.partition("== Configuration ==")[0]
    assert all(word in head for word in has), head
    assert not any(word in head for word in lacks), head


def test_a_reader_that_has_enough_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ends = os.pipe()
    os.close(ends[0])
    with os.fdopen(ends[1], "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        tell("a long help\n" * 99)
