"""Losses and gradients that are not finite, made at chosen iterations."""

import copy
import logging
import math
import subprocess
import sys
from functools import partial

import pytest
import torch
from conftest import DEBUG
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from sfseg.callbacks.ema import WeightAverage
from sfseg.callbacks.finite import FiniteGuard
from sfseg.errors import NumericError
from sfseg.labels import LabelSpace
from sfseg.methods.base import Method
from sfseg.ops.inference import Inference
from sfseg.optim import warmup_decay

LABELS = LabelSpace("two", ("a", "b"), ((0, 0, 0), (1, 1, 1)))
FAULTS = ["nan term", "infinite term", "gradient", "image"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]


class Faulty(Method):
    """Two terms, of which one, its gradient or the image is spoilt at some iterations."""

    def __init__(self, bad, fault="nan term", rank=None):
        super().__init__(
            network=nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)), labels=LABELS,
            eval_domains=["target"], inference=Inference(), source_adapter=None, adapter=None,
            plan={}, needs=["target"], lr=0.1, weight_decay=0.1, parameter_rules=[],
            optimizer=partial(torch.optim.AdamW, lr=0.1),
            schedule=partial(warmup_decay, steps=100, decay="constant"), log_every=1000, seed=0,
        )  # fmt: skip
        self.bad, self.fault = bad, fault
        self.passed = 0
        self.seen = []

    def losses(self, batch):
        fault = self.fault if self.iteration in self.bad else None
        image = batch["target"]["image"]
        if fault == "image":
            image = image.clone()
            image[0, 0, 0, 0] = math.inf
        logits = self(image)
        fit, spread = logits.square().mean(), 0.1 * logits.mean()
        if fault == "nan term":
            spread = spread * math.nan
        if fault == "infinite term":
            spread = spread + math.inf
        if fault == "large gradient":
            spread = spread + 1e25 * self.network[0].bias.sum()
        if fault == "gradient":
            spread = spread + (0 * self.network[0].weight).sqrt().sum()
        self.seen.append(self.iteration)
        return {"fit": fit, "spread": spread}

    def training_step(self, batch, batch_idx):
        return {"loss": self.total(self.losses(batch))}


class TwoOptimizers(Faulty):
    """Manual optimisation: a term an optimiser, all backward passes first or each with its step."""

    def __init__(self, *arguments, together=True, **more):
        super().__init__(*arguments, **more)
        self.automatic_optimization = False
        self.together = together

    def configure_optimizers(self):
        return [torch.optim.AdamW(part.parameters(), lr=0.1) for part in self.network]

    def training_step(self, batch, batch_idx):
        optimizers, terms = self.optimizers(), self.losses(batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = self.total(terms)
        if self.together:
            self.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()
        else:
            # The second one's loss alone is spoilt.
            self.manual_backward(terms["fit"])
            optimizers[0].step()
            self.manual_backward(self.total(self.losses(batch)))
            optimizers[1].step()
        return {"loss": loss.detach()}


class Probe(Callback):
    """Everything that a step may change, before and after every iteration."""

    def __init__(self, average=None):
        self.average = average
        self.before, self.after = {}, {}

    def state(self, trainer, module):
        averaged = {} if self.average is None else self.average._average_model.state_dict()
        optimizers = [optimizer.state_dict()["state"] for optimizer in trainer.optimizers]
        return copy.deepcopy([module.state_dict(), averaged, optimizers])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before[pl_module.iteration + 1] = self.state(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.after[pl_module.iteration] = self.state(trainer, pl_module)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def tensors(state):
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state
    return [
        t for part in parts if isinstance(part, dict | list | torch.Tensor) for t in tensors(part)
    ]


def batches(count):
    rng = torch.Generator().manual_seed(0)
    return [
        {"target": {"image": torch.randn(2, 3, 4, 4, generator=rng), "index": torch.tensor([k, 7])}}
        for k in range(count)
    ]


def fit(method, guard, *callbacks, steps=6, **settings):
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        callbacks=[guard, *callbacks], **settings,
    )  # fmt: skip
    data = batches(50)
    trainer.fit(method, torch.utils.data.DataLoader(data, batch_size=None, collate_fn=lambda x: x))
    return trainer


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("nan term", ["of the loss, spread is nan", "iteration 3", "target images 2, 7"]),
        ("infinite term", ["of the loss, spread is inf", "iteration 3"]),
        ("gradient", ["not the gradient of network.0.weight", "iteration 3", "images 2, 7"]),
        ("image", ["fit is nan, spread is nan"]),
    ],
)
def test_the_run_ends_before_the_step_and_says_why(fault, words):
    method, probe = Faulty({3}, fault), Probe()
    with pytest.raises(NumericError) as raised:
        fit(method, FiniteGuard(), probe)
    assert all(word in str(raised.value) for word in [*words, "method.lr", "on_nonfinite=skip"])
    weights = {name: p.detach() for name, p in method.named_parameters()}
    assert all(torch.equal(p, probe.after[2][0][name]) for name, p in weights.items())


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", [Faulty, TwoOptimizers])
def test_a_skipped_step_changes_nothing_at_all(kind, fault, caplog):
    average = WeightAverage(decay=0.5)
    method, guard, probe = kind({3, 4}, fault), FiniteGuard("skip"), Probe(average)
    with caplog.at_level(logging.WARNING, logger="sfseg"):
        fit(method, guard, average, probe, steps=12 if kind is TwoOptimizers else 6)
    assert guard.skips == 2 and method.iteration == 6
    for k in (3, 4):
        assert equal(probe.before[k], probe.after[k])
    for k in (1, 2, 5, 6):
        before, after = (tensors(state[k]) for state in (probe.before, probe.after))
        assert not any(map(torch.equal, before[:4], after[:4]))
    assert all(torch.isfinite(t).all() for t in tensors(probe.after[6]))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and "iteration 3" in messages[0] and "2 of at most 10" in messages[1]


