import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from small import built, loader, transformer
from torch import Tensor

from sfseg.errors import ConfigError
from sfseg.methods import source_gta
from sfseg.methods.source_gta import LEFT_OUT, SourceGtA
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.multi_head import with_leave_one_out
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.losses import cross_entropy
from sfseg.ops.styles import STYLES
from sfseg.optim import norm_parameters, parameter_groups
from sfseg.types import Batch

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]
RELEASE = (
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
)  # fmt: skip


configured = partial(small.configured, "method=source_gta")


def make(*overrides: str, network: Segmenter | None = None, **options: Any) -> SourceGtA:
    method: SourceGtA = built(configured(*overrides), network or transformer(), **options)
    return method


def batches() -> dict[str, Batch]:
    rng = torch.Generator().manual_seed(0)
    return {
        "source": {
            "image": torch.randint(0, 256, (2, 3, 32, 64), generator=rng, dtype=torch.uint8),
            "label": torch.randint(0, 19, (2, 32, 64), generator=rng, dtype=torch.uint8),
            "index": torch.arange(2),
            "geometry": torch.tensor([[32, 64, 32, 64, 0, 0, 32, 64, 0]] * 2),
        }
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor]]:
    """Every style that is drawn, with the images that it makes."""
    seen: list[tuple[str, Tensor]] = []

    def remember(name: str, image: Tensor, generator: torch.Generator) -> Tensor:
        seen.append((name, STYLES[name](image, generator)))
        return seen[-1][1]

    styles = {name: partial(remember, name) for name in STYLES}
    monkeypatch.setattr(source_gta, "STYLES", styles)
    return seen


def test_the_configuration_has_all_styles_of_the_table() -> None:
    assert list(configured().method.styles) == list(LEFT_OUT) == list(STYLES)[:-1]


def test_every_head_misses_a_group_and_the_global_one_none() -> None:
    groups = [[style for style, head in LEFT_OUT.items() if head == i] for i in range(6)]
    assert groups == [
        ["fda_noise", "fda"], ["colour"], ["adain"], ["snow", "frost"], ["cartoon"], []
    ]  # fmt: skip


@pytest.mark.parametrize("style", LEFT_OUT)
def test_the_left_out_head_learns_nothing(style: str) -> None:
    method = make(f"method.styles=[{style}]").train()
    before = {k: v.clone() for k, v in method.network.state_dict().items()}
    method.training_step(batches(), 0)["loss"].backward()
    heads = [*method.network.leave_one_out, method.network.head]
    for i, head in enumerate(heads):
        gradients = [p.grad for p in head.parameters()]
        assert all(gradient is not None for gradient in gradients)
        learns = any(gradient.any() for gradient in gradients)
        assert learns == (i != LEFT_OUT[style])
    assert any(p.grad.any() for p in method.network.backbone.parameters())
    after = method.network.state_dict()
    prefix = f"leave_one_out.{LEFT_OUT[style]}."
    moved = {k.rpartition(".")[0] for k, v in after.items() if not torch.equal(v, before[k])}
    assert moved and not any(name.startswith(prefix) for name in moved)
    assert sum("bottleneck" in name for name in moved) == 5


def test_the_clean_image_trains_all_heads() -> None:
    method = make("method.clean=true")
    assert method.styles == (*LEFT_OUT, "clean")
    image = batches()["source"]["image"].float() / 255
    method.loss(image, batches()["source"]["label"], left_out=None).backward()
    for head in [*method.network.leave_one_out, method.network.head]:
        assert any(p.grad.any() for p in head.parameters())


def test_the_loss_is_the_sum_over_the_heads() -> None:
    method = make().eval()
    image, label = batches()["source"]["image"].float() / 255, batches()["source"]["label"]
    each = [cross_entropy(x, label) for x in method.network.forward_heads(image)]
    torch.testing.assert_close(method.loss(image, label, left_out=None), sum(each))
    torch.testing.assert_close(method.loss(image, label, left_out=3), sum(each) - each[3])
    assert torch.equal(method(image), method.network.forward_heads(image)[-1])


