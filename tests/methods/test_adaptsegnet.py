"""AdaptSegNet: a plain loop beside it, who learns from what, what it refuses."""

from copy import deepcopy

import pytest
import small
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from small import QUIET
from torch import nn
from two_domains import SIZE, batch, fit, make, network, reached

from sfseg.callbacks.continued import Continued
from sfseg.callbacks.finite import FiniteGuard
from sfseg.data.geometry import Geometry
from sfseg.errors import ConfigError, NumericError
from sfseg.methods import adaptsegnet
from sfseg.methods.adaptsegnet import AdaptSegNet
from sfseg.methods.source_only import SourceOnly
from sfseg.networks.weights.checkpoint import require_same_keys

pytestmark = QUIET
ONE_HEAD = {"cross_entropy", "adversarial", "discriminator/source", "discriminator/target"}
TWO_HEADS = ONE_HEAD | {
    "auxiliary", "auxiliary_adversarial", "auxiliary_discriminator/source",
    "auxiliary_discriminator/target",
}  # fmt: skip


def verdict_loss(verdict, label, kind):
    """Written out: cross-entropy of the sigmoid, or the squared distance."""
    if kind == "least_squares":
        return (verdict - label).square().mean()
    chance = verdict.sigmoid()
    return -(label * chance.log() + (1 - label) * (1 - chance).log()).mean()


def plain_loop(segmenter, judges, data, kind):
    """The two steps of the paper's algorithm as one would write them for a single run.

    Losses are propagated one by one; the discriminators' gradients of the first part are dropped.
    """
    weights, judges_weights = list(segmenter.parameters()), list(judges.parameters())
    sgd = torch.optim.SGD(weights, 0.1, momentum=0.9)
    adam = torch.optim.Adam(judges_weights, 1e-4, betas=(0.9, 0.99))
    for step, images in enumerate(data):
        source, target = images["source"], images["target"]
        sgd.zero_grad()
        heads = {"levels": len(judges) == 2}
        on_source = segmenter(source["image"], **heads)
        on_source = on_source if heads["levels"] else (on_source,)
        label = source["label"].long()
        for logits, weight in zip(on_source, (1, 0.1), strict=False):
            loss = weight * F.cross_entropy(logits, label, ignore_index=255)
            loss.backward(retain_graph=True)
        on_target = segmenter(target["image"], **heads)
        on_target = on_target if heads["levels"] else (on_target,)
        for judge, logits, weight in zip(judges, on_target, (0.001, 0.0002), strict=False):
            seen = torch.softmax(logits, 1)
            (weight * verdict_loss(judge(seen), 0.0, kind)).backward(retain_graph=True)
        sgd.step()
        adam.zero_grad()
        for judge, mine, theirs in zip(judges, on_source, on_target, strict=True):
            for logits, domain in ((mine, 0.0), (theirs, 1.0)):
                seen = torch.softmax(logits.detach(), 1)
                (verdict_loss(judge(seen), domain, kind) / 2).backward()
        adam.step()
        for optimizer in (sgd, adam):
            for group in optimizer.param_groups:
                group["lr"] = (0.1 if optimizer is sgd else 1e-4) * 0.5 ** (step + 1)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("levels", "kind"), [(1, "least_squares"), (2, "vanilla")])
def test_steps_are_those_of_a_plain_loop(levels, kind):
    method = make(AdaptSegNet, levels=levels, adversarial_loss=kind).double()
    segmenter, judges = deepcopy(method.network), deepcopy(method.discriminators)
    data = [batch(0), batch(1)]
    trainer = fit(method, data)
    plain_loop(segmenter, judges, data, kind)
    assert trainer.global_step == method.iteration == 2
    for mine, theirs in ((method.network, segmenter), (method.discriminators, judges)):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], value, rtol=1e-9, atol=1e-12)


