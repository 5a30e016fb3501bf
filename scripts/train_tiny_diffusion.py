"""Teach the model of tiny_diffusion.py drawn streets: toyscapes' game, 64x128.

First the VAE, on windows: L1 and a small KL divergence, as of latent diffusion (Rombach et al.,
CVPR 2022), without its discriminator and perceptual loss. Then U-Net and text encoder, on latents
of whole scenes: the error of the predicted noise (Ho et al., NeurIPS 2020). A prompt names one
thing that the scene's label has, ``a photo of cars``; one in ten is empty, for guidance.

The same seed and numbers of steps give the same weights on one machine.
"""

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.generation.dreambooth import noise_scheduler
from sfseg.generation.identifier import tokens_of
from sfseg.labels import CITYSCAPES

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

SCENES, SIZE, WINDOW = 192, (64, 128), (32, 32)
"""Different scenes; (height, width) in pixels of a scene, and of what the VAE sees of it."""
VAE_BATCH, UNET_BATCH = 4, 2
LR = 2e-3
KL_WEIGHT = 1e-4
"""Of the mean over a latent's values; the reconstruction's error is a mean over pixels."""
FIRST_LOG_VARIANCE = -6.0
"""Of the posterior. Begun near 0, its deviation was still 0.7 after 150 steps, the means' 1.9."""
WITHOUT_PROMPT = 0.1
"""Share of steps' images that are learnt under an empty prompt."""
EVERY = 25
"""Steps between two lines of the log."""
FEWEST = 20
"""Pixels of a thing that the scene is said to show."""
PLURALS = {name: f"{name}s" for name in CITYSCAPES.classes[6:8] + CITYSCAPES.classes[11:]}
PLURALS["bus"] = "buses"
"""DATUM's ten things, as its prompts write them."""


class Streets(NamedTuple):
    """Scenes and what is seen in them.

    images: (N, 3, H, W) in [-1, 1].
    prompts: of each scene, one for each thing; an empty one where there is none.
    """

    images: Tensor
    prompts: list[list[str]]


def streets(number: int = SCENES, size: tuple[int, int] = SIZE) -> Streets:
    """Training scenes of the game: the city is what a model is personalised on later."""
    scenes = Toyscapes("game", "train", length=number, size=size)
    pictures = np.stack([scenes.image(k) for k in range(number)])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return Streets(images.contiguous(), [prompts_of(scenes.label(k)) for k in range(number)])


def prompts_of(label: np.ndarray) -> list[str]:
    """One prompt for each thing of the label, or an empty one."""
    pixels = np.bincount(label.ravel(), minlength=256)
    seen = [name for k, name in enumerate(CITYSCAPES.classes) if pixels[k] >= FEWEST]
    return [f"a photo of {PLURALS[name]}" for name in seen if name in PLURALS] or [""]


def train(pipeline: Any, vae_steps: int, unet_steps: int, seed: int = 0) -> None:
    """Train a pipeline in place, and say what it has learnt."""
    known = streets()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    few = known.images[:8]
    before = reconstruction_error(pipeline, few)
    train_vae(pipeline, known.images, vae_steps, rng)
    after = reconstruction_error(pipeline, few)
    print(f"VAE: mean error of a value {before:.3f} before, {after:.3f} after (of -1..1)")
    latents = encoded(pipeline, known.images)
    scale = 1 / latents[:, 0].std().item()
    pipeline.vae.register_to_config(scaling_factor=scale)
    latents *= scale
    before = mean_noise_error(pipeline, latents, known.prompts)
    train_unet(pipeline, latents, known.prompts, unet_steps, rng)
    after = mean_noise_error(pipeline, latents, known.prompts)
    print(f"U-Net: error of the noise {before:.3f} before, {after:.3f} after (1: predicts nothing)")


