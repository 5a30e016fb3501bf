"""Bad input ends before training, with one message and an exit code, and harms nothing."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import DEBUG, Cli
from huggingface_hub import constants as hub
from test_train import equal, weights

CLASSES = "classes: [road, car, sky]\n"
FOLDER = [
    "data=folder", "data.root=mine", "data.source_view.crop=[32,32]", "data.num_workers=0",
    "data.batch_size=2", "trainer=debug", "trainer.precision=32-true",
    "trainer.detect_anomaly=false", "~callbacks.panels",
]  # fmt: skip


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's folder: three images of each domain and split, with masks."""
    rng = np.random.default_rng(0)
    for domain in ("source", "target"):
        for split in ("train", "val"):
            for kind in ("images", "masks"):
                (tmp_path / "mine" / domain / kind / split).mkdir(parents=True)
            for i in range(3):
                image = rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)
                mask = rng.integers(0, 3, (40, 56), dtype=np.uint8)
                base = tmp_path / "mine" / domain
                cv2.imwrite(str(base / "images" / split / f"{i}.png"), image)
                cv2.imwrite(str(base / "masks" / split / f"{i}.png"), mask)
    (tmp_path / "mine" / "classes.yaml").write_text(CLASSES)
    return tmp_path / "mine"


def test_own_folder_trains(cli: Cli, mine: Path) -> None:
    done = cli("sfseg-train", *FOLDER)
    assert done.code == 0, done.output


def test_a_cache_changes_no_weight(cli: Cli, mine: Path) -> None:
    for cache in ("none", "memmap"):
        done = cli("sfseg-train", *FOLDER, f"data.cache={cache}", f"hydra.run.dir={cache}")
        assert done.code == 0, done.output
    assert "cache" in done.output
    assert equal(*(weights(done.folder / cache) for cache in ("none", "memmap")))


def test_a_batch_may_be_larger_than_the_set(cli: Cli, mine: Path) -> None:
    done = cli("sfseg-train", *FOLDER, "data.batch_size=8")
    assert done.code == 0, done.output


def test_target_needs_no_masks(cli: Cli, mine: Path) -> None:
    shutil.rmtree(mine / "target" / "masks")
    done = cli("sfseg-train", *FOLDER)
    assert done.code == 0 and "not scored" in done.output


def missing_root(mine: Path) -> list[str]:
    return ["data.source_root=nowhere"]


def empty_split(mine: Path) -> list[str]:
    for path in (mine / "source" / "images" / "train").iterdir():
        path.unlink()
    return []


def truncated_image(mine: Path) -> list[str]:
    path = mine / "source" / "images" / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:900])
    return []


def label_of_another_size(mine: Path) -> list[str]:
    mask = np.zeros((20, 56), np.uint8)
    cv2.imwrite(str(mine / "source" / "masks" / "train" / "2.png"), mask)
    return []


def id_out_of_range(mine: Path) -> list[str]:
    mask = np.zeros((40, 56), np.uint8)
    mask[0, :5] = 7
    cv2.imwrite(str(mine / "source" / "masks" / "train" / "0.png"), mask)
    return []


def all_void(mine: Path) -> list[str]:
    for path in (mine / "source" / "masks" / "train").iterdir():
        cv2.imwrite(str(path), np.full((40, 56), 255, np.uint8))
    return []


def missing_mask(mine: Path) -> list[str]:
    (mine / "source" / "masks" / "train" / "1.png").unlink()
    return []


