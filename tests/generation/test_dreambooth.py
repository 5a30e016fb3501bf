"""The loss against its equation, and what a step changes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfseg.errors import ConfigError, NumericError
from sfseg.generation.dreambooth import DreamBooth, size_factor
from sfseg.generation.settings import Lora, Prior, Settings
from sfseg.randomness import seed32

SETTINGS = Settings(model="tiny", crop=16, lr=1e-4)
STEP = 3


def drawn(size: int = 16, number: int = 1) -> Tensor:
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def weights(pipeline: Any) -> dict[str, dict[str, Tensor]]:
    parts = {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder")}
    return {
        name: {key: value.clone() for key, value in part.state_dict().items()}
        for name, part in parts.items()
    }


def by_hand(pipeline: Any, images: Tensor, prompts: list[str], kind: str) -> Tensor:
    """Each picture's loss, from the equations alone; noise is drawn in the order of its use."""
    draw = torch.Generator().manual_seed(seed32(SETTINGS.seed, 0, STEP, "generation/noise"))
    moments = pipeline.vae.quant_conv(pipeline.vae.encoder(images))
    mean, log_variance = moments.chunk(2, dim=1)
    own = torch.randn(mean.shape, generator=draw, dtype=mean.dtype)
    latent = 0.18215 * (mean + (log_variance / 2).exp() * own)
    noise = torch.randn(mean.shape, generator=draw, dtype=mean.dtype)
    time = torch.randint(1000, (len(images),), generator=draw)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = torch.from_numpy(np.cumprod(1 - betas))[time].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * latent + (1 - kept).sqrt() * noise
    words = pipeline.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    condition = pipeline.text_encoder(words).last_hidden_state
    found = pipeline.unet(noisy, time, condition).sample
    wanted = noise
    if kind == "v_prediction":
        wanted = kept.sqrt() * noise - (1 - kept).sqrt() * latent
    return ((found - wanted) ** 2).flatten(1).mean(1)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_loss_is_the_equations(pipeline: Any, kind: str) -> None:
    pipeline.to(dtype=torch.float64)
    pipeline.scheduler.register_to_config(prediction_type=kind)
    prior = Prior(weight=0.3, prompt="a street")
    training = DreamBooth(pipeline, replace(SETTINGS, batch_size=2, prior=prior))
    images = drawn(number=4).double()
    loss = training.loss(STEP, images)
    each = by_hand(pipeline, images, [SETTINGS.prompt] * 2 + ["a street"] * 2, kind)
    torch.testing.assert_close(loss, each[:2].mean() + 0.3 * each[2:].mean(), rtol=1e-6, atol=0)
    without = DreamBooth(pipeline, replace(SETTINGS, batch_size=4)).loss(STEP, images)
    each = by_hand(pipeline, images, [SETTINGS.prompt] * 4, kind)
    torch.testing.assert_close(without, each.mean(), rtol=1e-6, atol=0)


def test_schedulers_that_draw_do_not_say_how_noise_is_added(pipeline: Any) -> None:
    import diffusers

    config = pipeline.scheduler.config
    wanted = DreamBooth(pipeline, SETTINGS).loss(STEP, drawn())
    for name in ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "EulerDiscrete"):
        kind = getattr(diffusers, f"{name}Scheduler")
        pipeline.scheduler = kind.from_config(config)
        assert torch.equal(DreamBooth(pipeline, SETTINGS).loss(STEP, drawn()), wanted), name


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_step_changes_what_is_trained_alone(
    pipeline: Any, with_text: bool, checkpointing: bool
) -> None:
    settings = replace(SETTINGS, train_text_encoder=with_text, gradient_checkpointing=checkpointing)
    before = weights(pipeline)
    DreamBooth(pipeline, settings).step(0, drawn())
    after = weights(pipeline)
    changed = {
        name for name, part in before.items()
        if any(not torch.equal(part[key], after[name][key]) for key in part)
    }  # fmt: skip
    assert changed == ({"unet", "text_encoder"} if with_text else {"unet"})


def test_gradients_that_are_computed_twice_are_the_same(pipeline: Any) -> None:
    gradients = []
    for checkpointing in (False, True):
        settings = replace(SETTINGS, gradient_checkpointing=checkpointing)
        training = DreamBooth(pipeline, settings)
        training.set_training(True)
        training.loss(0, drawn()).backward()
        gradients.append([weight.grad for _, weight in training.weights()])
        training.optimizer.zero_grad()
    torch.testing.assert_close(*gradients)


def test_every_weight_of_unet_and_text_encoder_learns(pipeline: Any) -> None:
    training = DreamBooth(pipeline, SETTINGS)
    training.loss(0, drawn()).backward()
    assert [name for name, weight in training.weights() if weight.grad is None] == []


def test_the_step_is_adamw_on_a_clipped_gradient(pipeline: Any) -> None:
    """At first, AdamW moves each weight by lr in the direction of its sign, and decays it."""
    training = DreamBooth(pipeline, SETTINGS)
    training.loss(0, drawn()).backward()
    known = dict(training.weights())
    gradients = {name: weight.grad.clone() for name, weight in known.items()}  # type: ignore[union-attr]
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    before = {name: weight.detach().clone() for name, weight in known.items()}
    training.optimizer.zero_grad()
    training.step(0, drawn())
    for name, gradient in gradients.items():
        clipped = gradient / norm.clamp(min=1)
        moved = before[name] * (1 - 1e-4 * 1e-2) - 1e-4 * clipped / (clipped.abs() + 1e-8)
        torch.testing.assert_close(known[name].detach(), moved, rtol=1e-5, atol=2e-7)


