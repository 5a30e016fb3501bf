"""Every data group of street scenes, from its YAML to batches, on generated trees."""

import shutil
from itertools import islice
from pathlib import Path

import make
import pytest
import torch
from conftest import Cli
from hydra import compose, initialize_config_dir

from sfseg.config.composition import CONF, build
from sfseg.data.module import AdaptationData
from sfseg.errors import DataError

LAYOUTS = ("cityscapes", "gta5", "synthia", "cross_city", "bdd100k", "mapillary", "acdc")
STREETS = sorted(
    path.stem
    for path in (CONF / "data").glob("[!_]*.yaml")
    if path.stem.split("_")[0] in ("gta5", "synthia", "cityscapes")
)
UNSEEN = [group for group in STREETS if group.endswith("_all")]
"""Tasks of generalisation: a source, no target, and several evaluation sets."""
GROUPS = [group for group in STREETS if group not in UNSEEN]
SMALL = ["data.num_workers=0", "data.batch_size=2", "data.source_view.crop=[32,32]"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streets")
    for layout in LAYOUTS:
        getattr(make, layout)(folder / layout)
    make.own_folder(folder / "street", num_classes=19)
    return folder


def opened(
    root: Path, group: str, *overrides: str, needs: tuple[str, ...] = ("source", "target")
) -> AdaptationData:
    if group == "gta5_to_folder":
        overrides = (f"data.target_root={root}/street", *overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"data={group}", f"data.root={root}", *overrides])
    data: AdaptationData = build(cfg.data.module, needs=list(needs))
    data.setup("fit")
    return data


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_serves_batches(root: Path, group: str) -> None:
    data = opened(root, group, *SMALL)
    batch = next(iter(data.train_dataloader()))[0]
    assert batch["source"]["image"].shape == (2, 3, 32, 32)
    assert (batch["source"]["label"] < data.labels.num_classes).any()
    assert (batch["target"]["label"] == 255).all()
    for loader in data.val_dataloader():
        images = list(loader)
        assert images and all(b["image"].shape[0] == 1 for b in images)


@pytest.mark.parametrize(
    ("group", "inputs", "labels"),
    [
        ("gta5_to_cityscapes", (512, 1024), (32, 64)),
        ("synthia_to_cityscapes", (512, 1024), (32, 64)),
        ("cityscapes_to_rome", (512, 1024), (512, 1024)),
        ("gta5_to_bdd", (1024, 2048), (1024, 2048)),
        ("cityscapes_to_acdc", (540, 1080), (32, 64)),
    ],
)
def test_sizes_of_evaluation(
    root: Path, group: str, inputs: tuple[int, int], labels: tuple[int, int]
) -> None:
    batch = next(iter(opened(root, group, *SMALL).val_dataloader()[0]))
    assert batch["image"].shape[-2:] == inputs
    assert batch["label"].shape[-2:] == labels


SHORT = ((1024, 2048), (1024, 2048))
OWN = ((32, 64), (32, 64))
THREE = {"cityscapes": OWN, "bdd": SHORT, "mapillary": SHORT}
CONDITIONS = {"night": SHORT, "rain": SHORT, "snow": SHORT, "fog": SHORT}


@pytest.mark.parametrize("resolution", ["short1024", "native"])
@pytest.mark.parametrize(
    ("group", "sizes"),
    [
        ("gta5_to_all", THREE),
        ("synthia_to_all", THREE),
        ("cityscapes_to_acdc_all", {**CONDITIONS, "cityscapes": OWN}),
    ],
)
def test_each_set_of_a_task_of_generalisation_has_its_sizes(
    root: Path, group: str, sizes: dict[str, tuple[tuple[int, int], ...]], resolution: str
) -> None:
    words = [*SMALL, f"data.eval_resolution={resolution}"]
    data = opened(root, group, *words, needs=("source",))
    assert data.eval_domains == tuple(sizes) and set(data.domains) == {"source"}
    batch = next(iter(data.train_dataloader()))[0]
    assert batch["source"]["image"].shape == (2, 3, 32, 32)
    found = {}
    for domain, loader in zip(data.eval_domains, data.val_dataloader(), strict=True):
        first = next(iter(loader))
        found[domain] = (tuple(first["image"].shape[-2:]), tuple(first["label"].shape[-2:]))
        assert (first["label"] < data.labels.num_classes).any()
    assert found == (sizes if resolution == "short1024" else dict.fromkeys(sizes, OWN))


