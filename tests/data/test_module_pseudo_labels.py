"""What the DataModule serves of pseudo-labels, and where it takes corrections to."""

from itertools import islice

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from make import Memory, ids, picture, space

from sfseg.data.geometry import EvalView, Geometry, View, crop_label, resize_label
from sfseg.data.module import AdaptationData
from sfseg.errors import ConfigError
from sfseg.pseudo.identity import Identity
from sfseg.pseudo.patch import Patch
from sfseg.pseudo.reader import PseudoLabels
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.types import IGNORE

SIZES = [(32, 64), (20, 30), (33, 47)]
EVAL = EvalView((16, 40))


def module(labelled=True, **options):
    labels = [ids(10 + k, 3, size) for k, size in enumerate(SIZES)] if labelled else None
    scenes = Memory([picture(k, size) for k, size in enumerate(SIZES)], labels)
    values = {
        "labels": space(),
        "needs": ("target", "pseudo_labels"),
        "scenes": {"target_train": lambda: scenes, "target_eval": lambda: scenes},
        "views": {"target": View((12, 20), ratio=(0.6, 1.5))},
        "batch_size": 2,
        "num_workers": 0,
        "eval_view": EVAL,
    }
    data = AdaptationData(**(values | options))
    data.setup("fit")
    return data


def store_for(data, folder):
    images = data.target_images()
    identity = Identity(images.names, images.sizes, data.labels.classes, "model")
    store = PseudoLabelStore.create(folder, identity, durable=False)
    store.write(*(Patch(k, ids(k, 3, size)) for k, size in enumerate(images.sizes)))
    store.commit()
    return store


@pytest.fixture
def data(tmp_path):
    data = module()
    data.serve_pseudo_labels(store_for(data, tmp_path / "labels"))
    return data


def batches(data, count):
    return [batch for batch, _, _ in islice(iter(data.train_dataloader()), count)]


def test_labels_are_kept_at_the_size_of_evaluation():
    images = module().target_images()
    assert images.names == ["memory/0", "memory/1", "memory/2"]
    assert images.sizes == [(16, 40)] * 3
    assert module(eval_view=EvalView()).target_images().sizes == SIZES
    assert module(eval_view=EvalView(10)).target_images().sizes == [(10, 20), (10, 15), (10, 14)]


def test_a_batch_gets_the_labels_of_its_crops(tmp_path):
    data = module(views={"target": View((30, 30), ratio=(0.6, 1.5))})
    data.serve_pseudo_labels(store_for(data, tmp_path / "labels"))
    padded = 0
    for batch in batches(data, 4):
        target = data.on_after_batch_transfer(batch, 0)["target"]
        assert target["pseudo_label"].dtype == torch.uint8
        assert target["pseudo_label"].shape == target["label"].shape
        assert (target["label"] == IGNORE).all()
        for index, place, shown in zip(
            target["index"].tolist(), target["geometry"], target["pseudo_label"], strict=True
        ):
            expected = crop_label(ids(index, 3, (16, 40)), Geometry(*place.tolist()))
            height, width = expected.shape
            np.testing.assert_array_equal(shown[:height, :width], expected)
            assert (shown[height:] == IGNORE).all() and (shown[:, width:] == IGNORE).all()
            padded += shown.numel() > expected.size
    assert padded


def test_labels_are_those_at_the_time_of_the_step(data):
    (batch,) = batches(data, 1)
    k = int(batch["target"]["index"][0])
    data.pseudo_labels.write(Patch(k, np.full((16, 40), 1, np.uint8)))
    label = data.on_after_batch_transfer(batch, 0)["target"]["pseudo_label"][0]
    assert set(label.unique().tolist()) <= {1, IGNORE}


def test_other_batches_are_left_alone(data):
    (batch,) = list(data.val_dataloader()[0])[:1]
    assert set(data.on_after_batch_transfer(dict(batch), 0)) == set(batch)
    source = {"source": {"image": torch.zeros(1)}}
    assert set(data.on_after_batch_transfer(source, 0)["source"]) == {"image"}
    (target,) = batches(module(), 1)
    assert "pseudo_label" not in module().on_after_batch_transfer(target, 0)["target"]


def test_a_correction_is_shown_from_the_next_batch_on(data):
    (batch,) = batches(data, 1)
    batch = data.on_after_batch_transfer(batch, 0)
    target, before = batch["target"], batch["target"]["pseudo_label"].clone()
    index, place = int(target["index"][0]), target["geometry"][0].tolist()
    proposal = np.full(place[6:8], 2, np.uint8)
    change = data.correct_pseudo_label(index, place, proposal)
    assert len(change.after) and (change.after == 2).all() and (change.before != 2).all()
    after = data.on_after_batch_transfer(batch, 0)["target"]["pseudo_label"]
    # At a pixel of the crop whose centre is that of its pixel of the map, and in others too.
    assert (after[0] == 2).sum() > (before[0] == 2).sum()


