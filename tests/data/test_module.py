import logging
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from make import Memory, ids, own_folder, picture

from sfseg.data.check import Checks
from sfseg.data.classes_file import load_label_space
from sfseg.data.colour import ColourJitter
from sfseg.data.folder import FolderDataset, collate, collate_crops
from sfseg.data.geometry import PAD_COLOUR, EvalView, Geometry, View, restore_label
from sfseg.data.layouts import folder
from sfseg.data.module import AdaptationData
from sfseg.errors import ConfigError, DataError
from sfseg.types import IGNORE

CROP = View((16, 16))


@pytest.fixture
def tree(tmp_path):
    for domain in ("source", "target"):
        own_folder(tmp_path / domain)
    return tmp_path


def module(tree, needs=("source", "target"), closed=(), **options):
    classes = tree / "target" / "classes.yaml"

    def opens(domain, split):
        argument = f"data.{domain}_root"
        return partial(folder, tree / domain, split, classes=classes, argument=argument)

    values = {
        "labels": load_label_space(classes),
        "needs": needs,
        "scenes": {
            f"{domain}_{kind}": None if domain in closed else opens(domain, split)
            for domain in ("source", "target")
            for kind, split in (("train", "train"), ("eval", "val"))
        },
        "views": {"source": CROP, "target": View((8, 24))},
        "batch_size": 2,
        "num_workers": 0,
    }
    return AdaptationData(**(values | options))


def ready(*arguments, **options):
    data = module(*arguments, **options)
    data.setup("fit")
    return data


def training_batches(data, count):
    return [batch for batch, _, _ in islice(iter(data.train_dataloader()), count)]


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[domain][part], second[domain][part])
        for domain in first
        for part in first[domain]
    )


def spoil(folder):
    """Make every file below a folder unreadable."""
    for path in folder.rglob("*.png"):
        path.write_bytes(b"unreadable")


def test_a_training_batch_has_the_shapes_it_promises(tree):
    (batch,) = training_batches(ready(tree), 1)
    for domain, size in (("source", (16, 16)), ("target", (8, 24))):
        parts = {name: (part.dtype, tuple(part.shape)) for name, part in batch[domain].items()}
        assert parts == {
            "image": (torch.uint8, (2, 3, *size)),
            "label": (torch.uint8, (2, *size)),
            "index": (torch.int64, (2,)),
            "geometry": (torch.int64, (2, 9)),
        }


@pytest.mark.parametrize(
    ("needs", "domains", "evaluated"),
    [
        (("source",), {"source"}, ("target", "source")),
        (("target",), {"target"}, ("target",)),
        (("target_labels",), {"target"}, ("target",)),
        (("source", "target"), {"source", "target"}, ("target", "source")),
    ],
)
def test_the_data_serve_what_is_needed(tree, needs, domains, evaluated):
    data = ready(tree, needs)
    (batch,) = training_batches(data, 1)
    assert set(batch) == set(data.domains) == domains
    assert data.eval_domains == evaluated
    assert len(data.val_dataloader()) == len(evaluated)


def test_a_source_free_run_needs_no_source(tree):
    spoil(tree / "source")
    for path in sorted((tree / "source").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tree / "source").rmdir()
    data = ready(tree, ["target"])
    assert len(training_batches(data, 3)) == 3
    assert len(list(data.val_dataloader()[0])) == 3
    with pytest.raises(DataError, match=r"source does not exist; point data\.source_root"):
        ready(tree, ["source", "target"])


def test_a_source_free_run_may_have_no_source_settings(tree):
    data = ready(tree, ["target"], closed=["source"])
    assert set(data.scenes) == {"target_train", "target_eval"}


@pytest.mark.parametrize("need", ["source", "target", "target_labels"])
def test_a_training_set_that_is_needed_must_be_set(tree, need):
    domain = need.removesuffix("_labels")
    with pytest.raises(ConfigError, match=rf"needs data\.scenes\.{domain}_train, got null"):
        module(tree, [need], closed=[domain])


