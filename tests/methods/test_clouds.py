"""CLOUDS' step: what it learns of which images, and how its teacher labels and follows."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from small import QUIET, backbone, fit
from torch import Tensor
from two_domains import LABELS, SIZE, batch, make

from sfseg.errors import ConfigError
from sfseg.methods import clouds as module
from sfseg.methods.clouds import CLOUDS
from sfseg.methods.source_only import SourceOnly
from sfseg.networks.adapters.choices import heads_only
from sfseg.networks.heads.mask2former.criterion import MaskCriterion
from sfseg.networks.heads.mask2former.mask2former_head import Mask2FormerHead
from sfseg.networks.segmenter import Segmenter
from sfseg.types import IGNORE

pytestmark = QUIET


def network(num_classes: int = 3) -> Segmenter:
    torch.manual_seed(0)
    trunk = backbone()
    head = Mask2FormerHead(
        trunk.channels, num_classes, channels=32, queries=5, encoder_layers=1, decoder_layers=3,
        heads=2, encoder_hidden=16, decoder_hidden=16, criterion=MaskCriterion(points=64),
    )  # fmt: skip
    return Segmenter(trunk, head)


def built(kind: type = CLOUDS, *, frozen: bool = True, **options: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("two_domains.network", lambda levels, num_classes: network(num_classes))
        return make(kind, adapter=heads_only if frozen else None, **options)


class Spy(Callback):
    """What the network is shown, step by step."""

    def __init__(self) -> None:
        self.shown: list[Tensor] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        pl_module.network.register_forward_pre_hook(
            lambda _, given: self.shown.append(given[0].detach().clone())
        )


def steps(method: Any, number: int, **options: Any) -> Any:
    data = [batch(k) for k in range(number)]
    return fit(method, [*data, *data], max_steps=number, **options)


def test_the_teacher_sees_images_as_they_are_and_the_student_in_other_colours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, data, spy = built(), batch(), []
    monkeypatch.setattr(method.network, "features", kept(method.network.features, spy))
    labelled = kept(method.pseudo_labels, spy, result=True)
    monkeypatch.setattr(method, "pseudo_labels", labelled)
    method.training_step(data, 0)
    source, clean, label, coloured = spy
    assert torch.equal(clean, data["target"]["image"])
    assert coloured.is_floating_point() and not torch.equal(coloured, clean.float() / 255)
    assert not torch.equal(source, data["source"]["image"].float() / 255)
    with torch.no_grad():
        expected = network().eval()(clean).argmax(dim=1)
    assert torch.equal(label, expected)


def kept(function: Any, spy: list[Tensor], *, result: bool = False) -> Any:
    def called(given: Any) -> Any:
        if not result:
            spy.append(given)
        found = function(given)
        if result:
            spy.append(found)
        return found

    return called


def test_images_of_both_count_as_those_of_one_batch() -> None:
    """Loss and gradients are those of all images in one forward pass, with the same points."""
    method, data = built(photometric=False, frozen=False).double(), batch()
    fixed = torch.rand(1, 64, 2, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        place = "sfseg.networks.heads.mask2former.criterion"
        patch.setattr(f"{place}.uncertain_points", lambda masks, *_, **__: fixed.expand(
            len(masks), -1, -1).to(masks))  # fmt: skip
        patch.setattr(f"{place}.torch.rand", lambda *_, **__: fixed.float())
        patch.setattr(method, "pseudo_labels", lambda images: data["source"]["label"].roll(1, 0))
        loss = method.training_step(data, 0)["loss"]
        image = torch.cat([data["source"]["image"], data["target"]["image"]])
        label = torch.cat([data["source"]["label"], data["source"]["label"].roll(1, 0)])
        shown = method.network(image, masks=True)
        terms = method.criterion.terms(method.criterion.sums(shown, label))
    expected = torch.stack(list(terms.values())).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    parameters = [p for p in method.network.parameters() if p.requires_grad]
    pairs = (torch.autograd.grad(total, parameters) for total in (loss, expected))
    for mine, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_the_backbone_stays_as_it_is_and_the_head_alone_is_averaged() -> None:
    method = built(teacher_every=2)
    before = deepcopy(method.state_dict())
    steps(method, 4)
    assert not method.network.backbone.training and method.network.head.training
    after = method.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("network.backbone."), name
    assert {name.split(".")[0] for name in after} == {"network", "teacher"}
    assert not any(name.startswith("teacher.network.backbone") for name in after)
    assert sum("patch_embed" in name or "backbone" in name for name in after) == sum(
        "backbone" in name for name in before
    )


def test_the_teacher_moves_every_few_steps_by_its_momentum() -> None:
    method = built(teacher_every=3, momentum=0.75)
    start = deepcopy(method.network.head.state_dict())
    seen: list[dict[str, Tensor]] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            # Before the method's own hook.
            seen.append(deepcopy(pl_module.teacher.network.state_dict()))
            if len(seen) == 3:
                self.third = deepcopy(pl_module.network.head.state_dict())

    look = Look()
    steps(method, 5, callbacks=[look])
    name = "mask_decoder.query"
    assert [torch.equal(own[name], start[name]) for own in seen] == [True] * 3 + [False] * 2
    expected = 0.75 * start[name] + 0.25 * look.third[name]
    torch.testing.assert_close(seen[3][name], expected)
    assert torch.equal(seen[4][name], seen[3][name])


def test_labels_pass_the_refiner_and_what_it_leaves_out_is_outside_all_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, data = built(), batch()
    given = {}

    def refined(one: Any, images: Any, label: Tensor, valid: Any) -> Tensor:
        given.update(image=images["image"], label=label)
        return torch.full_like(label, IGNORE)

    monkeypatch.setattr(module, "refined", refined)
    label = method.pseudo_labels(data["target"])
    assert torch.equal(given["image"], data["target"]["image"]) and given["label"].shape[1:] == SIZE
    assert bool((label == IGNORE).all())
    assert method.labels_online and not built(phase="warmup").labels_online


def test_the_warm_up_is_a_source_only_of_masks() -> None:
    """Without distorted colours."""
    losses = []
    for kind, options in ((CLOUDS, {"phase": "warmup", "photometric": False}), (SourceOnly, {})):
        method = built(kind, **options)
        torch.manual_seed(0)
        losses.append(method.training_step(batch(), 0)["loss"])
        assert set(method.terms) == {"mask_classes", "mask_cross_entropy", "mask_dice"}
    assert torch.equal(*losses)


def test_the_teachers_backbone_is_the_students_without_its_dropout() -> None:
    method = built(frozen=False)
    method.network.backbone.train()
    data = batch()["target"]
    first, second = method.pseudo_labels(data), method.pseudo_labels(data)
    assert torch.equal(first, second) and method.network.backbone.training
    assert first.max() < len(LABELS.classes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"phase": "third"}, ValueError, "phase"),
        ({"momentum": 1.5}, ValueError, "momentum"),
        ({"teacher_every": 0}, ValueError, "teacher_every"),
    ],
)
def test_what_is_out_of_range_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        built(**options)


def test_another_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="got Head; set backbone/head=mask2former"):
        make(CLOUDS)