def test_each_condition_is_a_set_of_its_own(root: Path) -> None:
    data = opened(root, "cityscapes_to_acdc_all", *SMALL, needs=("source",))
    for condition in CONDITIONS:
        scenes = data.scenes[f"{condition}_eval"]
        assert all(f"/{condition}/val/" in scenes.name(k) for k in range(len(scenes)))


def test_every_task_of_generalisation_is_tried() -> None:
    assert UNSEEN == ["cityscapes_to_acdc_all", "gta5_to_all", "synthia_to_all"]


def test_training_steps_of_generalisation_open_no_image_but_the_sources(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        getattr(make, layout)(tmp_path / layout)
    make.generated(tmp_path / "made", 3)
    words = [*SMALL, f"data.generated={tmp_path}/made", "data.cache=none"]
    data = opened(tmp_path, "gta5_to_all", *words, needs=("source", "target"))
    for layout in LAYOUTS:
        if layout != "gta5":
            shutil.rmtree(tmp_path / layout)
    batches = [batch for batch, _, _ in islice(iter(data.train_dataloader()), 8)]
    assert len(batches) == 8 and all(set(b) == {"source", "target"} for b in batches)
    # The sets are gone indeed.
    with pytest.raises(DataError, match="leftImg8bit"):
        next(iter(data.val_dataloader()[0]))


@pytest.mark.parametrize(("protocol", "classes"), [("19-way", 19), ("16-way", 16)])
def test_protocols_of_synthia(root: Path, protocol: str, classes: int) -> None:
    data = opened(root, "synthia_to_cityscapes", *SMALL, f"data.protocol={protocol}")
    assert data.labels.num_classes == classes
    assert set(data.labels.subsets) >= {"mIoU", "mIoU16", "mIoU13"}
    names = [data.labels.classes[k] for k in data.labels.subsets["mIoU13"]]
    assert len(names) == 13 and not {"wall", "fence", "pole"} & set(names)
    target = data.scenes["target_eval"]
    found = {
        int(k) for index in range(len(target)) for k in torch.tensor(target.label(index)).unique()
    }
    assert found == {*range(classes), 255}


def test_lane_markings_are_a_choice(root: Path) -> None:
    shares = {}
    for choice in ("ignore", "road"):
        data = opened(root, "synthia_to_cityscapes", *SMALL, f"data.lane_marking={choice}")
        shares[choice] = (data.scenes["source_train"].label(0) == 0).mean()
    assert shares["road"] > shares["ignore"] > 0


def test_the_source_of_a_source_free_run_may_be_missing(root: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["data=gta5_to_cityscapes", f"data.root={root}", "data.gta5_root=nowhere"]
        cfg = compose("train", overrides=overrides)
    data: AdaptationData = build(cfg.data.module, needs=["target"])
    data.setup("fit")
    assert set(data.scenes) == {"target_train", "target_eval"}


def test_a_run_prints_its_protocol_and_ends_alike_from_the_cache(cli: Cli, root: Path) -> None:
    protocol = (
        "16 classes of synthia, input shorter side 32, labels at their own size, "
        "whole images at scale 1"
    )
    weights = {}
    for cache in ("none", "memmap", "memmap again"):
        run = Path(cache)
        done = cli(
            "sfseg-train", "data=synthia_to_cityscapes", f"data.root={root}", *SMALL,
            "data.protocol=16-way", "data.eval_size=32", "trainer=debug",
            "trainer.precision=32-true", "trainer.detect_anomaly=false",
            f"data.cache={cache.split()[0]}", "data.cache_dir=cache", f"hydra.run.dir='{run}'",
        )  # fmt: skip
        assert done.code == 0, done.output
        assert protocol in done.output
        assert protocol in (done.folder / run / "results.json").read_text()
        assert (done.folder / "cache" / "pictures").is_dir() == (cache != "none")
        path = done.folder / run / "checkpoints" / "last.ckpt"
        weights[cache] = torch.load(path, weights_only=True)["state_dict"]
    for cache in ("memmap", "memmap again"):
        assert all(torch.equal(t, weights[cache][key]) for key, t in weights["none"].items())
