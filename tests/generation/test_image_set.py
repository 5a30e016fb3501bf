"""Sets of images whose model is a function: what is written, kept, shared and gone on with."""

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sfseg.errors import ConfigError, DataError, OutputError
from sfseg.generation import image_set
from sfseg.generation.image_set import ImageSet, read_manifest
from sfseg.generation.making import make_images
from sfseg.generation.plan import Plan, shard_of

PROMPTS = ["cars", "buses", "persons"]


class Drawn:
    """Stands for a model: noise of a seed; its rounding depends on the batch, as a model's does.

    black: seeds of which images are nearly black.
    dies_at: a seed at which the process is killed.
    """

    def __init__(self, black: Sequence[int] = (), dies_at: int | None = None) -> None:
        self.black = set(black)
        self.dies_at = dies_at
        self.asked: list[int] = []

    def images(self, _: object, prompts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        made = []
        for seed, prompt in zip(seeds, prompts, strict=True):
            if seed == self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(seed)
            image = np.random.default_rng([seed, len(prompt), *seeds]).integers(0, 256, (8, 8, 3))
            made.append((image % 8 if seed in self.black else image).astype(np.uint8))
        return made


def opened(folder: Path, record: dict[str, Any] | None = None, **plan: Any) -> ImageSet:
    settings = {"prompts": PROMPTS, "n_images": 11, "seed": 5, "batch_size": 4, **plan}
    return ImageSet(folder, Plan(**settings), record or {"model": "m"}, ["model"], (8, 8))


def made(folder: Path, drawn: Drawn | None = None, **plan: Any) -> dict[str, bytes]:
    make_images(None, drawn or Drawn(), opened(folder, **plan))  # type: ignore[arg-type]
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_names_prompts_and_seeds_follow_from_the_number(tmp_path: Path) -> None:
    found = made(tmp_path)
    assert set(found) == {f"im_{j}_p{j % 3}.png" for j in range(11)} | {"manifest.json"}
    manifest = read_manifest(tmp_path)
    assert manifest is not None and manifest["model"] == "m"
    assert manifest["images"] == [
        {"file": f"im_{j}_p{j % 3}.png", "prompt": PROMPTS[j % 3], "seed": 5 + j} for j in range(11)
    ]
    expected = Drawn().images(None, PROMPTS + PROMPTS[:1], [5, 6, 7, 8])[1]
    stored = cv2.imdecode(np.frombuffer(found["im_1_p1.png"], np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(stored, expected)


@pytest.mark.parametrize("shares", [2, 3, 7])
def test_shares_together_are_the_whole(tmp_path: Path, shares: int) -> None:
    whole = made(tmp_path / "whole", Drawn(black=[7]))
    for share in reversed(range(shares)):  # more shares than batches too
        made(tmp_path / "shared", Drawn(black=[7]), shard=(share, shares))
    assert files(tmp_path / "shared") == whole


@pytest.mark.parametrize("dies_at", [5, 10, 15])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, dies_at: int) -> None:
    whole = made(tmp_path / "whole", Drawn(black=[6]))
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "killed", Drawn(black=[6], dies_at=dies_at))
    for name in ("im_10_p1.png", "im_2_p2.png"):  # what a kill in the middle of one leaves
        (tmp_path / "killed" / f".{name}.0123abcd.partial").write_bytes(b"a part")
    # As if the kill had come between two images of a batch.
    for path in (tmp_path / "killed").glob("im_0_*"):
        path.unlink()
    assert made(tmp_path / "killed", Drawn(black=[6])) == whole


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    made(tmp_path, Drawn(black=[6]))
    again = Drawn(black=[6])
    made(tmp_path, again)
    assert again.asked == []
    more = Drawn()
    made(tmp_path, more, n_images=14)
    assert more.asked == [13, 14, 15, 16, 17, 18]  # batches whole, of which 13 to 15 are there
    made(tmp_path, n_images=2)
    manifest = read_manifest(tmp_path)
    assert manifest is not None and len(manifest["images"]) == 14


def test_black_images_are_dropped_and_recorded(tmp_path: Path) -> None:
    found = made(tmp_path, Drawn(black=[6, 9]))
    assert "im_1_p1.png" not in found and found["im_1_p1.black"] == b""
    manifest = json.loads(found["manifest.json"])
    assert manifest["black"] == 2
    dropped = {entry["file"] for entry in manifest["images"] if entry.get("dropped") == "black"}
    assert dropped == {"im_1_p1.png", "im_4_p1.png"}


def test_nothing_but_black_is_an_error_each_time(tmp_path: Path) -> None:
    always = Drawn(black=range(1000))
    with pytest.raises(DataError, match=r"all 16 images are black.* set safety_checker=false"):
        made(tmp_path / "many", always, n_images=100)
    assert len(always.asked) == 16  # not all hundred
    for _ in range(2):
        with pytest.raises(DataError, match="all 11 images are black"):
            made(tmp_path / "few", always)
    made(tmp_path / "one", Drawn(), n_images=10)
    made(tmp_path / "one", always, n_images=11)  # the last one alone is black


def test_a_full_disk_leaves_no_part_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, write = made(tmp_path / "whole"), image_set.write_whole

    def full(path: Path, content: Any) -> None:
        def part(file: Any) -> None:
            content(file)
            if path.name.startswith("im_6"):
                raise OSError(errno.ENOSPC, "No space left on device")

        write(path, part)

    monkeypatch.setattr(image_set, "write_whole", full)
    with pytest.raises(OutputError, match=r"im_6_p0.png cannot be written: No space left.* again"):
        made(tmp_path / "full")
    assert set(files(tmp_path / "full")) == {
        *(f"im_{j}_p{j % 3}.png" for j in range(6)), "manifest.json"
    }  # fmt: skip
    monkeypatch.undo()
    assert made(tmp_path / "full") == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "another seed, 5, not 6; choose another folder"),
        ({"prompts": ["cars"]}, "another prompts"),
        ({"record": {"model": "n"}}, "another model, 'm', not 'n'"),
    ],
)
def test_a_folder_holds_one_set(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    opened(tmp_path)
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path, **change)