class Gradients(Callback):
    """Gradients there are before the step of each optimiser."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = pl_module.named_parameters()
        self.seen.append({name: p.grad.clone() for name, p in named if p.grad is not None})


@pytest.mark.parametrize("levels", [1, 2])
def test_update_table(levels):
    """What of one step reaches whom: by real backward passes, and term by term."""
    method, gradients = make(AdaptSegNet, levels=levels), Gradients()
    names = {part: {n for n, _ in method.named_parameters() if n.startswith(part)}
             for part in ("network", "discriminators")}  # fmt: skip
    fit(method, [batch()], callbacks=[gradients])
    first, second = gradients.seen
    assert first.keys() == names["network"]
    assert second.keys() == names["network"] | names["discriminators"]
    assert all(torch.equal(second[name], first[name]) for name in first)
    assert all(p.requires_grad for p in method.parameters())
    assert method.logged.keys() == (ONE_HEAD if levels == 1 else TWO_HEADS)

    looks = [method.look_at(batch()[domain]) for domain in ("source", "target")]
    terms = method.segmenter_terms(batch(), *looks)
    assert [reached(method, term) for term in terms.values()] == [{"network"}] * len(terms)
    seen = method.discriminator_terms(*(look.detached() for look in looks))
    assert [reached(method, term) for term in seen.values()] == [{"discriminators"}] * len(seen)


def test_each_level_has_a_discriminator_of_its_own():
    method = make(AdaptSegNet, levels=2)
    target = method.look_at(batch()["target"])
    terms = method.fooling_terms(target)
    for k, (name, weight) in enumerate((("adversarial", 1e-3), ("auxiliary_adversarial", 2e-4))):
        verdict = method.discriminators[k](target.levels[k].softmax(1))
        torch.testing.assert_close(terms[name], weight * verdict_loss(verdict, 0.0, "vanilla"))
        others = torch.autograd.grad(
            terms[name], target.levels, allow_unused=True, retain_graph=True
        )
        assert [other is not None for other in others] == [k == 0, k == 1]


def test_the_segmenter_fools_and_the_discriminator_tells():
    method = make(AdaptSegNet)
    source, target = (method.look_at(batch()[domain]) for domain in ("source", "target"))
    (verdict,), (of_source,) = method.verdicts(target), method.verdicts(source)
    terms = method.fooling_terms(target) | method.discriminator_terms(source, target)
    torch.testing.assert_close(terms["adversarial"], -1e-3 * (-verdict).sigmoid().log().mean())
    for name, expected in (("source", (-of_source).sigmoid()), ("target", verdict.sigmoid())):
        found = terms[f"discriminator/{name}"]
        torch.testing.assert_close(found, -0.5 * expected.log().mean())


def test_batch_normalisation_sees_one_domain_at_a_time():
    method, alone = make(AdaptSegNet), network().train()
    fit(method, [batch()])
    for domain in ("source", "target"):
        alone(batch()[domain]["image"])
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(method.network.get_buffer(name), buffer)


@pytest.mark.parametrize("padded", ["source", "target"])
def test_one_domain_may_be_padded_and_the_other_not(padded):
    """Statistics that one pass has moved are among what the gradient of the other has saved."""
    method, data = make(AdaptSegNet), batch()
    data[padded]["geometry"] = torch.tensor([Geometry.whole(SIZE), Geometry.whole((32, 40))])
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    fit(method, [data])
    same = {name for name, p in method.named_parameters() if torch.equal(p, before[name])}
    assert same <= {"network.backbone.stages.0.0.bias"}  # batch normalisation takes it away


@pytest.mark.usefixtures("double")
def test_without_its_weight_it_is_training_on_the_source():
    method, other = make(AdaptSegNet, adversarial_weight=0.0).double(), make(SourceOnly).double()
    for each in (method, other):
        fit(each, [batch(0), batch(1)])
    mine = dict(method.network.named_parameters())
    for name, value in other.network.named_parameters():
        torch.testing.assert_close(mine[name], value, rtol=1e-12, atol=1e-12)


def test_every_picture_counts_by_its_cells_alone():
    """One of 32x64 pixels has two verdicts, one of 20x30 is continued to one."""
    method, data = make(AdaptSegNet), batch()["target"]
    sizes = [SIZE, (20, 30)]
    data["geometry"] = torch.tensor([Geometry.whole(size) for size in sizes])
    look = method.look_at(data)
    (verdicts,) = method.verdicts(look)
    seen = look.levels[0].softmax(1)
    expected = [
        method.discriminators[0](seen[k : k + 1, :, :rows, :columns]).flatten()
        for k, (rows, columns) in enumerate(sizes)
    ]
    assert [len(cells) for cells in expected] == [2, 1]
    torch.testing.assert_close(verdicts, torch.cat(expected))


def poison(monkeypatch, call):
    """Make one call of the loss of verdicts NaN; a step has three."""
    real, calls = adaptsegnet.domain_loss, []

    def loss(*arguments):
        calls.append(None)
        return real(*arguments) * (float("nan") if len(calls) == call else 1)

    monkeypatch.setattr(adaptsegnet, "domain_loss", loss)


def test_a_skipped_step_changes_neither(monkeypatch):
    poison(monkeypatch, call=4)
    method, other = make(AdaptSegNet), make(AdaptSegNet)
    fit(method, [batch(0), batch(1)], callbacks=[FiniteGuard("skip")])
    fit(other, [batch(0)])
    pairs = zip(method.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(("call", "name"), [(4, "adversarial"), (5, "discriminator/source")])
def test_the_term_that_is_not_finite_is_named(monkeypatch, call, name):
    poison(monkeypatch, call=call)
    with pytest.raises(NumericError, match=f"iteration 2: of the loss, {name} is nan"):
        fit(make(AdaptSegNet), [batch(0), batch(1)], callbacks=[FiniteGuard("stop")])


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_run_that_goes_on_has_its_own_rate_of_the_discriminators(tmp_path):
    first = fit(make(AdaptSegNet), [batch(0)])
    first.save_checkpoint(tmp_path / "last.ckpt")
    on = small.trainer(max_epochs=3, max_steps=2, callbacks=[Continued()])
    on.fit(
        make(AdaptSegNet, discriminator_lr=0.02), small.loader([batch(0), batch(1)]),
        ckpt_path=tmp_path / "last.ckpt", weights_only=True,
    )  # fmt: skip
    rates = [optimizer.param_groups[0]["lr"] for optimizer in on.optimizers]
    assert on.global_step == 2 and rates == pytest.approx([0.1 / 4, 0.02 / 4])


def test_a_checkpoint_of_another_number_of_classes_is_refused():
    mine, theirs = make(AdaptSegNet), make(AdaptSegNet, num_classes=2)
    with pytest.raises(ConfigError, match=r"discriminators\.0\.layers\.0\.weight.*2 class") as said:
        require_same_keys(mine.state_dict(), theirs.state_dict(), source="last.ckpt")
    assert "3" in str(said.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adversarial_loss": "ls"}, "adversarial_loss must be one of vanilla, least_squares, got"),
        ({"adversarial_weight": -1.0}, "adversarial_weight must not be negative, got -1.0"),
        ({"aux_adversarial_weight": float("nan")}, "aux_adversarial_weight must not be negative"),
        ({"discriminator_lr": 0.0}, "discriminator_lr must be positive, got 0.0"),
        ({"aux_weight": 0.1}, "0 where it has none, got 0.1; set method.aux_weight or backbone"),
        ({"normalize": "some"}, "normalize must be one of valid, all, got 'some'"),
        ({"crops": ((16, 64), SIZE)}, r"got 64x16; set data\.source_view\.crop=\[height,width\]"),
        ({"crops": (SIZE, (64, 31))}, r"got 31x64; set data\.target_crop=\[height,width\]"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make(AdaptSegNet, **options)


def test_crops_that_follow_the_pictures_are_not_refused():
    assert isinstance(make(AdaptSegNet, crops=(None, None)).discriminators, nn.ModuleList)