def test_a_buffer_that_a_skipped_step_replaces_is_taken_back():
    class Replacing(Faulty):
        def losses(self, batch):
            self.network[1].running_mean = self.network[1].running_mean + 1
            return super().losses(batch)

    guard, probe = FiniteGuard("skip"), Probe()
    fit(Replacing({3}), guard, probe)
    assert guard.skips == 1 and equal(probe.before[3], probe.after[3])
    assert not equal(probe.before[4], probe.after[4])


@pytest.mark.parametrize(("bad", "expected"), [({3}, [1, 4, 5, 7]), ({3, 4, 5}, [1, 6, 7])])
def test_an_average_of_some_steps_makes_up_for_one_that_is_skipped(bad, expected):
    average = WeightAverage(decay=0.5, update_every_n_steps=2)
    guard, probe = FiniteGuard("skip"), Probe(average)
    fit(Faulty(bad), guard, average, probe, steps=7)
    moved = [k for k in probe.after if not equal(probe.before[k][1], probe.after[k][1])]
    assert moved == expected


@pytest.mark.parametrize("bad", [3, 4])
def test_gradients_that_add_up_are_skipped_together(bad):
    average = WeightAverage(decay=0.5)
    method, guard, probe = Faulty({bad}, "image"), FiniteGuard("skip"), Probe(average)
    fit(method, guard, average, probe, steps=4, accumulate_grad_batches=2)
    assert guard.skips == 1 and equal(probe.before[3], probe.after[4])
    assert equal(probe.after[4][1:], probe.after[5][1:])
    assert not equal(probe.before[5], probe.after[6])


def test_a_loss_of_an_earlier_batch_is_named():
    with pytest.raises(
        NumericError, match=r"iteration 3: of the loss, spread is nan .*images 2, 7"
    ):
        fit(Faulty({3}), FiniteGuard(), accumulate_grad_batches=2)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_step_between_backward_passes_cannot_be_taken_back(policy):
    method = TwoOptimizers({3}, "infinite term", together=False)
    words = "another optimiser has stepped" if policy == "skip" else "spread is inf"
    with pytest.raises(NumericError, match=words):
        fit(method, FiniteGuard(policy), steps=12)
    assert method.iteration == 3


def test_a_step_of_several_optimizers_is_skipped_once():
    class SpoiltFirst(TwoOptimizers):
        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(self.total(self.losses(batch)))
                optimizer.step()
            return {"loss": torch.zeros(())}

    method, guard = SpoiltFirst({3}), FiniteGuard("skip", max_skips=1)
    fit(method, guard, steps=12)
    assert guard.skips == 1 and method.iteration == 6


def test_so_many_steps_may_be_skipped_and_no_more():
    guard = FiniteGuard("skip", max_skips=2)
    with pytest.raises(NumericError, match=r"iteration 5: .*max_skips=2 steps have been skipped"):
        fit(Faulty({1, 3, 5}), guard)
    resumed = FiniteGuard("skip", max_skips=2)
    resumed.load_state_dict(guard.state_dict())
    assert resumed.skips == 2
    with pytest.raises(NumericError, match="max_skips=2"):
        fit(Faulty({2}), resumed)


def test_finite_training_is_the_same_with_and_without():
    ends = []
    for guard in (Callback(), FiniteGuard(), FiniteGuard("skip")):
        torch.manual_seed(0)
        method = Faulty(set())
        fit(method, guard)
        ends.append(method.state_dict())
    assert equal(ends[0], ends[1]) and equal(ends[0], ends[2])


def test_a_large_gradient_is_finite():
    method, guard = Faulty({2}, "large gradient"), FiniteGuard("skip")
    fit(method, guard)
    assert guard.skips == 0


def test_clipping_sees_no_gradient_of_a_skipped_step():
    method, guard, probe = Faulty({2}), FiniteGuard("skip"), Probe()
    fit(method, guard, probe, gradient_clip_val=0.1)
    assert guard.skips == 1 and equal(probe.before[2], probe.after[2])


def test_anomaly_detection_does_not_hide_the_message():
    with pytest.raises(NumericError, match="of the loss, spread is nan"):
        fit(Faulty({2}), FiniteGuard(), detect_anomaly=True)


def half_precision(scale):
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