def test_target_labels_are_opened_for_an_oracle_alone(tree):
    spoil(tree / "target" / "masks" / "train")
    data = ready(tree, ["source", "target"])
    for batch in training_batches(data, 4):
        assert (batch["target"]["label"] == IGNORE).all()
        assert (batch["source"]["label"] != IGNORE).any()
    with pytest.raises(DataError, match="target train: 3 of 3 scenes read"):
        ready(tree, ["target_labels"])


def test_an_oracle_reads_target_labels(tree):
    (batch,) = training_batches(ready(tree, ["target_labels"]), 1)
    assert (batch["target"]["label"] != IGNORE).any()


def test_target_images_of_training_are_not_opened_for_a_source_method(tree):
    spoil(tree / "target" / "images" / "train")
    ready(tree, ["source"])


def test_validation_opens_no_training_set(tree):
    for domain in ("source", "target"):
        spoil(tree / domain / "images" / "train")
    data = module(tree)
    data.setup("validate")
    assert set(data.scenes) == {"target_eval", "source_eval"}
    with pytest.raises(DataError, match="source train: 3 of 3"):
        data.setup("fit")


def test_a_second_setup_opens_nothing_again(tree):
    data = ready(tree)
    before = dict(data.scenes)
    data.setup("fit")
    data.setup("validate")
    assert data.scenes == before


def test_unlabelled_sets(tree, caplog):
    for split in ("train", "val"):
        for path in (tree / "target" / "masks" / split).iterdir():
            path.unlink()
        (tree / "target" / "masks" / split).rmdir()
    with caplog.at_level(logging.WARNING):
        data = ready(tree, ["source", "target"])
    said = (
        "the target eval set has no labels: predictions are drawn, not scored; images/val has no "
    )
    assert f"{said}partner masks/val; masks has no sub-folders" in caplog.text
    assert all((batch["label"] == IGNORE).all() for batch in data.val_dataloader()[0])
    with pytest.raises(ConfigError, match=r"target train set has no labels, .*partner masks/train"):
        ready(tree, ["target_labels"])


def test_another_number_of_classes_is_refused(tree):
    with pytest.raises(ConfigError, match=r"target_eval has 3 classes \(target\), the task 19"):
        ready(tree, labels=load_label_space("cityscapes"))


@pytest.mark.parametrize("needs", [[], ["sources"], ["source", "labels"], "source"])
def test_unknown_needs_are_refused(tree, needs):
    with pytest.raises(ValueError, match="needs must name some of"):
        module(tree, needs)


def test_images_are_checked_before_training_as_often_as_asked(tree):
    (tree / "source" / "images" / "train" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="source train: 1 of 3"):
        ready(tree)
    ready(tree, checks=Checks(samples=0))
    ready(tree, checks=Checks(samples=2))


def test_training_resumes_at_its_position(tree):
    expected = training_batches(ready(tree, colour=ColourJitter()), 7)
    data = ready(tree, colour=ColourJitter())
    state = data.state_dict() | {"position": 4}
    data.load_state_dict(state)
    assert data.state_dict() == state
    for before, after in zip(expected[4:], training_batches(data, 3), strict=True):
        assert same(before, after)
    assert not same(expected[0], expected[4])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_the_workers(tree, num_workers):
    expected = training_batches(ready(tree, colour=ColourJitter()), 5)
    data = ready(tree, colour=ColourJitter(), num_workers=num_workers)
    for alone, several in zip(expected, training_batches(data, 5), strict=True):
        assert same(alone, several)


def test_two_ranks_train_on_what_one_does(tree):
    class Process:
        world_size = 2
        fit_loop = Trainer(logger=False, enable_checkpointing=False).fit_loop

        def __init__(self, rank):
            self.global_rank = rank

    (alone,) = training_batches(ready(tree, batch_size=4), 1)
    ranks = []
    for rank in range(2):
        data = ready(tree, batch_size=2)
        data.trainer = Process(rank)
        ranks += training_batches(data, 1)
        indices = [int(i) for batch in data.val_dataloader()[0] for i in batch["index"]]
        assert indices == list(range(rank, 3, 2))
    for domain in alone:
        for part, value in alone[domain].items():
            assert torch.equal(torch.cat([batch[domain][part] for batch in ranks]), value)