def train_vae(pipeline: Any, images: Tensor, steps: int, rng: np.random.Generator) -> None:
    """Steps on random windows of ``images``, (N, 3, H, W) in [-1, 1]."""

    def loss() -> Tensor:
        sides = zip(images.shape[2:], WINDOW, strict=True)
        top, left = (int(rng.integers(side - part + 1)) for side, part in sides)
        batch = images[rng.integers(len(images), size=VAE_BATCH)]
        batch = batch[..., top : top + WINDOW[0], left : left + WINDOW[1]]
        posterior = pipeline.vae.encode(batch).latent_dist
        latent = posterior.sample()
        kl = posterior.kl().mean() / latent[0].numel()
        return F.l1_loss(pipeline.vae.decode(latent).sample, batch) + KL_WEIGHT * kl

    vae = pipeline.vae
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.latent_channels :] = FIRST_LOG_VARIANCE
    optimise("VAE", [vae], steps, loss)


def train_unet(
    pipeline: Any, latents: Tensor, prompts: list[list[str]], steps: int, rng: np.random.Generator
) -> None:
    """Steps on scaled latents (N, 2, C, H, W), as of :func:`encoded`."""
    add = noise_scheduler(pipeline)

    def loss() -> Tensor:
        chosen = rng.integers(len(latents), size=UNET_BATCH)
        said = [
            "" if rng.random() < WITHOUT_PROMPT else str(rng.choice(prompts[k])) for k in chosen
        ]
        mean, deviation = latents[chosen].unbind(1)
        latent = mean + deviation * torch.randn_like(mean)
        time = torch.randint(add.config.num_train_timesteps, (len(latent),))
        return noise_error(pipeline, add, latent, time, said)

    optimise("U-Net", [pipeline.unet, pipeline.text_encoder], steps, loss)


def optimise(title: str, parts: list[nn.Module], steps: int, loss: Callable[[], Tensor]) -> None:
    """Steps of AdamW at a rate that falls to zero, with the time that is left in the log."""
    weights = [weight for part in parts for weight in part.train().parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False
    )
    start, recent = monotonic(), []
    for done in range(1, steps + 1):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        recent.append(value.item())
        if done % EVERY == 0 or done == steps:
            left = (monotonic() - start) / done * (steps - done)
            mean = sum(recent) / len(recent)
            print(f"{title} {done}/{steps}: loss {mean:.3f}, {left:.0f} s left", flush=True)
            recent.clear()
    for part in parts:
        part.eval()


def noise_error(
    pipeline: Any, add: "DDPMScheduler", latent: Tensor, time: Tensor, prompts: list[str]
) -> Tensor:
    """Mean squared error of the noise that the U-Net predicts in latents (B, C, H, W)."""
    noise = torch.randn_like(latent)
    tokens = torch.cat([tokens_of(pipeline.tokenizer, prompt) for prompt in prompts])
    condition = pipeline.text_encoder(tokens)[0]
    predicted = pipeline.unet(add.add_noise(latent, noise, time), time, condition).sample
    return F.mse_loss(predicted, noise)


@torch.no_grad()
def mean_noise_error(pipeline: Any, latents: Tensor, prompts: list[list[str]]) -> float:
    """:func:`noise_error` of some scenes at 16 times that spread over the schedule."""
    add = noise_scheduler(pipeline)
    times = torch.linspace(0, add.config.num_train_timesteps - 1, 16).round().long()
    few = min(len(latents), 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        errors = [
            noise_error(
                pipeline, add, latents[k % few, None, 0], time[None], prompts[k % few][:1]
            ).item()
            for k, time in enumerate(times)
        ]
    return sum(errors) / len(errors)


@torch.no_grad()
def encoded(pipeline: Any, images: Tensor) -> Tensor:
    """Mean and deviation of each image's latent, (N, 2, C, H / 2, W / 2), not scaled."""
    parts = [pipeline.vae.encode(batch).latent_dist for batch in images.split(VAE_BATCH)]
    return torch.cat([torch.stack((part.mean, part.std), dim=1) for part in parts])


@torch.no_grad()
def reconstruction_error(pipeline: Any, images: Tensor) -> float:
    """Mean absolute error of images (N, 3, H, W) in [-1, 1] after the VAE."""
    latent = pipeline.vae.encode(images).latent_dist.mode()
    return F.l1_loss(pipeline.vae.decode(latent).sample, images).item()
