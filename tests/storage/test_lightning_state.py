"""What is read and set of Lightning's inner state does in Lightning what is said of it.

A failure here after an update of Lightning says what it has moved, renamed or changed.
"""

import copy
import csv
import tomllib
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sfseg.errors import ConfigError
from sfseg.storage import lightning_state
from sfseg.storage.lightning_state import (
    SUPPORTED,
    between_batches,
    callbacks_of,
    count_as_averaged,
    count_first_optimizer_only,
    datamodule_of,
    processed_batches,
    set_batches_that_stepped,
)

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


def loader(count=8):
    return torch.utils.data.DataLoader(torch.arange(float(count)), batch_size=1)


class Line(LightningModule):
    """A weight that moves by 1 in every step; notes the batches that it sees."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(int(batch))
        self.log("loss", self.weight)
        return -self.weight

    def validation_step(self, batch, batch_idx):
        self.seen.append(f"evaluation {int(batch)}")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def trainer(steps, *callbacks, **options):
    defaults = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
    return Trainer(
        max_steps=steps, accelerator="cpu", callbacks=list(callbacks), enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **{**defaults, **options},
    )  # fmt: skip


class Hook(Callback):
    """Calls something at the start of one batch."""

    def __init__(self, action, at):
        self.action, self.at = action, at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.at:
            self.action(trainer)


class Two(Line):
    """Two optimisers, stepped by the method itself."""

    def __init__(self, first_only):
        super().__init__()
        self.automatic_optimization = False
        self.first_only = first_only

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        if self.first_only:
            count_first_optimizer_only(optimizers)
        self.seen.append(int(batch))
        for optimizer in optimizers:
            optimizer.zero_grad()
            self.manual_backward(-self.weight)
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=1.0) for _ in range(2)]


@pytest.mark.parametrize("first_only", [False, True])
def test_steps_of_the_first_optimizer_count_alone(first_only):
    module, world = Two(first_only), trainer(4)
    world.fit(module, loader())
    # Both step, whatever is counted: _on_before_step counts as ready, _on_after_step as done.
    assert float(module.weight.detach()) == 2 * len(module.seen)
    assert len(module.seen) == (4 if first_only else 2)
    progress = world.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
    assert progress.ready == 4, "_on_before_step"
    assert progress.completed == 4, "_on_after_step"


def test_numbers_are_logged_at_the_step_that_is_set(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    hook = Hook(lambda world: set_batches_that_stepped(world, 40), at=2)
    trainer(4, hook, logger=logger, log_every_n_steps=1).fit(Line(), loader())
    assert logged_steps(tmp_path) == [0, 1, 40, 41]


def logged_steps(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_batch_is_processed_before_its_end():
    counts = []

    class Count(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            counts.append(processed_batches(trainer))

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            counts.append(processed_batches(trainer))

    trainer(-1, Count(), max_epochs=2).fit(Line(), loader(2))
    assert counts == [0, 1, 1, 2, 2, 3, 3, 4]


class Save(Callback):
    """Saves once, at the start of a batch of training or of an evaluation, and ends the run."""

    def __init__(self, path, at, is_evaluating):
        self.path, self.at, self.is_evaluating = path, at, is_evaluating

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self.is_evaluating and batch_idx == self.at:
            self._save(trainer)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if self.is_evaluating and trainer.global_step == self.at and batch_idx == 1:
            self._save(trainer)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        between_batches(checkpoint, is_evaluating=self.is_evaluating)

    def _save(self, trainer):
        trainer.save_checkpoint(self.path)
        raise InterruptedError


@pytest.mark.parametrize(
    ("at", "is_evaluating"),
    [*((at, False) for at in range(1, 7)), *((at, True) for at in (2, 4, 6))],
)
def test_a_run_goes_on_with_what_has_not_happened(tmp_path, at, is_evaluating):
    often = {"limit_val_batches": 2, "val_check_interval": 2}
    whole, half, rest = Line(), Line(), Line()
    trainer(8, **often).fit(whole, loader(), loader())
    path = tmp_path / "cut.ckpt"
    with pytest.raises(InterruptedError):
        trainer(8, Save(path, at, is_evaluating), **often).fit(half, loader(), loader())
    often |= {"logger": CSVLogger(tmp_path / "log", name="", version=""), "log_every_n_steps": 1}
    # Without an evaluation before it, Lightning logs at the right step by itself.
    hooks = [] if at % 2 else [Hook(lambda world: set_batches_that_stepped(world, at), at)]
    trainer(8, *hooks, **often).fit(rest, loader(), loader(), ckpt_path=path, weights_only=True)
    assert logged_steps(tmp_path / "log") == list(range(at, 8))
    evaluated = half.seen[:-1] if is_evaluating else half.seen
    assert _events(evaluated) + _events(rest.seen) == _events(whole.seen)


def _events(seen):
    """Training batches by their place, evaluations by their batches."""
    return ["training" if isinstance(x, int) else x for x in seen]


@pytest.mark.parametrize("passed", [False, True])
def test_an_average_passes_over_a_step(passed):
    class Average(EMAWeightAveraging):
        def on_train_batch_end(self, trainer, *arguments):
            if passed and trainer.global_step in (2, 3):
                count_as_averaged(self, trainer.global_step)
            super().on_train_batch_end(trainer, *arguments)

    module, average = Line(), Average(decay=0.5)
    trainer(4, average, accumulate_grad_batches=2).fit(module, loader())
    # The weight is the number of the step; the first update copies it.
    expected = 1.0
    for step in (4,) if passed else (2, 3, 4):
        expected = (expected + step) / 2
    assert float(module.weight.detach()) == pytest.approx(expected)


def test_a_trainer_says_what_it_holds():
    class Data(LightningDataModule):
        def train_dataloader(self):
            return loader()

    first, second, data = Callback(), Callback(), Data()
    world = trainer(1, first, second)
    assert datamodule_of(world) is None
    assert [c for c in callbacks_of(world) if c in (first, second)] == [first, second]
    world.fit(Line(), datamodule=data)
    assert datamodule_of(world) is data


def checkpoint():
    content = {}

    class Keep(Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            content.update(copy.deepcopy(checkpoint["loops"]))

    world = trainer(1, Keep())
    world.fit(Line(), loader())
    world.save_checkpoint("/dev/null")
    return {"loops": content}


class Renamed:
    """Has nothing that anybody looks for."""

    def state_dict(self):
        return {}


class World:
    class fit_loop:  # noqa: N801
        class epoch_loop:  # noqa: N801
            class batch_progress:  # noqa: N801
                total = Renamed()


def without(*path):
    content = checkpoint()
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return content


PROGRESS = "epoch_loop.batch_progress"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: count_first_optimizer_only([None, Renamed()]), r"Renamed\._on_before_step"),
        (lambda: set_batches_that_stepped(World, 3), r"type\._batches_that_stepped"),
        (lambda: processed_batches(World), r"batch_progress\.total\.processed"),
        (lambda: count_as_averaged(Renamed(), 3), "latest_update_step"),
        (lambda: datamodule_of(Renamed()), r"Trainer\.datamodule"),
        (lambda: callbacks_of(Renamed()), r"Trainer\.callbacks"),
        (
            lambda: between_batches(without("loops", "fit_loop", PROGRESS), is_evaluating=False),
            f"with '{PROGRESS}'",
        ),
        (
            lambda: between_batches(
                without("loops", "fit_loop", PROGRESS, "total", "started"), is_evaluating=False
            ),
            f"{PROGRESS} of completed, processed, ready, started",
        ),
    ],
)
def test_what_has_moved_is_named_with_the_version(call, name):
    with pytest.raises(ConfigError, match=f"Lightning {lightning.__version__} has no .*{name}"):
        call()


def test_both_hooks_of_an_optimizer_are_looked_for():
    optimizer = Renamed()
    optimizer._on_before_step = None
    with pytest.raises(ConfigError, match=r"_on_after_step.*install 'lightning>=2\.6\.4,<2\.7'"):
        count_first_optimizer_only([None, optimizer])


def test_the_installed_and_the_oldest_version_are_supported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = next(
        r for text in project["dependencies"] if (r := Requirement(text)).name == "lightning"
    )
    supported = SpecifierSet(SUPPORTED)
    oldest = next(
        line.partition("==")[2]
        for line in (ROOT / "constraints-oldest.txt").read_text().splitlines()
        if line.startswith("lightning==")
    )
    assert lightning.__version__ in supported and oldest in supported
    assert {s for s in asked.specifier if s.operator != "!="} == set(supported)
    assert f">={oldest}" in SUPPORTED
    assert lightning_state.__doc__ and oldest in lightning_state.__doc__