def test_void_labels_cost_nothing() -> None:
    for weights in ("none", [2.0] * 19):
        method = make(class_weights=weights)
        void = torch.full((2, 32, 64), 255, dtype=torch.uint8)
        loss = method.loss(torch.rand(2, 3, 32, 64), void, left_out=1)
        loss.backward()
        assert loss == 0 and all(not p.grad.any() for p in method.network.parameters())


def test_all_styles_are_drawn_about_equally(drawn: list[tuple[str, Tensor]]) -> None:
    method = make("method.clean=true")
    method.loss = lambda *_, **__: torch.zeros(())  # type: ignore[method-assign]
    for step in range(400):
        method.training_step(batches(), step)
    counts = [sum(name == style for name, _ in drawn) for style in STYLES]
    assert min(counts) > 25 and max(counts) < 80


def test_a_seed_repeats_its_steps_and_another_does_not(drawn: list[tuple[str, Tensor]]) -> None:
    losses = []
    for seed in (0, 0, 1):
        method = make(f"seed={seed}").eval()
        losses.append([method.training_step(batches(), step)["loss"].item() for step in range(6)])
    assert losses[0] == losses[1] != losses[2]
    names, images = zip(*drawn, strict=True)
    assert names[:6] == names[6:12] != names[12:]
    assert all(torch.equal(a, b) for a, b in zip(images[:6], images[6:12], strict=True))


