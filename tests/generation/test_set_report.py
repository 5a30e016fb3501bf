"""``sfseg-generate report``: what is found of a set, and the page that says it."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Cli

from sfseg.errors import ConfigError, DataError
from sfseg.generation import image_distances
from sfseg.generation.image_distances import Pictures, checked_weights
from sfseg.generation.near_duplicates import SIDE, near_duplicates, thumbnail
from sfseg.generation.set_report import Set, class_shares, look_at, open_set
from sfseg.report.html import comparison, page, paragraph

SIZE = (32, 32)


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Patches of random colours."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(patches, size[::-1], interpolation=cv2.INTER_NEAREST))


def store(folder: Path, images: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for name, image in images.items():
        store_one(folder / name, image)
    return folder


def store_one(path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Five generated images, one twice, one of the target, one black; and the target."""
    noisy = np.clip(picture(0).astype(int) + 4, 0, 255).astype(np.uint8)
    target = {f"t{k}.png": picture(50 + k, (32, 64)) for k in range(3)}
    own = {
        "im_0_p0.png": picture(0), "im_1_p1.png": picture(1), "im_2_p0.png": noisy,
        "im_3_p1.png": target["t1.png"][:, 16:48], "im_4_p0.png": np.full((32, 32, 3), 7, np.uint8),
    }  # fmt: skip
    made = store(tmp_path / "made", own)
    images = [{"file": name, "prompt": f"<{name}>"} for name in own]
    record = {"model": "tiny & small", "licence": "mit", "prompts": ["a", "b"], "images": images}
    (made / "manifest.json").write_text(json.dumps(record))
    return made, store(tmp_path / "target", target)


def opened(folders: tuple[Path, Path]) -> tuple[Set, Set]:
    own, target = folders
    return open_set([str(own)], "images"), open_set([str(target)], "target")


def test_duplicates_copies_and_black_images_are_found(sets: tuple[Path, Path]) -> None:
    found = look_at(*opened(sets))
    assert (len(found.generated), found.generated.black) == (4, 1)
    assert [pair[:2] for pair in found.twins] == [(0, 2)]
    assert 0 < found.twins[0].difference <= 4
    # The photograph is twice as wide: its middle is what was copied.
    assert [pair[:2] for pair in found.copies] == [(3, 1)]
    assert found.copies[0].difference == 0
    assert found.sizes == {"32x32": 4} and found.size == SIZE


def test_the_page_has_all_sections_and_needs_nothing_else(
    cli: Cli, sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_distances, "can_measure", lambda: False)
    done = cli("sfseg-generate", "report", "images=made", "target=target", "out=page.html")
    assert done.code == 0, done.output
    assert "4 images, near-duplicates: 1 pairs, copies of the target: 1" in done.output
    text = (done.folder / "page.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", text) == [
        "The set", "Some of its images", "Some of the target&#x27;s", "Distance to the target",
        "Classes, as a segmenter sees them", "Near-duplicates", "Copies of the target",
    ]  # fmt: skip
    assert "pip install torch-fidelity" in text and "tiny &amp; small" in text
    assert "im_2_p0.png" in text and "&lt;im_0_p0.png&gt;" in text
    assert "<td>black images left out</td><td>1</td>" in text
    sources = re.findall('src="(.*?)"', text)
    assert len(sources) == 4 + 3 + 2 + 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search("https?://", text)