def test_only_the_writing_process_corrects(data):
    folder = data.pseudo_labels.folder
    data.pseudo_labels.close()
    data.serve_pseudo_labels(PseudoLabels(folder))
    (batch,) = batches(data, 1)
    assert "pseudo_label" in data.on_after_batch_transfer(batch, 0)["target"]
    with pytest.raises(AssertionError, match="not the writing process"):
        data.correct_pseudo_label(0, [1] * 9, np.zeros((1, 1), np.uint8))
    assert set(data.state_dict()) == {"position", "global_batch"}
    data.load_state_dict(data.state_dict())


def test_true_labels_have_the_size_of_pseudo_labels(data):
    for k, size in enumerate(SIZES):
        expected = resize_label(ids(10 + k, 3, size), (16, 40))
        np.testing.assert_array_equal(data.true_label(k), expected)
    assert module(labelled=False).true_label(0) is None


def test_labels_of_the_target_are_opened_by_nothing_else(data):
    scenes = data.scenes["target_train"]
    scenes.opened = 0
    for batch in batches(data, 3):
        data.on_after_batch_transfer(batch, 0)
    assert len(list(data.labelling_dataloader())) == 3
    assert scenes.opened == 0


def test_labelling_shows_every_whole_image_once(data):
    shown = list(data.labelling_dataloader())
    assert [batch["index"].tolist() for batch in shown] == [[0], [1], [2]]
    evaluated = list(data.val_dataloader()[0])
    for batch, same, size in zip(shown, evaluated, SIZES, strict=True):
        assert torch.equal(batch["image"], same["image"])
        assert tuple(batch["geometry"][0].tolist()) == Geometry.whole(size, (16, 40))
        assert (batch["label"] == IGNORE).all()


def test_a_checkpoint_leads_back_to_its_labels(data):
    state = data.state_dict()
    assert state["pseudo_labels"]["folder"] == str(data.pseudo_labels.folder)
    before = [data.pseudo_labels.read(k).label for k in range(3)]
    whole = Geometry.whole(SIZES[1], (16, 40))
    data.correct_pseudo_label(1, whole, np.full((16, 40), 2, np.uint8))
    later = data.state_dict()
    assert later["pseudo_labels"] != state["pseudo_labels"]
    data.correct_pseudo_label(0, whole, np.full((16, 40), 1, np.uint8))
    data.load_state_dict(later)
    np.testing.assert_array_equal(data.pseudo_labels.read(0).label, before[0])
    assert (data.pseudo_labels.read(1).label == 2).all()
    data.load_state_dict(state)
    for k in range(3):
        np.testing.assert_array_equal(data.pseudo_labels.read(k).label, before[k])


def test_a_checkpoint_of_other_labels_is_refused(data, tmp_path):
    data.correct_pseudo_label(0, Geometry.whole((32, 64), (16, 40)), np.full((16, 40), 1, np.uint8))
    state = data.state_dict()
    other = module()
    other.serve_pseudo_labels(store_for(other, tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"can be returned to generations \[0\], the checkpoint"):
        other.load_state_dict(state)


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        target, data = batch["target"], self.trainer.datamodule
        for index, place, label in zip(
            target["index"].tolist(), target["geometry"].tolist(), target["pseudo_label"],
            strict=True,
        ):  # fmt: skip
            self.seen.append((index, place, label.clone()))
            data.correct_pseudo_label(index, place, (label.numpy() + 1) % np.uint8(3))
        return self.weight.square()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_step_sees_what_the_one_before_it_wrote(tmp_path, num_workers):
    """Also where a worker has loaded its batch before."""
    data = module(num_workers=num_workers, eval_view=EvalView())
    data.serve_pseudo_labels(store_for(data, tmp_path / "labels"))
    model = Recorder()
    trainer = Trainer(
        max_steps=6, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    kept = [ids(k, 3, size) for k, size in enumerate(SIZES)]
    for k in range(0, 12, 2):  # steps of two images, both served before either is corrected
        pair = model.seen[k : k + 2]
        for index, place, label in pair:
            np.testing.assert_array_equal(label, crop_label(kept[index], Geometry(*place)))
        for index, place, label in pair:
            _loop_correct(kept[index], Geometry(*place), (label.numpy() + 1) % np.uint8(3))
    for k in range(3):
        np.testing.assert_array_equal(data.pseudo_labels.read(k).label, kept[k])


def _loop_correct(label, g, proposal):
    height, width = label.shape
    for y, x in np.ndindex(height, width):
        row = (2 * y + 1) * g.scaled_height // (2 * height) - g.top
        column = (2 * x + 1) * g.scaled_width // (2 * width) - g.left
        if 0 <= row < g.height and 0 <= column < g.width:
            label[y, x] = proposal[row, g.width - 1 - column if g.flip else column]