def no_classes_file(mine: Path) -> list[str]:
    (mine / "classes.yaml").unlink()
    return []


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (missing_root, 3, ["nowhere", "data.source_root"]),
        (empty_split, 3, ["source train", "empty"]),
        (truncated_image, 3, ["images/train/1.png", "truncated"]),
        (label_of_another_size, 3, ["2.png", "56x40", "56x20"]),
        (id_out_of_range, 3, ["masks/train/0.png", "5 pixels", "7"]),
        (all_void, 3, ["source train", "void"]),
        (missing_mask, 3, ["source train", "images/train/1.png", "no label file"]),
        (no_classes_file, 2, ["classes.yaml"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_folder(cli: Cli, mine: Path, fault, code: int, words: list[str]) -> None:
    done = cli("sfseg-train", *FOLDER, *fault(mine))
    assert done.code == code, done.output
    assert "Traceback" not in done.output
    assert all(word in done.output for word in words), done.output
    assert not list(done.folder.rglob("*.ckpt"))


def test_a_file_that_breaks_in_a_loader_process_is_named(cli: Cli, mine: Path) -> None:
    truncated_image(mine)
    done = cli("sfseg-train", *FOLDER, "data.check_samples=0", "data.num_workers=1")
    assert done.code == 3 and "Traceback" not in done.output, done.output
    assert "sfseg: mine/source/images/train/1.png is truncated" in done.output


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gta", "uniuvpt"])
def test_scenes_that_cannot_be_used_are_left_out_on_request(
    cli: Cli, mine: Path, method: str
) -> None:
    truncated_image(mine)
    for split in ("train", "val"):
        (mine / "target" / "images" / split / "2.png").write_bytes(b"")
    done = cli(
        "sfseg-train", *FOLDER, "data.on_error=skip", f"method={method}", "eval_every=2",
        "trainer.log_every_n_steps=1",
    )  # fmt: skip
    assert done.code == 0, done.output
    results = json.loads((done.run / "results.json").read_text())
    assert results["target"]["protocol"].count("target eval: 1 of 3 scenes left out") == 1
    assert "images/val/2.png is empty" in done.output
    checkpoint = f"ckpt_path={done.run}/checkpoints/last.ckpt"
    again = cli("sfseg-eval", checkpoint, "hydra.run.dir=eval", "trainer.precision=32-true")
    assert again.code == 0 and "1 of 3 scenes left out" in again.output, again.output
    assert cli("sfseg-eval", checkpoint, "+data.on_error=raise").code == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["method.dropuot=1"], ["method.dropuot"]),
        (["backbone=swin_x"], ["swin_x", "swin_b"]),
        (["data.source_view.flip=2"], ["flip", "2"]),
        (["evaluation.scales=[0]"], ["scales"]),
        (["method.schedule.decay=cosinus"], ["cosinus", "cosine"]),
        (["method.parameter_rules=[{match: nothing}]"], ["nothing"]),
        (["backbone=resnet50", "backbone.weights=nowhere.pth"], ["nowhere.pth"]),
        (["ckpt_path=nowhere.ckpt"], ["nowhere.ckpt"]),
        (["data.shift=huge"], ["huge", "severe"]),
        (["data.classes=pets"], ["pets", "cityscapes"]),
        (["data=folder"], ["data.root"]),
        (["data.batch_size=0"], ["batch_size", "0"]),
        (["data.num_workers=-1"], ["num_workers", "-1"]),
        (["data.on_error=ignore"], ["data.on_error", "ignore", "skip"]),
        (["method.lr=-1"], ["lr", "-1"]),
        (["trainer.max_steps=0"], ["trainer.max_steps"]),
        (["+trainer.limit_train_batches=0"], ["trainer.limit_train_batches", "0"]),
        (["+trainer.max_epochs=0"], ["trainer.max_epochs", "0"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_bad_setting(cli: Cli, arguments: list[str], words: list[str]) -> None:
    start = [] if "data=folder" in arguments else DEBUG
    done = cli("sfseg-train", *start, *arguments)
    assert done.code == 2, done.output
    assert "Traceback" not in done.output
    # Of Hydra's own errors it says so before.
    assert "Error executing job" not in done.output or arguments == ["data=folder"]
    assert all(word in done.output for word in words), done.output
    assert not list(done.folder.rglob("run.json"))


def test_checkpoint_of_other_classes_names_the_keys(cli: Cli, mine: Path) -> None:
    assert cli("sfseg-train", *FOLDER, "hydra.run.dir=mine_run").code == 0
    done = cli("sfseg-train", *DEBUG, "ckpt_path=mine_run/checkpoints/last.ckpt")
    assert done.code == 2
    assert "checkpoint has 3 classes, the model 19" in done.output
    assert "network.head.classifier.weight" in done.output


def test_damaged_checkpoints_are_refused_and_run_nothing(cli: Cli, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path("executed"),))  # type: ignore[return-value]

    torch.save({"state_dict": Payload()}, tmp_path / "evil.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "evil.ckpt").read_bytes()[:100])
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    for name in ("evil", "cut", "foreign"):
        for command, rest in (
            ("sfseg-train", [*DEBUG, f"hydra.run.dir={name}"]),
            ("sfseg-eval", []),
        ):
            done = cli(command, *rest, f"ckpt_path={name}.ckpt")
            assert done.code == 2 and f"{name}.ckpt" in done.output, done.output
            assert "Traceback" not in done.output and "weights_only" not in done.output
    assert not (tmp_path / "executed").exists()


def test_run_folder_of_another_run_stays_as_it_is(cli: Cli) -> None:
    assert cli("sfseg-train", *DEBUG, "hydra.run.dir=taken").code == 0

    def contents() -> dict[Path, int]:
        files = (p for p in Path("taken").rglob("*") if p.suffix != ".log" and p.name != ".lock")
        return {p: p.stat().st_mtime_ns for p in files}

    before = contents()
    done = cli("sfseg-train", *DEBUG, "seed=1", "hydra.run.dir=taken")
    assert done.code == 2 and "holds another run" in done.output
    assert before == contents()


def test_unwritable_output(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cli("sfseg-train", *DEBUG, "hydra.run.dir=file/run")
    assert done.code == 2 and "cannot be written" in done.output, done.output
    assert "Traceback" not in done.output


def test_sweep_over_several_devices_is_refused(cli: Cli) -> None:
    done = cli("sfseg-train", "-m", *DEBUG, "trainer.devices=2", "seed=0,1")
    assert done.code == 2 and "trainer.devices=1" in done.output
    assert not list(done.folder.rglob("*.ckpt"))


def test_source_free_run_never_opens_the_source(cli: Cli, mine: Path) -> None:
    shutil.rmtree(mine / "source")
    done = cli("sfseg-train", *FOLDER, "method=oracle")
    assert done.code == 0, done.output


def test_offline_without_weights_names_both_ways_out(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "no weights"))
    done = cli("sfseg-train", *DEBUG, "backbone=resnet50")
    assert done.code == 2, done.output
    assert "backbone.weights" in done.output and "backbone.pretrained=false" in done.output