def test_processes_share_the_style_but_not_its_draw(
    drawn: list[tuple[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make("method.styles=[snow,frost]")
    for rank in (0, 1):
        monkeypatch.setattr(SourceGtA, "global_rank", rank)
        for step in range(6):
            method.training_step(batches(), step)
    names, images = zip(*drawn, strict=True)
    assert names[:6] == names[6:] and len(set(names)) == 2
    assert not any(torch.equal(a, b) for a, b in zip(images[:6], images[6:], strict=True))


class Endless(torch.utils.data.IterableDataset[dict[str, Batch]]):
    def __iter__(self) -> Any:
        while True:
            yield batches()


def test_a_resumed_run_draws_the_same_styles(
    drawn: list[tuple[str, Tensor]], tmp_path: Path
) -> None:
    data, trainer = loader(Endless()), partial(small.trainer, default_root_dir=tmp_path)
    whole = make("trainer.max_steps=5")
    trainer(max_steps=5).fit(whole, data)
    expected = [*drawn]
    drawn.clear()
    first, second = make("trainer.max_steps=5"), make("trainer.max_steps=5")
    one = trainer(max_steps=2)
    one.fit(first, data)
    one.save_checkpoint(tmp_path / "last.ckpt")
    trainer(max_steps=5).fit(second, data, ckpt_path=tmp_path / "last.ckpt")
    assert [name for name, _ in drawn] == [name for name, _ in expected]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(drawn, expected, strict=True))
    torch.testing.assert_close(dict(second.state_dict()), dict(whole.state_dict()))


def test_steps_lower_the_loss_of_all_heads() -> None:
    method = make().train()
    data = batches()
    data["source"]["label"][..., :32], data["source"]["label"][..., 32:] = 3, 7
    data["source"]["image"][..., 32:] //= 2
    image = data["source"]["image"].float() / 255
    groups = parameter_groups(
        method.network, method.shared["parameter_rules"], lr=1e-3, weight_decay=0.01
    )
    optimizer = torch.optim.AdamW(groups)

    def losses() -> list[float]:
        with torch.no_grad():
            logits = method.network.forward_heads(image)
        return [cross_entropy(x, data["source"]["label"]).item() for x in logits]

    before = losses()
    for step in range(20):
        optimizer.zero_grad()
        method.training_step(data, step)["loss"].backward()
        optimizer.step()
    after = losses()
    assert len(after) == 6 and all(b < a - 0.3 for a, b in zip(before, after, strict=True))


def test_all_heads_learn_faster_and_no_norm_decays() -> None:
    method = make("backbone.head_lr_factor=10")
    groups = parameter_groups(
        method.network, method.shared["parameter_rules"], lr=1e-4, weight_decay=0.01
    )
    names = {p: name for name, p in method.network.named_parameters()}
    norms = set(norm_parameters(method.network))
    assert sum(len(group["params"]) for group in groups) == len(names)
    for group in groups:
        for name in (names[parameter] for parameter in group["params"]):
            is_head = name.startswith(("head.", "leave_one_out."))
            assert math.isclose(group["lr"], 1e-3 if is_head else 1e-4)
            assert (group["weight_decay"] == 0) == (name in norms)


@pytest.mark.parametrize("normalize", ["valid", "all"])
def test_weighted_loss_by_hand(normalize: str) -> None:
    method = make(f"method.class_weights=[{','.join(map(str, RELEASE))}]", normalize=normalize)
    method.eval()
    image, label = torch.rand(2, 3, 32, 64), batches()["source"]["label"]
    label[:, :5] = 255
    scores = method(image).detach().double().log_softmax(dim=1)
    total = 0.0
    for b, y, x in (label != 255).nonzero().tolist():
        k = int(label[b, y, x])
        total -= RELEASE[k] * scores[b, k, y, x].item()
    expected = total / (label.numel() if normalize == "all" else int((label != 255).sum()))
    only = method._cross_entropy(method(image), label)
    assert only.item() == pytest.approx(expected, rel=1e-5)


def test_equal_weights_scale_the_loss() -> None:
    image, label = torch.rand(2, 3, 32, 64), batches()["source"]["label"]
    for normalize in ("valid", "all"):
        once = make(normalize=normalize).eval().loss(image, label, left_out=0)
        twice = make(normalize=normalize, class_weights=[2.0] * 19).eval()
        torch.testing.assert_close(twice.loss(image, label, left_out=0), 2 * once)


def test_class_weights_are_no_part_of_the_checkpoint() -> None:
    weighted = make(class_weights=list(RELEASE))
    assert weighted.state_dict().keys() == make().state_dict().keys()
    assert weighted.to(torch.float64).class_weights.dtype == torch.float64


def test_styles_are_made_in_full_precision_within_autocast(
    drawn: list[tuple[str, Tensor]],
) -> None:
    method = make().eval()
    for step in range(8):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            method.training_step(batches(), step)
        method.training_step(batches(), step)
    for (_, low), (_, full) in zip(drawn[::2], drawn[1::2], strict=True):
        assert torch.equal(low, full)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"styles": []}, r"styles must be some of adain, .* got \[\]"),
        ({"styles": ["fda", "fda"]}, r"each once, got \['fda', 'fda'\]"),
        ({"styles": ["rain"]}, r"got \['rain'\]"),
        ({"styles": ["fda", "clean"]}, r"got .*'clean'\]; the image as it is comes with clean=tr"),
        ({"normalize": "mean"}, "normalize must be one of valid, all, got 'mean'"),
        ({"class_weights": [1.0, 2.0]}, r"one number for each of the 19 classes, got \[1.0, 2.0\]"),
        ({"class_weights": "hrnet"}, "class_weights must be 'none' or .* got hrnet"),
        ({"adapter": None}, r"must have leave-one-out heads, got a plain Segmenter; set method\.a"),
        (
            {"adapter": partial(with_leave_one_out, heads=4)},
            r"at least 5 leave-one-out heads .*, got 4; set method\.adapter\.heads or",
        ),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, ConfigError), match=message):
        make(**options)


def test_fewer_heads_suffice_for_fewer_styles() -> None:
    adapter = partial(with_leave_one_out, heads=2)
    method = make(styles=["fda", "colour"], adapter=adapter)
    assert torch.isfinite(method.training_step(batches(), 0)["loss"])


def test_an_auxiliary_head_is_refused() -> None:
    network = transformer(aux_head=DAFormerHead((32,), 19, channels=8, dilations=(1,)))
    with pytest.raises(ConfigError, match=r"backbone\.aux must be null for Generalize"):
        make(network=network)