def test_bad_places_are_refused(cli: Cli, sets: tuple[Path, Path]) -> None:
    words = ("sfseg-generate", "report", "images=made", "target=target")
    (sets[0].parent / "other.html").write_text("<!DOCTYPE html>\n<p>mine</p>")
    for word, code, message in (
        ("target=nowhere", 3, "target=nowhere does not exist"),
        ("target=[target/t0.png,none*.png]", 3, "target=none*.png holds no image files"),
        ("out=made", 2, "name the page, such as made/report.html"),
        ("out=target/t0.png", 2, "must end in .html; name the page, such as target/t0.html"),
        ("out=other.html", 2, "out=other.html is there and no page of sfseg"),
        ("segmenter=none.ckpt", 2, "none.ckpt"),
        ("samples=0", 2, "samples must be a whole number of at least 1"),
        ("value_range=wide", 2, "value_range"),
    ):
        done = cli(*words, "out=page.html", "distances=false", word)
        assert done.code == code and message in done.output, done.output
    for path in sets[0].glob("*.png"):
        if path.name != "im_4_p0.png":
            path.unlink()
    with pytest.raises(DataError, match=r"all 1 images are black; .*safety_checker=false"):
        look_at(*opened(sets))
    for name in ("t0.png", "t2.png"):
        (sets[1] / name).write_text("no picture")
    store_one(sets[0] / "im_4_p0.png", picture(1))
    message = r"target: 2 of 3 images cannot be read.* out of the folder:\n.*t0.png.*\n.*t2.png"
    with pytest.raises(DataError, match=message):
        look_at(*opened(sets))


def test_the_target_may_be_one_file_a_pattern_or_a_list(cli: Cli, sets: tuple[Path, Path]) -> None:
    file = str(sets[1] / "t1.png")
    one = open_set([file], "target")
    assert (len(one), one.name(0)) == (1, "t1.png")
    assert [pair[:2] for pair in look_at(opened(sets)[0], one).copies] == [(3, 0)]
    several = open_set([file, f"{sets[1]}/t*.png", f"{sets[0]}/im_1_*.png"], "target")
    names = ["target/t1.png", "target/t0.png", "target/t2.png", "made/im_1_p1.png"]
    assert [several.name(k) for k in range(len(several))] == names
    words = ("images=made", "target=target/t1.png", "out=page.html", "distances=false")
    for _ in range(2):  # the second replaces the report of the first
        done = cli("sfseg-generate", "report", *words)
        assert done.code == 0 and "copies of the target: 1" in done.output, done.output


def test_near_duplicates_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (600, 3 * SIDE * SIDE)).astype(np.float32)
    images[599] = images[3] + 7.0
    images[2] = images[520] + 3.0
    images[7] = images[9] + 8.5  # beyond
    pairs = near_duplicates(images)
    assert [pair[:2] for pair in pairs] == [(2, 520), (3, 599)]
    assert [round(pair.difference, 3) for pair in pairs] == [3, 7]
    assert near_duplicates(images[:10], images[5:15])[0][:2] == (5, 0)


def test_a_thumbnail_is_the_means_of_areas() -> None:
    image = picture(0, (64, 32))
    expected = image.reshape(SIDE, 4, SIDE, 2, 3).mean(axis=(1, 3))
    assert np.abs(thumbnail(image) - expected.ravel()).max() <= 0.5


def test_class_shares_are_of_all_pixels(sets: tuple[Path, Path]) -> None:
    _, images = opened(sets)

    def predict(image: np.ndarray, path: Path) -> tuple[np.ndarray, ...]:
        label = np.zeros(image.shape[:2], np.uint8)
        label[: 8 * int(path.stem[1])] = 1
        return (label,)

    def count(label: np.ndarray) -> np.ndarray:
        return np.bincount(label.ravel(), minlength=3)

    assert class_shares(predict, count, images, None) == pytest.approx([0.75, 0.25, 0])
    assert class_shares(predict, count, images, 1) == pytest.approx([1, 0, 0])


def test_pictures_come_as_a_network_of_features_wants_them(sets: tuple[Path, Path]) -> None:
    one = Set([sets[1] / "t0.png"], sets[1])
    tensor = next(iter(Pictures(lambda k: one.cut(k, (16, 8)), 1)))
    assert tensor.shape == (3, 16, 8)


def test_weights_that_could_run_code_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_text("no weights")
    with pytest.raises(ConfigError, match="nothing in it was executed"):
        checked_weights(file)


def test_text_of_a_page_is_no_markup() -> None:
    text = page("<a>", [("b & c", paragraph("<script>"))])
    assert "<script>" not in text and "<h1>&lt;a&gt;</h1>" in text and "b &amp; c" in text
    bars = comparison(["class"], ("one", "two"), [(["<car>"], 0.5, 1.0)])
    assert "&lt;car&gt;" in bars and 'width="50.00"' in bars and 'width="100.00"' in bars
