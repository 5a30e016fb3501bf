"""Source-free runs from the command line: source model, pseudo-labels, tables, restart."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DEBUG, Cli, command
from test_train import equal, weights

from sfseg.pseudo.reader import PseudoLabels

ADAPT = [
    *DEBUG,
    "method=uniuvpt",
    # A quarter of the work of the paper's three.
    "method.scales=[0.5,1.0]",
    "trainer.max_steps=4",
    "callbacks.early_learning.every=0.5",
    "callbacks.early_learning.window=1.0",
    # Fires at once, so that a few steps correct something.
    "callbacks.early_learning.threshold=1e-6",
    "callbacks.early_learning.curve=cubic",
    "callbacks.label_correction.quantile=0.5",
    "callbacks.label_correction.open_for=2.0",
    "data.adaptation.target_view.flip=0.5",
]


def labels_of(run: Path) -> list[np.ndarray]:
    labels = PseudoLabels(run / "pseudo_labels")
    return [labels.read(k).label for k in range(len(labels))]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run ``source`` of three steps, and ``first``, which adapts its model."""
    folder = tmp_path_factory.mktemp("adaptation")
    given = f"source_checkpoint={folder}/source/checkpoints/last.ckpt"
    for name, settings in (("source", DEBUG), ("first", [*ADAPT, given])):
        assert command("sfseg-train", *settings, f"hydra.run.dir={folder}/{name}") == 0
    return folder


@pytest.fixture
def source(ran: Path) -> Path:
    """Its source model."""
    return ran / "source" / "checkpoints" / "last.ckpt"


@pytest.fixture
def first(ran: Path, tmp_path: Path) -> Path:
    """A copy of its adaptation, to be spoilt."""
    return Path(shutil.copytree(ran / "first", tmp_path / "first"))


def test_the_source_model_is_trained_once_and_does_not_change_the_adaptation(cli: Cli) -> None:
    first = cli("sfseg-train", *ADAPT, "hydra.run.dir=first")
    assert first.code == 0, first.output
    assert "none yet for these settings" in first.output and "trained now" in first.output
    second = cli("sfseg-train", *ADAPT, "hydra.run.dir=second")
    assert second.code == 0, second.output
    assert "trained before" in second.output and "trained now" not in second.output
    (model,) = (first.folder / "cache" / "source_models").rglob("last.ckpt")
    given = cli("sfseg-train", *ADAPT, "hydra.run.dir=given", f"source_checkpoint={model}")
    assert given.code == 0 and "as given" in given.output
    runs = [weights(first.folder / name) for name in ("first", "second", "given")]
    assert equal(runs[0], runs[1]) and equal(runs[0], runs[2])


@pytest.mark.slow
def test_gta_trains_its_own_kind_of_source_model(cli: Cli) -> None:
    done = cli("sfseg-train", *DEBUG, "method=gta", "hydra.run.dir=run")
    assert done.code == 0, done.output
    assert "source_gta-tiny-s0" in done.output
    labels = labels_of(done.folder / "run")
    shares = [float((label == 255).mean()) for label in labels]
    assert 0.5 < sum(shares) / len(shares) < 0.8, "two thirds of the labels are left out"


def test_the_table_shows_source_only_beside_adapted(cli: Cli, ran: Path) -> None:
    header = (ran / "first" / "results.md").read_text().splitlines()[0]
    assert header == "| class | target source-only | target adapted | gain |"
    results = json.loads((ran / "first" / "results.json").read_text())["target"]
    before = json.loads((ran / "source" / "results.json").read_text())["target"]
    assert results["source_only"]["IoU"] == before["IoU"]
    evaluated = cli(
        "sfseg-eval", f"ckpt_path={ran / 'first' / 'checkpoints' / 'last.ckpt'}",
        "hydra.run.dir=eval", "trainer.limit_val_batches=2", "trainer.accelerator=cpu",
        "trainer.precision=32-true",
    )  # fmt: skip
    assert evaluated.code == 0, evaluated.output
    again = json.loads((evaluated.folder / "eval" / "results.json").read_text())["target"]
    assert again["summary"] == results["summary"]