def test_strange_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "im_0_p0.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"such as im_0_p0\.png, but no manifest"):
        opened(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text("[]")
    with pytest.raises(ConfigError, match="it lists no images"):
        opened(tmp_path / "b")
    (tmp_path / "c").write_text("a file")
    for place in ("c", "c/set"):
        with pytest.raises(ConfigError, match=r"out=.* is a file; choose another"):
            opened(tmp_path / place)


@pytest.mark.parametrize("name", ["shot.jpg", "deep/a.png", "im_11_p2.png", "im_0_p1.png"])
def test_other_images_beside_the_set_are_refused(tmp_path: Path, name: str) -> None:
    made(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    message = rf"images that are not of the set, such as {name} \(1 in all\)"
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path)


def test_damaged_images_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = made(tmp_path)
    (tmp_path / "im_0_p0.png").write_bytes(b"")
    (tmp_path / "im_5_p2.png").write_bytes(whole["im_5_p2.png"][:-1])
    cv2.imwrite(str(tmp_path / "im_9_p0.png"), np.zeros((8, 9, 3), np.uint8))
    with caplog.at_level("WARNING"):
        assert made(tmp_path) == whole
    assert "damaged images, which are made again: 3, such as im_0_p0.png" in caplog.text


def test_the_record_is_that_of_the_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def device(name: str, **plan: Any) -> Any:
        images = opened(tmp_path, {"model": "m", "device": name}, **plan)
        make_images(None, Drawn(), images)  # type: ignore[arg-type]
        return json.loads((tmp_path / "manifest.json").read_text())["device"]

    assert device("cuda") == "cuda"
    with caplog.at_level("INFO"):
        assert device("cpu", n_images=4) == "cuda"
    assert "now another device" in caplog.text
    assert "images beyond n_images=4 that stay: 7; training takes all" in caplog.text
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_images": 0}, "n_images must be a whole number of at least 1, got 0"),
        ({"n_images": True}, "n_images must be a whole number of at least 1, got True"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"seed": 2**63}, "seed must be below"),
        ({"n_images": 2.5}, "n_images must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"shard": (2, 2)}, "shard=2/2 must be"),
    ],
)
def test_plans_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(**{"prompts": PROMPTS, "n_images": 3, **settings})


def test_a_share_comes_from_the_setting_or_the_launcher() -> None:
    assert shard_of(None, {}) == (0, 1)
    assert shard_of(None, {"RANK": "1", "WORLD_SIZE": "4"}) == (1, 4)
    assert shard_of("2/3", {"RANK": "1", "WORLD_SIZE": "4"}) == (2, 3)
    with pytest.raises(ConfigError, match="shard=1 must be <share>/<number of shares>"):
        shard_of("1", {})
