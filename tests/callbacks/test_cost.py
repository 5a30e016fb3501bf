"""What ``cost.json`` counts, and what it does not."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from sfseg.callbacks import cost
from sfseg.callbacks.cost import Cost, forget_peak, peak_mib

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when the test says so, a quarter of them with work."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(cost.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(cost.time, "process_time", lambda: now.seconds / 4)
    return now


def world(*, processes=1, step=0, is_first=True):
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    return SimpleNamespace(
        state=state, world_size=processes, global_step=step, is_global_zero=is_first
    )


def module():
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 2), torch.nn.Linear(2, 2).requires_grad_(False)
    )
    teacher = torch.nn.Linear(3, 2)
    made = torch.nn.ModuleDict({"network": network, "teacher": teacher})
    made.network, made.device = network, CPU
    return made


def train(callback, trainer, model, clock):
    """Four steps of a second, of three images each, and an evaluation of a minute."""
    callback.on_train_start(trainer, model)
    for number in range(4):
        clock.seconds += 1
        trainer.global_step += 1
        batch = {"source": {"image": torch.zeros(1, 3)}, "target": {"image": torch.zeros(2, 3)}}
        callback.on_train_batch_end(trainer, model, {}, batch, number)
    callback.on_validation_start(trainer, model)
    clock.seconds += 60
    callback.on_validation_end(trainer, model)
    callback.on_train_end(trainer, model)


@pytest.mark.parametrize("processes", [1, 3])
def test_steps_images_and_minutes_are_those_of_training(tmp_path, clock, processes):
    train(Cost(str(tmp_path)), world(processes=processes), module(), clock)
    found = json.loads((tmp_path / "cost.json").read_text())
    assert found["minutes"] == pytest.approx(4 / 60) and found["steps"] == 4
    assert found["cpu_minutes"] == pytest.approx(1 / 60)
    assert found["images_per_second"] == pytest.approx(3 * processes)
    assert (found["parameters"], found["trainable_parameters"]) == (14, 8)
    assert found["memory"] == "process" and found["processes"] == processes
    assert found["peak_memory_mib"] > 10


def test_a_run_that_goes_on_counts_its_own_part(tmp_path, clock):
    train(Cost(str(tmp_path)), world(step=10), module(), clock)
    assert json.loads((tmp_path / "cost.json").read_text())["steps"] == 4


def test_an_evaluation_after_training_changes_nothing(tmp_path, clock):
    callback, trainer, model = Cost(str(tmp_path)), world(), module()
    train(callback, trainer, model, clock)
    before = (tmp_path / "cost.json").read_bytes()
    trainer.state.fn = TrainerFn.VALIDATING
    callback.on_validation_start(trainer, model)
    clock.seconds += 60
    callback.on_validation_end(trainer, model)
    assert (tmp_path / "cost.json").read_bytes() == before


def test_the_first_process_writes(tmp_path, clock):
    train(Cost(str(tmp_path)), world(processes=2, is_first=False), module(), clock)
    assert not list(tmp_path.iterdir())


def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux says what is resident")
def test_the_peak_is_of_all_that_was_held_at_once():
    held = torch.ones(64, 2**18)
    most = resident_mib()
    del held
    assert peak_mib(CPU) > most - 1
    if os.access("/proc/self/clear_refs", os.W_OK):
        forget_peak(CPU)
        assert abs(peak_mib(CPU) - resident_mib()) < 16