class OneWeight(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.positions = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["target"]["index"].tolist())
        return (self.weight - batch["target"]["image"].float().mean()).square()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        # When checkpoints are written.
        self.positions.append(self.trainer.datamodule.state_dict()["position"])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_the_position_is_that_of_the_trainer(tree, tmp_path):
    def fit(steps, data, **options):
        trainer = Trainer(
            max_steps=steps, val_check_interval=2, check_val_every_n_epoch=None,
            accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
            **options,
        )  # fmt: skip
        network = OneWeight()
        trainer.fit(network, datamodule=data)
        assert network.positions == list(range(1, steps + 1))
        return network.seen

    whole = fit(5, module(tree, ["target"]))
    first = module(tree, ["target"])
    assert fit(3, first) == whole[:3]
    assert first.state_dict()["position"] == 3
    second = module(tree, ["target"])
    second.load_state_dict(first.state_dict())
    assert fit(2, second) == whole[3:]
    # Epochs go on with the next batches, in loader processes too.
    assert fit(5, module(tree, ["target"]), limit_train_batches=2) == whole
    ahead = module(tree, ["target"], num_workers=1)
    ahead.load_state_dict(first.state_dict())
    assert fit(2, ahead, limit_train_batches=1) == whole[3:]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loaders_leave_torchs_global_random_numbers_alone(tree, num_workers):
    data = ready(tree, colour=ColourJitter(), num_workers=num_workers)
    before = torch.get_rng_state()
    for loader in data.val_dataloader():
        assert len(list(loader)) == 3
    assert torch.equal(torch.get_rng_state(), before)
    training_batches(data, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_shows_every_whole_image_once_with_its_own_label(tree):
    loader, _ = ready(tree, eval_view=EvalView((16, 48))).val_dataloader()
    batches = list(loader)
    assert [batch["index"].tolist() for batch in batches] == [[0], [1], [2]]
    for index, batch in enumerate(batches):
        assert batch["image"].shape == (1, 3, 16, 48)
        np.testing.assert_array_equal(batch["label"][0], ids(index, 3))
        assert tuple(batch["geometry"][0]) == Geometry.whole((32, 64), (16, 48))


@pytest.mark.parametrize("size", [None, (16, 48)])
def test_evaluation_batches_of_one_size(tree, size):
    loader, _ = ready(tree, eval_batch_size=2, eval_view=EvalView(size)).val_dataloader()
    assert [len(batch["index"]) for batch in loader] == [2, 1]


def test_resuming_with_another_batch_size_is_refused(tree):
    state = ready(tree, batch_size=2).state_dict()
    with pytest.raises(ConfigError, match=r"trained with 2 images a step.*this run has 3"):
        ready(tree, batch_size=3).load_state_dict(state)


def dataset(**options):
    images, labels = [picture(k) for k in range(3)], [ids(k, 3) for k in range(3)]
    return FolderDataset(Memory(images, labels), seed=1, purpose="target", **options)


def test_a_sample_is_a_function_of_its_ticket():
    options = {"view": View((16, 16), ratio=(0.5, 2)), "colour": ColourJitter()}
    samples = dataset(**options)
    first = samples[5, 2]
    for ticket in ((0, 0), (5, 1), (6, 2)):
        assert not torch.equal(samples[ticket]["image"], first["image"])
    again = dataset(**options)[5, 2]
    assert all(torch.equal(torch.as_tensor(first[k]), torch.as_tensor(again[k])) for k in first)


def test_the_geometry_of_a_sample_leads_back_to_the_image():
    for number in range(20):
        sample = dataset(view=View((16, 16), ratio=(1, 3)))[number, 1]
        full = np.full((32, 64), 99, np.uint8)
        restore_label(sample["label"].numpy(), Geometry(*sample["geometry"].tolist()), full)
        shown = full != 99
        assert shown.any()
        np.testing.assert_array_equal(full[shown], ids(1, 3)[shown])


def test_colour_changes_neither_labels_nor_crops():
    view = View((16, 16), ratio=(0.5, 2))
    plain, coloured = dataset(view=view), dataset(view=view, colour=ColourJitter(probability=1))
    for index in range(3):
        first, second = plain[0, index], coloured[0, index]
        assert torch.equal(first["label"], second["label"])
        assert torch.equal(first["geometry"], second["geometry"])
        assert not torch.equal(first["image"], second["image"])


@pytest.mark.parametrize("view", [EvalView(), CROP])
def test_labels_that_are_not_used_are_not_opened(view):
    samples = dataset(view=view, use_labels=False)
    assert (samples[0, 0]["label"] == IGNORE).all()
    assert samples.scenes.opened == 0


def test_scenes_are_not_changed_by_their_views():
    samples = dataset(view=View((32, 64), flip=0), colour=ColourJitter(probability=1, blur=1))
    for number in range(5):
        samples[number, 0]["image"].fill_(0)
        samples[number, 0]["label"].fill_(0)
    np.testing.assert_array_equal(samples.scenes.images[0], picture(0))
    np.testing.assert_array_equal(samples.scenes.stored[0], ids(0, 3))


@pytest.mark.parametrize("view", [None, CROP])
def test_a_label_of_another_size_is_refused(view):
    scenes = Memory([picture(0)], [ids(0, 3, (32, 63))])
    samples = FolderDataset(scenes, view=view)
    words = r"memory/0: the image has 64x32 pixels \(width x height\), its label 63x32"
    with pytest.raises(DataError, match=words):
        samples[0, 0]


def test_a_batch_of_several_sizes_is_refused():
    sizes = [(8, 8), (8, 9), (8, 8)]
    scenes = Memory([picture(k, s) for k, s in enumerate(sizes)], [ids(0, 2, s) for s in sizes])
    samples = FolderDataset(scenes)
    with pytest.raises(
        DataError, match=r"differ in size \(8x8, 9x8, width x height\); set data\.eval_batch_size=1"
    ):
        collate([samples[0, k] for k in range(3)])
    assert collate([samples[0, 0], samples[0, 2]])["image"].shape == (2, 3, 8, 8)
    # Resized alike, the labels still differ.
    resized = FolderDataset(scenes, view=EvalView((8, 8)))
    with pytest.raises(DataError, match=r"or data\.eval_size and data\.eval_label_size"):
        collate([resized[0, 0], resized[0, 1]])
    both = FolderDataset(scenes, view=EvalView((8, 8), (4, 4)))
    assert collate([both[0, 0], both[0, 1]])["label"].shape == (2, 4, 4)


def test_smaller_crops_of_a_batch_are_padded():
    sizes = [(8, 12), (10, 5), (10, 12)]
    images = [picture(k, size) for k, size in enumerate(sizes)]
    labels = [ids(k, 2, size) for k, size in enumerate(sizes)]
    scenes = Memory(images, labels)
    samples = FolderDataset(scenes, view=View((10, 12), flip=1))
    taken = [samples[0, k] for k in range(3)]
    batch = collate_crops(taken)
    assert batch["image"].shape == (3, 3, 10, 12) and batch["image"].dtype == torch.uint8
    for k, (height, width) in enumerate(sizes):
        assert batch["geometry"][k].tolist() == [*sizes[k], *sizes[k], 0, 0, *sizes[k], 1]
        image = np.tile(np.array(PAD_COLOUR, np.uint8), (10, 12, 1))
        label = np.full((10, 12), IGNORE, np.uint8)
        image[:height, :width] = images[k][:, ::-1]
        label[:height, :width] = labels[k][:, ::-1]
        np.testing.assert_array_equal(batch["image"][k].permute(1, 2, 0), image)
        np.testing.assert_array_equal(batch["label"][k], label)
    assert torch.equal(collate_crops(taken[2:])["image"], taken[2]["image"][None])


def test_a_crop_larger_than_the_images_changes_no_batch(tree):
    """Neither what is shown nor how it is mirrored and coloured."""
    found = []
    for crop in ((32, 64), (100, 80)):
        view = View(crop, ratio=(0.5, 1.0))
        data = ready(tree, ["target"], views={"target": view}, colour=ColourJitter(probability=1))
        found.append(training_batches(data, 5))
    sizes = set()
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(one["target"][k], other["target"][k]) for k in one["target"])
        sizes |= {tuple(place[6:8]) for place in one["target"]["geometry"].tolist()}
    assert len(sizes) > 3