def test_adapters_change_nothing_until_they_are_trained(pipeline: Any) -> None:
    wanted = DreamBooth(pipeline, SETTINGS).loss(STEP, drawn())
    before = weights(pipeline)
    training = DreamBooth(pipeline, replace(SETTINGS, lora=Lora(rank=2, alpha=4)))
    assert torch.equal(training.loss(STEP, drawn()), wanted)
    trained = sum(weight.numel() for _, weight in training.weights())
    assert trained < sum(v.numel() for part in before.values() for v in part.values()) / 50
    training.step(0, drawn())
    after = weights(pipeline)
    for name, part in before.items():
        for key, value in part.items():
            stem, _, end = key.rpartition(".")
            inside = f"{stem}.base_layer.{end}"
            now = after[name][inside if inside in after[name] else key]
            assert torch.equal(now, value), key
    assert not torch.equal(training.loss(STEP, drawn()), wanted)


def test_it_learns(pipeline: Any) -> None:
    """Ten steps on one picture lower the loss at other noise than that of training."""
    training = DreamBooth(pipeline, replace(SETTINGS, lr=2e-3))
    images = torch.zeros(1, 3, 16, 16)

    def unseen() -> float:
        with torch.no_grad():
            return float(np.mean([training.loss(1000 + k, images).item() for k in range(4)]))

    before = unseen()
    for number in range(10):
        training.step(number, images)
    assert unseen() < 0.9 * before


def test_a_gradient_that_is_not_finite_changes_nothing(pipeline: Any) -> None:
    training = DreamBooth(pipeline, SETTINGS)
    before = weights(pipeline)
    with pytest.raises(NumericError, match=r"step 5 is not finite.*lr=0\.0001"):
        training.step(4, torch.full((1, 3, 16, 16), torch.nan))
    for name, part in weights(pipeline).items():
        assert all(torch.equal(part[key], before[name][key]) for key in part)


def test_weights_of_half_precision_are_refused(pipeline: Any) -> None:
    pipeline.to(dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match=r"unet are torch\.bfloat16.*lost in rounding"):
        DreamBooth(pipeline, SETTINGS)


def test_products_of_half_precision_leave_weights_in_single(pipeline: Any) -> None:
    training = DreamBooth(pipeline, replace(SETTINGS, precision="bf16-mixed"))
    exact = DreamBooth(pipeline, SETTINGS).loss(STEP, drawn())
    fast = training.loss(STEP, drawn())
    assert fast.dtype == torch.float32 and not torch.equal(fast, exact)
    torch.testing.assert_close(fast, exact, rtol=0.02, atol=0)
    training.step(0, drawn())
    assert {weight.dtype for _, weight in training.weights()} == {torch.float32}


def test_models_of_other_parts_are_refused(pipeline: Any) -> None:
    pipeline.text_encoder_2 = pipeline.text_encoder
    with pytest.raises(ConfigError, match="StableDiffusionPipeline, which has a text_encoder_2"):
        DreamBooth(pipeline, SETTINGS)


def test_models_that_predict_the_picture_are_refused(pipeline: Any) -> None:
    pipeline.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ConfigError, match="predicts 'sample'"):
        DreamBooth(pipeline, SETTINGS)


def test_a_crop_is_a_multiple_of_what_the_model_halves(pipeline: Any) -> None:
    assert size_factor(pipeline) == 4
    with pytest.raises(ConfigError, match=r"crop=18 must be a multiple of 4.*crop=16 or 20"):
        DreamBooth(pipeline, replace(SETTINGS, crop=18))
    with pytest.raises(ConfigError, match=r"crop=4$"):
        DreamBooth(pipeline, replace(SETTINGS, crop=3))


@pytest.mark.parametrize(
    ("prompt", "identifier", "message"),
    [
        ("a photo of an urban scene", "sks", "does not have the identifier 'sks'"),
        ("a photo of asks", "sks", "does not have the identifier"),
        ("a photo of a dog", "dog", r"dog is 3 tokens of this model \(d, o, g</w>\).*are: sks"),
        ("a photo of a sks", "", "is 0 tokens"),
        ("a <|endoftext|>", "<|endoftext|>", "is a special token .* rare words are: sks"),
        ("sks" + " far" * 40, "sks", "has 123 tokens, of which this model sees 77"),
    ],
)
def test_the_identifier_is_one_token_of_the_prompt(
    pipeline: Any, prompt: str, identifier: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        DreamBooth(pipeline, replace(SETTINGS, prompt=prompt, identifier=identifier))


def test_upper_case_is_the_same_word(pipeline: Any) -> None:
    DreamBooth(pipeline, replace(SETTINGS, prompt="A photo of a SKS, a place", identifier="sks"))


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: replace(SETTINGS, steps=0), "steps must be a whole number of at least 1, got 0"),
    (lambda: replace(SETTINGS, keep_every=1.5), "keep_every must be a whole number"),
    (lambda: replace(SETTINGS, lr=0), "lr must be a number above 0, got 0"),
    (lambda: replace(SETTINGS, lr=float("nan")), "lr must be a number above 0, got nan"),
    (lambda: replace(SETTINGS, seed=-1), "seed must be a whole number of at least 0"),
    (lambda: replace(SETTINGS, precision="bf16-true"), "lost in rounding or become NaN"),
    (lambda: replace(SETTINGS, precision="64"), "precision must be 32-true or bf16-mixed"),
    (lambda: replace(SETTINGS, train_text_encoder="no"), "train_text_encoder must be true or"),
    (lambda: Lora(rank=0, alpha=1), r"lora\.rank must be"),
    (lambda: Lora(rank=1, alpha=0), r"lora\.alpha must be"),
    (lambda: Prior(weight=-1), r"prior\.weight must be a number at least 0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_settings_that_cannot_be_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