# Torch says so after every step that a scaler leaves out.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_infinite_gradients_are_the_gradient_scalers_affair():
    method, guard, probe = Faulty(set()), FiniteGuard(), Probe()
    trainer = fit(method, guard, probe, plugins=[half_precision(2.0**127)], steps=10)
    assert trainer.precision_plugin.scaler.get_scale() < 2.0**127
    assert equal(probe.before[1][2], probe.after[1][2]) and guard.skips == 0


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_with_a_gradient_scaler_the_loss_is_checked():
    with pytest.raises(NumericError, match="spread is nan"):
        fit(Faulty({2}), FiniteGuard(), plugins=[half_precision(1.0)])
    guard, probe = FiniteGuard("skip"), Probe()
    fit(Faulty({2}), guard, probe, plugins=[half_precision(1.0)])
    assert guard.skips == 1 and equal(probe.before[2], probe.after[2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"on_nonfinite": "halt"}, "'halt'"),
        ({"max_skips": -1}, "max_skips.*-1"),
        ({"keep": -1}, "keep.*-1"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        FiniteGuard(**arguments)


METHOD = '''
import math
from sfseg.methods.base import Method


class Spoilt(Method):
    """One term is NaN at iteration 2, on one process."""

    def training_step(self, batch, batch_idx):
        logits = self(batch["source"]["image"]).float()
        spoilt = math.nan if (self.iteration, self.global_rank) == (2, RANK) else 0.0
        terms = {"fit": logits.square().mean(), "constant": logits.new_tensor(spoilt)}
        return {"loss": self.total(terms)}
'''
METHOD_YAML = "defaults: [_base, _self_]\n_target_: spoilt.Spoilt\nneeds: [source]\n"


def install(folder, rank=0):
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "spoilt.py").write_text(METHOD.replace("RANK", str(rank)))
    (folder / "conf" / "method" / "spoilt.yaml").write_text(METHOD_YAML)


@pytest.mark.parametrize("anomalies", ["false", "true"])
def test_the_command_ends_with_code_4_and_names_term_and_files(
    cli, tmp_path, monkeypatch, anomalies
):
    install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done = cli(
        "sfseg-train", "--config-dir", "conf", *DEBUG, "method=spoilt", "trust=[spoilt]",
        f"trainer.detect_anomaly={anomalies}",
    )  # fmt: skip
    assert done.code == 4 and "Traceback" not in done.output, done.output
    assert "iteration 2: of the loss, constant is nan (source images game/train/00" in done.output
    assert not list(done.folder.rglob("*.ckpt"))
    (kept,) = done.run.rglob("step_000002.pt")
    assert f"sfseg-train replay={kept}" in done.output
    again = cli("sfseg-train", f"replay={kept}", "trust=[spoilt]")
    assert again.code == 0, again.output
    assert "reproduced to the bit: iteration 2: of the loss, constant is nan" in again.output
    if anomalies == "true":
        return
    for more, words in (
        ([], "spoilt.Spoilt must not be called"),
        (["trust=[spoilt]", "ckpt_path=a.ckpt"], "got ckpt_path=a.ckpt too"),
        (["trust=[spoilt]", "resume=auto"], "got resume=auto too"),
    ):
        refused = cli("sfseg-train", f"replay={kept}", *more)
        assert refused.code == 2 and words in refused.output, refused.output


def test_the_command_goes_on_where_steps_may_be_skipped(cli, tmp_path, monkeypatch):
    install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done = cli(
        "sfseg-train", "--config-dir", "conf", *DEBUG, "method=spoilt", "trust=[spoilt]",
        "callbacks.finite.on_nonfinite=skip",
    )  # fmt: skip
    assert done.code == 0 and "step skipped, 1 of at most 10" in done.output, done.output
    checkpoint = torch.load(done.run / "checkpoints" / "last.ckpt", weights_only=True)
    assert [s for s in checkpoint["callbacks"].values() if s == {"skips": 1, "kept": 1}]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_all_processes_decide_alike(tmp_path, policy):
    """The constant has no gradient: without asking, the other process would step."""
    install(tmp_path, rank=1)
    settings = [setting for setting in DEBUG if not setting.startswith("trainer")]
    done = subprocess.run(
        [sys.executable, "-m", "sfseg.commands.train", "--config-dir", "conf", *settings,
         "method=spoilt", "trust=[spoilt]", "trainer=ddp_cpu", "trainer.max_steps=3",
         "trainer.precision=32-true", f"callbacks.finite.on_nonfinite={policy}"],
        cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == (4 if policy == "stop" else 0), output
    assert "process 1: iteration 2: of the loss, constant is nan (source images" in output
    assert ("step skipped, 1 of at most 10" in output) == (policy == "skip")
    (kept,) = tmp_path.rglob("nonfinite/*")
    assert kept.name == "step_000002_rank1.pt" and f"replay={kept}" in output
    again = subprocess.run(
        [sys.executable, "-m", "sfseg.commands.train", f"replay={kept}", "trust=[spoilt]"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    told = again.stdout + again.stderr
    assert again.returncode == 0 and "process 1 of 2, and runs alone now" in told, told
    assert "reproduced to the bit: iteration 2: of the loss, constant is nan" in told
