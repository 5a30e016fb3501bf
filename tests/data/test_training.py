"""The source in the DataModule: which image comes when, in which style, in which part."""

import shutil
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from make import own_folder, write

from sfseg.data.balanced_sampling import RareClass, SoftBalance
from sfseg.data.cache import CacheSettings
from sfseg.data.check import Checks
from sfseg.data.classes_file import load_label_space
from sfseg.data.colour import ColourJitter
from sfseg.data.fourier import fourier_swap
from sfseg.data.geometry import View, resize_image
from sfseg.data.images import read_image
from sfseg.data.layouts import folder
from sfseg.data.module import AdaptationData
from sfseg.data.training import Training
from sfseg.data.translation import FourierTranslation
from sfseg.errors import ConfigError
from sfseg.storage.lightning_state import between_batches
from sfseg.types import IGNORE

CLASSES = 3
FDA = FourierTranslation(0.1)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six labelled images of a source, of which two hold class 2 and none class 3."""
    root = tmp_path_factory.mktemp("training")
    for domain in ("source", "target"):
        own_folder(root / domain, count=6, num_classes=4)
    for k in range(6):
        label = np.full((32, 64), k % 2, np.uint8)
        label[:, : 8 * (k >= 4)] = 2
        write(root / "source" / "masks" / "train" / f"{k}.png", label)
    return root


def module(tree, needs=("source", "target"), **options):
    classes = tree / "source" / "classes.yaml"

    def opens(domain, split):
        return partial(folder, tree / domain, split, classes=classes)

    values = {
        "labels": load_label_space(classes),
        "needs": needs,
        "scenes": {
            f"{domain}_{kind}": opens(domain, split)
            for domain in ("source", "target")
            for kind, split in (("train", "train"), ("eval", "val"))
        },
        "views": {"source": View((16, 16)), "target": View((8, 24))},
        "batch_size": 2,
        "num_workers": 0,
        "seed": 5,
    }
    return AdaptationData(**(values | options))


def ready(*arguments, **options):
    data = module(*arguments, **options)
    data.setup("fit")
    return data


def batches(data, count):
    return [batch for batch, _, _ in islice(iter(data.train_dataloader()), count)]


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[domain][part], second[domain][part])
        for domain in first
        for part in first[domain]
    )


@pytest.mark.parametrize("sampler", [SoftBalance(), RareClass(min_pixels=100)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sampler_chooses_of_the_source_alone(tree, sampler, num_workers):
    plain = batches(ready(tree), 4)
    found = batches(ready(tree, sampler=sampler, num_workers=num_workers), 4)
    chosen = [batch["source"]["index"].tolist() for batch in found]
    order = Training(sampler=sampler, seed=5)
    again = ready(tree, sampler=sampler).training.order("source", 6)
    assert chosen == [[again(2 * k).scene, again(2 * k + 1).scene] for k in range(4)]
    assert order.parts == 1
    for one, other in zip(plain, found, strict=True):
        assert same({"target": one["target"]}, {"target": other["target"]})


def test_two_ranks_draw_what_one_does(tree):
    class Process:
        world_size = 2
        fit_loop = Trainer(logger=False, enable_checkpointing=False).fit_loop

        def __init__(self, rank):
            self.global_rank = rank

    options = {"sampler": SoftBalance(), "translation": FDA, "colour": ColourJitter()}
    alone = batches(ready(tree, batch_size=4, **options), 2)
    ranks = []
    for rank in range(2):
        data = ready(tree, **options)
        data.trainer = Process(rank)
        ranks.append(batches(data, 2))
    for step, whole in enumerate(alone):
        for part, value in whole["source"].items():
            both = torch.cat([ranks[rank][step]["source"][part] for rank in range(2)])
            assert torch.equal(both, value)


def test_an_image_that_comes_again_is_cropped_anew(tree):
    data = ready(tree, ["source"], sampler=SoftBalance(lambda_=0, alpha=1000, mu=0.9))
    found = [batch["source"] for batch in batches(data, 8)]
    index = torch.cat([part["index"] for part in found])
    places = torch.cat([part["geometry"] for part in found])[index == 4]
    # Of a set of six, eight batches of two are less than three passes.
    assert len(places) > 3 and len(places.unique(dim=0)) > len(places) / 2


class Watching(LightningModule):
    """Notes which images come, and names classes at the end of each part."""

    def __init__(self, ends, choices, save=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.ends, self.choices, self.save = ends, choices, save
        self.done, self.seen, self.steps = 0, [], 0

    def on_train_batch_start(self, batch, batch_idx):
        # As checkpoints are written: all that follows the last batch has happened.
        if self.save is not None and self.done == self.save[0]:
            self.trainer.save_checkpoint(self.save[1])

    def training_step(self, batch, batch_idx):
        source = batch["source"]
        self.seen.append((source["index"].tolist(), source["geometry"].tolist()))
        return self.weight.square()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.done += 1
        if self.done in self.ends:
            self.trainer.datamodule.focus(self.choices[self.ends.index(self.done)])

    def on_save_checkpoint(self, checkpoint):
        checkpoint["done"] = self.done
        between_batches(checkpoint, is_evaluating=False)

    def on_load_checkpoint(self, checkpoint):
        self.done = checkpoint["done"]

    def on_before_optimizer_step(self, optimizer):
        self.steps += 1

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    tree, folder, *, workers=0, steps=7, adds_up=1, every=3, save=None, ckpt_path=None, parts=(2, 1)
):
    data = module(
        tree, ["source"], sampler=SoftBalance(alpha=50, mu=0.9), num_workers=workers, parts=parts
    )
    ends = [k * steps // 3 * adds_up for k in (1, 2)]
    network = Watching(ends, [[2], [1]], save)
    trainer = Trainer(
        max_steps=steps, val_check_interval=every, check_val_every_n_epoch=None, accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accumulate_grad_batches=adds_up, default_root_dir=folder,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(network, datamodule=data, ckpt_path=ckpt_path, weights_only=False)
    assert trainer.global_step == steps
    return network, data


@pytest.fixture(scope="module")
def whole(tree, tmp_path_factory):
    return fit(tree, tmp_path_factory.mktemp("whole"))[0].seen


pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")


def expected(tree, bounds):
    """Which images come, position by position, under the classes of each part."""
    training = ready(tree, ["source"], sampler=SoftBalance(alpha=50, mu=0.9)).training
    found = []
    for focus, (first, last) in zip(([], [2], [1]), bounds, strict=True):
        if focus:
            training.focus(focus)
        order = training.order("source", 6)
        found += [[order(2 * k).scene, order(2 * k + 1).scene] for k in range(first, last)]
    return found


def test_what_is_decided_at_the_end_of_a_part_holds_from_the_next_batch(tree, whole):
    assert [index for index, _ in whole] == expected(tree, [(0, 2), (2, 4), (4, 7)])
    assert [index for index, _ in whole] != expected(tree, [(0, 7), (0, 0), (0, 0)])


def test_loader_processes_do_not_run_ahead_of_a_part(tree, whole, tmp_path):
    network, data = fit(tree, tmp_path, workers=2)
    assert network.seen == whole and network.steps == 7
    assert data.state_dict()["focus"] == [1]


@pytest.mark.parametrize(
    ("stop", "workers", "every"),
    [(1, 0, 3), (2, 0, 3), (2, 0, 2), (3, 0, 3), (4, 0, 1), (5, 0, 3), (2, 2, 2), (3, 2, 3)],
)
def test_a_run_that_goes_on_sees_the_same_images(tree, whole, tmp_path, stop, workers, every):
    """Also where an evaluation stands at the end of a part."""
    path = tmp_path / "stopped.ckpt"
    fit(tree, tmp_path, save=(stop, path), every=every)
    network, _ = fit(tree, tmp_path, ckpt_path=path, workers=workers, every=every)
    assert network.seen == whole[stop:]


def test_a_checkpoint_at_the_very_end_of_a_part(tree, whole, tmp_path):
    class Ending(Watching):
        def on_train_batch_end(self, *arguments):
            super().on_train_batch_end(*arguments)
            if self.done == 2:
                self.trainer.save_checkpoint(tmp_path / "end.ckpt")

    data = module(tree, ["source"], sampler=SoftBalance(alpha=50, mu=0.9), parts=[3])
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False,
               "enable_progress_bar": False, "enable_model_summary": False, "max_steps": 7,
               "default_root_dir": tmp_path}  # fmt: skip
    Trainer(**options).fit(Ending([2, 4], [[2], [1]]), datamodule=data)
    network, _ = fit(tree, tmp_path, ckpt_path=tmp_path / "end.ckpt")
    assert network.seen == whole[2:]


def test_no_step_is_split_between_parts(tree, tmp_path):
    network, _ = fit(tree, tmp_path, adds_up=2)
    assert network.steps == 7 and len(network.seen) == 14
    assert [index for index, _ in network.seen] == expected(tree, [(0, 4), (4, 8), (8, 14)])


def test_without_parts_nothing_ends(tree, tmp_path):
    network, data = fit(tree, tmp_path, parts=(1,), steps=2)
    assert network.seen[0][0] == expected(tree, [(0, 1), (0, 0), (0, 0)])[0]
    assert data.training.parts == 1


def test_only_soft_balance_prefers_classes(tree):
    for sampler in (None, RareClass(min_pixels=100)):
        data = module(tree, **({} if sampler is None else {"sampler": sampler}))
        with pytest.raises(ConfigError, match="choose data/sampler=soft_balance"):
            data.focus([1])
        assert not data.training.sampler.follows_focus
    assert "focus" not in ready(tree, sampler=SoftBalance()).state_dict()


def test_counts_are_kept_with_the_cache(tree, tmp_path):
    cache = CacheSettings("none", str(tmp_path))
    ready(tree, ["source"])
    assert not list(tmp_path.iterdir())
    data = ready(tree, ["source"], sampler=SoftBalance(), cache=cache)
    (kept,) = (tmp_path / "statistics").iterdir()
    data.setup("fit")
    before = kept.stat().st_mtime_ns
    ready(tree, ["source"], sampler=RareClass(min_pixels=100), cache=cache)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize("parts", [[], [0], [2, -1], [1, 0.5], ["a"]])
def test_impossible_parts_are_refused(tree, parts):
    with pytest.raises(ValueError, match="parts must be whole numbers, not all 0"):
        module(tree, parts=parts)


def test_unknown_settings_are_refused(tree):
    with pytest.raises(TypeError, match="samplers"):
        module(tree, samplers=None)


def targets(tree):
    return [read_image(tree / "target" / "images" / "train" / f"{k}.png") for k in range(6)]


def test_crops_take_the_style_of_a_target_image(tree):
    plain = batches(ready(tree, ["source"]), 12)
    found = batches(ready(tree, ["source"], translation=FDA), 12)
    styles = [resize_image(image, (16, 16)) for image in targets(tree)]
    used = set()
    for one, other in zip(plain, found, strict=True):
        assert set(other) == {"source"}
        for part in ("label", "index", "geometry"):
            assert torch.equal(one["source"][part], other["source"][part])
        for before, after in zip(one["source"]["image"], other["source"]["image"], strict=True):
            crop, shown = before.permute(1, 2, 0).numpy(), after.permute(1, 2, 0).numpy()
            swapped = [np.rint(fourier_swap(crop, style, 0.1)) for style in styles]
            (fitting,) = [k for k, image in enumerate(swapped) if np.array_equal(image, shown)]
            used.add(fitting)
    assert used == set(range(6))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_style_of_a_crop_follows_from_pass_and_index(tree, tmp_path, num_workers):
    colour = ColourJitter()
    whole = batches(ready(tree, translation=FDA, colour=colour), 6)
    cache = CacheSettings("memmap", str(tmp_path))
    data = ready(tree, translation=FDA, colour=colour, num_workers=num_workers, cache=cache)
    data.load_state_dict(data.state_dict() | {"position": 2})
    for one, other in zip(whole[2:], batches(data, 4), strict=True):
        assert same(one, other)


def test_a_cache_of_resized_targets_changes_no_style(tree, tmp_path):
    views = {"source": View((16, 16)), "target": View((8, 8), resize=(12, 40))}
    plain = batches(ready(tree, translation=FDA, views=views), 3)
    cache = CacheSettings("memmap", str(tmp_path))
    for one, other in zip(
        plain, batches(ready(tree, translation=FDA, views=views, cache=cache), 3), strict=True
    ):
        assert same(one, other)


def test_the_targets_labels_are_not_opened_for_its_style(tree, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(tree, root)
    for path in (root / "target" / "masks" / "train").iterdir():
        path.write_bytes(b"unreadable")
    data = ready(root, ["source"], translation=FDA)
    assert data.domains == ("source",) and "target_train" in data.scenes
    (batch,) = batches(data, 1)
    assert set(batch) == {"source"}
    (batch,) = batches(ready(root, translation=FDA), 1)
    assert (batch["target"]["label"] == IGNORE).all()


def test_target_images_that_are_left_out_give_no_style(tree, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(tree, root)
    checks = Checks(on_error="skip")
    (root / "target" / "images" / "train" / "2.png").write_bytes(b"unreadable")
    plain = batches(ready(tree, ["source"], translation=FDA), 12)
    found = batches(ready(root, ["source"], translation=FDA, checks=checks), 12)
    equal = [
        torch.equal(*images)
        for one, other in zip(plain, found, strict=True)
        for images in zip(one["source"]["image"], other["source"]["image"], strict=True)
    ]
    assert 0 < equal.count(False) < len(equal) / 2


def test_a_target_that_is_needed_for_its_style_must_be_set(tree):
    scenes = dict.fromkeys(("target_train", "target_eval", "source_eval"))
    scenes["source_train"] = partial(folder, tree / "source", classes="")
    with pytest.raises(ConfigError, match=r"needs data\.scenes\.target_train, got null"):
        module(tree, ["source"], scenes=scenes, translation=FDA)
    module(tree, ["source"], scenes=scenes)


def test_a_share_that_moves_the_mean_alone_is_refused(tree):
    message = (
        r"data\.translation\.beta=0\.01 changes nothing but the mean colour of crops of 16x16 "
        r"pixels \(width x height\): set it to 0\.0625 or more"
    )
    with pytest.raises(ConfigError, match=message):
        ready(tree, ["source"], translation=FourierTranslation(0.01))
    ready(tree, ["source"], translation=FourierTranslation(0.0625))
    # Images that are smaller than the crop, or shown smaller, decide.
    views = {"source": View((100, 100), ratio=(0.5, 1)), "target": View((8, 8))}
    with pytest.raises(ConfigError, match="crops of 32x16 pixels"):
        ready(tree, ["source"], translation=FourierTranslation(0.05), views=views)


def test_two_translations_are_refused(tree):
    with pytest.raises(ConfigError, match="would translate images twice"):
        module(tree, translation=FDA, translated="somewhere")