@pytest.mark.slow
@pytest.mark.parametrize("correction", ["online", "elr"])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(
    cli: Cli, source: Path, correction: str
) -> None:
    common = [*ADAPT, f"source_checkpoint={source}", f"method.correction={correction}",
              "method.schedule.steps=4"]  # fmt: skip
    whole = cli("sfseg-train", *common, "hydra.run.dir=whole")
    assert whole.code == 0, whole.output
    cli("sfseg-train", *common, "trainer.max_steps=2", "hydra.run.dir=half")
    half = whole.folder / "half" / "checkpoints" / "last.ckpt"
    rest = cli("sfseg-train", *common, f"ckpt_path={half}", "hydra.run.dir=rest")
    assert rest.code == 0, rest.output
    ends = [
        torch.load(whole.folder / name / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("whole", "rest")
    ]
    assert equal(ends[0]["state_dict"], ends[1]["state_dict"])
    stores = [labels_of(whole.folder / name) for name in ("whole", "rest", "half")]
    for mine, theirs in zip(stores[0], stores[1], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    if correction == "online":
        moved = [(a != b).any() for a, b in zip(stores[0], stores[2], strict=True)]
        assert any(moved), "nothing was corrected, so nothing was tested"
    for name in ends[0]["callbacks"]:
        if "EarlyLearning" in name:
            kept = [end["callbacks"][name]["measurements"] for end in ends]
            np.testing.assert_equal(kept[0], kept[1])


def test_labels_of_another_run_can_be_the_start(cli: Cli, source: Path, first: Path) -> None:
    store, before = first / "pseudo_labels", labels_of(first)
    done = cli(
        "sfseg-train", *ADAPT, f"source_checkpoint={source}", "hydra.run.dir=next",
        f"pseudo_labels.start_from={store}",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert f"continued from {store}" in done.output
    for mine, theirs in zip(before, labels_of(first), strict=True):
        np.testing.assert_array_equal(mine, theirs)


WRONG_LABELS = {
    "images": (["data.scenes.target_train.length=6"], "4 images, here are 6; 2 new since"),
    "fewer images": (["data.scenes.target_train.length=3"], "4 images, here are 3; 1 gone since"),
    "size": (["data.size=[96,128]"], "of 128x64 pixels, here it has 128x96"),
    "content": (
        ["data.style_seed=1"],
        "of the same names: city/train/000000.png and 3",
    ),
    "another source model": (["source_model.steps=1"], "source model "),
}


@pytest.mark.parametrize("case", sorted(WRONG_LABELS))
def test_labels_of_something_else_are_refused(
    cli: Cli, source: Path, first: Path, case: str
) -> None:
    store = first / "pseudo_labels"
    names = sorted(path.name for path in store.iterdir())
    settings, message = WRONG_LABELS[case]
    wanted = [] if case == "another source model" else [f"source_checkpoint={source}"]
    done = cli(
        "sfseg-train", *ADAPT, *settings, *wanted, "hydra.run.dir=next",
        f"pseudo_labels.start_from={store}",
    )  # fmt: skip
    assert done.code == 2 and "Traceback" not in done.output, done.output
    assert message in done.output
    assert sorted(path.name for path in store.iterdir()) == names
    assert not (done.folder / "next" / "pseudo_labels").exists()


@pytest.mark.parametrize("fault", ["cut", "changed"])
def test_a_damaged_store_is_refused(cli: Cli, source: Path, first: Path, fault: str) -> None:
    rows = first / "pseudo_labels" / "labels.u8"
    data = rows.read_bytes()
    rows.write_bytes(data[:-100] if fault == "cut" else data[:-100] + b"\0\1" * 50)
    message = "labels.u8 has" if fault == "cut" else "1 images are not as written"
    done = cli(
        "sfseg-train", *ADAPT, f"source_checkpoint={source}", "hydra.run.dir=next",
        f"pseudo_labels.start_from={first / 'pseudo_labels'}",
    )  # fmt: skip
    assert done.code == 3 and "Traceback" not in done.output, done.output
    assert message in done.output


def test_a_checkpoint_without_its_labels_is_refused(cli: Cli, source: Path, first: Path) -> None:
    moved = first.rename(first.with_name("elsewhere"))
    shutil.rmtree(moved / "pseudo_labels")
    checkpoint = torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["AdaptationData"]["pseudo_labels"]["folder"] = "gone"
    torch.save(checkpoint, moved / "checkpoints" / "last.ckpt")
    (moved / "checkpoints" / "manifest.json").unlink()
    done = cli(
        "sfseg-train", *ADAPT, f"source_checkpoint={source}", "hydra.run.dir=next",
        f"ckpt_path={moved / 'checkpoints' / 'last.ckpt'}",
    )  # fmt: skip
    assert done.code == 2 and "needs its run's pseudo-labels" in done.output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["source_checkpoint=nowhere.ckpt"], "source_checkpoint=nowhere.ckpt does not exist"),
        (["source_checkpoint={source}", "backbone=mit_b0"], "weights must fit the model"),
        (["source_checkpoint={source}", "data.classes=synthia"], "19 classes of cityscapes, the"),
        (["method.variant=poster"], "variant must be one of paper, release, got 'poster'"),
        (["method.correction=sometimes"], "correction must be one of"),
        (["method.scales=[0.5,2.0]"], "scales must be positive and one of them 1"),
        (["method.adapter.stem=triple"], "stem must be"),
        (["backbone=resnet50", "backbone.pretrained=false"], "must be a Swin, a MiT or tiny"),
        (["pseudo_labels.discard=1.0"], "pseudo_labels.discard must be in [0, 1), got 1.0"),
        (["pseudo_labels.rule=best"], "pseudo_labels.rule must be one of confident, cbst, ld"),
        (
            ["~callbacks.early_learning"],
            "callbacks.label_correction needs callbacks.early_learning; add it",
        ),
    ],
)
def test_wrong_settings_end_before_training(
    cli: Cli, source: Path, settings: list[str], message: str
) -> None:
    settings = [setting.format(source=source) for setting in settings]
    base = [s for s in ADAPT if not (settings[0].startswith("~") and "early_learning" in s)]
    if not any(setting.startswith("source_checkpoint") for setting in settings):
        base.append("source_model.steps=1")
    done = cli("sfseg-train", *base, *settings, "hydra.run.dir=run")
    assert done.code == 2 and "Traceback" not in done.output, done.output
    assert message in done.output
    assert not (done.folder / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "trained", "total"),
    [("swin_b", 28_017_779, 114_762_795), ("mit_b5", 11_707_603, 93_150_611)],
)
def test_full_size_networks_take_two_steps(
    cli: Cli, backbone: str, trained: int, total: int
) -> None:
    done = cli(
        "sfseg-train", *DEBUG, "method=uniuvpt", f"backbone={backbone}", "hydra.run.dir=run",
        "backbone.pretrained=false", "data.size=[128,256]", "data.batch_size=1",
        "data.adaptation.batch_size=1", "data.adaptation.target_view.crop=[128,256]",
        "data.eval_batch_size=1", "trainer.max_steps=2", "source_model.steps=1",
        "trainer.limit_val_batches=1", "logger=none",
    )  # fmt: skip
    assert done.code == 0, done.output
    assert f"parameters: {total:,}, of which trainable: {trained:,}" in done.output
    assert (done.folder / "run" / "results.json").is_file()
