"""DACS with a backward pass after each forward pass: it ends as with one of the sum."""

from weakref import WeakSet

import pytest
import torch
from lightning.pytorch import Callback
from small import QUIET
from torch.autograd.graph import saved_tensors_hooks
from two_domains import batch, fit, make, network

from sfseg.callbacks.finite import FiniteGuard
from sfseg.errors import NumericError
from sfseg.methods import dacs
from sfseg.methods.dacs import DACS

pytestmark = QUIET


def built(propagate, **options):
    """With all four losses."""
    imagenet = network()
    for value in imagenet.parameters():
        value.data += 0.1
    return make(
        DACS, propagate=propagate, masked=1.0, confidence=0.5, imagenet=imagenet,
        feature_distance=0.5, things=["b"], **options,
    )  # fmt: skip


class Seen(Callback):
    """Gradients before each optimiser's step, and losses and terms of backward passes."""

    def __init__(self):
        self.gradients, self.losses = [], []

    def on_before_backward(self, trainer, pl_module, loss):
        self.losses.append((loss.item(), set(pl_module.terms)))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = pl_module.named_parameters()
        self.gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "trainer", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.01}], ids=["", "gathered"]
)
def test_gradients_and_weights_are_those_of_the_sum(trainer):
    found = {}
    for propagate in ("sum", "each"):
        method, seen = built(propagate).double(), Seen()
        data = [batch(k) for k in range(4)]
        every = trainer.get("accumulate_grad_batches", 1)
        fit(method, data[: 4 // every] * every, callbacks=[seen], **trainer)
        found[propagate] = seen, method.state_dict(), float(method.moves)
    (one, weights, moves), (each, others, also) = found.values()
    assert moves == also and len(one.gradients) == len(each.gradients) == moves
    assert len(each.losses) == 3 * len(one.losses)
    for mine, theirs in zip(each.gradients, one.gradients, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-10, atol=1e-12)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-10, atol=1e-12)
    assert [loss for loss, _ in each.losses[2::3]] == pytest.approx([x for x, _ in one.losses])
    assert each.losses[2][1] == one.losses[0][1]


def test_of_bfloat16_too():
    """The backward passes run outside of autocast; what remains is half precision's rounding."""
    gradients = []
    for propagate in ("sum", "each"):
        seen = Seen()
        fit(built(propagate), [batch()], callbacks=[seen], precision="bf16-mixed")
        gradients.append(torch.cat([g.flatten() for g in seen.gradients[0].values()]))
    one, each = gradients
    assert (each - one).norm() <= 0.02 * one.norm()


class Saved:
    """A tensor that a graph keeps for its backward pass."""

    def __init__(self, value):
        self.value = value


def test_the_graph_of_a_pass_is_gone_before_the_next(monkeypatch):
    graph, kept = WeakSet(), []
    real = DACS.pseudo_labels

    def labels(self, target):
        kept.append(len(graph))
        return real(self, target)

    def pack(value):
        saved = Saved(value)
        graph.add(saved)
        return saved

    monkeypatch.setattr(DACS, "pseudo_labels", labels)
    for propagate in ("sum", "each"):
        with saved_tensors_hooks(pack, lambda saved: saved.value):
            fit(built(propagate), [batch()])
    assert kept[0] > 10 and kept[1] == 0


def poison(monkeypatch, name, call):
    """Make one call of a function of the step NaN."""
    real, calls = getattr(dacs, name), []

    def loss(*arguments, **options):
        calls.append(None)
        return real(*arguments, **options) * (float("nan") if len(calls) == call else 1)

    monkeypatch.setattr(dacs, name, loss)


@pytest.mark.parametrize(
    ("function", "name"), [("feature_distance", "feature_distance"), ("weighted_loss", "mixed")]
)
@pytest.mark.parametrize("detect", [False, True])
def test_the_term_that_is_not_finite_is_named_once(monkeypatch, function, name, detect):
    poison(monkeypatch, function, call=2)
    guard = FiniteGuard("stop")
    with pytest.raises(NumericError, match=f"iteration 2: of the loss, {name} is nan") as said:
        fit(built("each"), [batch(0), batch(1)], callbacks=[guard], detect_anomaly=detect)
    assert str(said.value).count("is nan") == 1


@pytest.mark.parametrize(
    ("more", "before"), [({}, 1), ({"accumulate_grad_batches": 2}, 0)], ids=["", "gathered"]
)
def test_a_skipped_step_leaves_no_trace(monkeypatch, more, before):
    """The second, or the first of two batches each, whose second is at fault."""
    poison(monkeypatch, "weighted_loss", call=2)
    states = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            states.append({k: v.clone() for k, v in module.state_dict().items()})

    fit(
        built("each"), [batch(k) for k in range(4)], callbacks=[FiniteGuard("skip"), Look()], **more
    )
    assert all(torch.equal(v, states[before][k]) for k, v in states[2].items())
    assert not all(torch.equal(v, states[2][k]) for k, v in states[-1].items())


def test_a_step_alone_says_that_it_needs_a_trainer():
    with pytest.raises(RuntimeError, match="not attached to a `Trainer`"):
        built("each").training_step(batch(), 0)
