"""DreamBooth: a text-to-image model learns one subject (Ruiz et al., CVPR 2023, arXiv:2208.12242).

DATUM's subject is a place: random windows of one photograph of it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfseg.errors import ConfigError, NumericError
from sfseg.generation.identifier import require_identifier, require_short, tokens_of
from sfseg.generation.lora import add_adapters
from sfseg.generation.settings import Settings
from sfseg.randomness import seed32

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


class DreamBooth:
    """Trains a pipeline's U-Net, and its text encoder, to draw a place at an identifier.

    All randomness of a step is a function of the seed and of the step's number.

    Args:
        pipeline: of Stable Diffusion's parts, its weights float32; they are trained in place.
        settings: see :class:`Settings`.

    Raises:
        ConfigError: a pipeline of other parts, or whose weights are not float32.
    """

    def __init__(self, pipeline: Any, settings: Settings) -> None:
        require_trainable(pipeline, settings)
        self.pipeline, self.settings = pipeline, settings
        self.device: torch.device = pipeline.device
        self.noise = noise_scheduler(pipeline)
        trained = {"unet": pipeline.unet}
        if settings.train_text_encoder:
            trained["text_encoder"] = pipeline.text_encoder
        self.trained: dict[str, nn.Module] = trained
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False)
        if settings.lora is None:
            for part in trained.values():
                part.requires_grad_(True)
        else:
            add_adapters(trained, settings.lora, settings.seed)
        if settings.gradient_checkpointing:
            checkpoint_gradients(pipeline, settings)
        prompts = [settings.prompt] * settings.batch_size
        if settings.prior.weight:
            prompts += [settings.prior.prompt] * settings.batch_size
        tokens = torch.cat([tokens_of(pipeline.tokenizer, prompt) for prompt in prompts])
        self.tokens = tokens.to(self.device)
        self.optimizer = torch.optim.AdamW(
            [weight for _, weight in self.weights()],
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            fused=True,  # without temporary copies of all weights
        )

    def weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and values of what is trained."""
        for name, part in self.trained.items():
            for key, weight in part.named_parameters():
                if weight.requires_grad:
                    yield f"{name}.{key}", weight

    def step(self, number: int, images: Tensor) -> float:
        """One step of the optimiser.

        Args:
            number: of the step, from 0.
            images: as in :meth:`loss`.

        Returns:
            The loss before the step.

        Raises:
            NumericError: the gradient is not finite; the weights are as they were.
        """
        self.set_training(True)
        loss = self.loss(number, images)
        loss.backward()  # type: ignore[no-untyped-call]
        weights = [weight for _, weight in self.weights()]
        norm = nn.utils.clip_grad_norm_(weights, self.settings.max_grad_norm)
        if not norm.isfinite():
            self.optimizer.zero_grad()
            raise NumericError(
                f"the gradient of step {number + 1} is not finite (loss {loss.item():g}); lower "
                f"lr={self.settings.lr:g}, or set precision=32-true"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def loss(self, number: int, images: Tensor) -> Tensor:
        """Mean squared error of the predicted noise (equation 1 of the paper, without its weights).

        Args:
            number: of the step, from 0.
            images: (B, 3, H, W) in [-1, 1]; with prior preservation (2B, 3, H, W), the second half
                of other places, whose loss is weighted as in equation 2.
        """
        draw = torch.manual_seed(seed32(self.settings.seed, 0, number, "generation/noise"))
        with torch.no_grad():
            posterior = self.pipeline.vae.encode(images.to(self.device)).latent_dist
            latent = posterior.sample(generator=draw) * self.pipeline.vae.config.scaling_factor
        noise = torch.randn(latent.shape, generator=draw, dtype=latent.dtype).to(self.device)
        count = self.noise.config.num_train_timesteps
        time = torch.randint(count, (len(latent),), generator=draw).to(self.device)
        noisy = self.noise.add_noise(latent, noise, time)
        is_fast = self.settings.precision == "bf16-mixed"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_fast):
            with torch.set_grad_enabled(self.settings.train_text_encoder):
                condition = self.pipeline.text_encoder(self.tokens)[0]
            predicted = self.pipeline.unet(noisy, time, condition).sample
        wanted = noise
        if self.noise.config.prediction_type == "v_prediction":
            wanted = self.noise.get_velocity(latent, noise, time)
        error = F.mse_loss(predicted.float(), wanted.float(), reduction="none").mean((1, 2, 3))
        size = self.settings.batch_size
        loss = error[:size].mean()
        if self.settings.prior.weight:
            loss = loss + self.settings.prior.weight * error[size:].mean()
        return loss

    def set_training(self, mode: bool) -> None:
        """Let the trained parts train, or draw."""
        for part in self.trained.values():
            part.train(mode)

    def state(self) -> dict[str, Any]:
        """All that training has changed."""
        return {
            "state_dict": {name: weight.detach() for name, weight in self.weights()},
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`state` has returned.

        Raises:
            ConfigError: it is of other weights.
        """
        weights, known = dict(self.weights()), state["state_dict"]
        differ = sorted(weights.keys() ^ known.keys())
        differ += [
            key for key in weights.keys() & known.keys() if weights[key].shape != known[key].shape
        ]
        if differ:
            raise ConfigError(
                f"the state of this run has other weights than model={self.settings.model} "
                f"({differ[0]}); the model has been replaced, so choose another folder for out"
            )
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(known[name])
        self.optimizer.load_state_dict(state["optimizer"])


def noise_scheduler(pipeline: Any) -> "DDPMScheduler":
    """The scheduler that noise is added by in training: DDPM's, with the pipeline's own betas.

    The pipeline's own is for drawing. Some of these (DPMSolverMultistep, UniPC and DEIS of
    diffusers 0.42) look up times in reverse order until ``set_timesteps`` has been called, so that
    little noise would be added where much is meant.

    Raises:
        ConfigError: the model predicts something else than noise or velocity.
    """
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ConfigError(
            f"the model predicts {kind!r}; DreamBooth is written for models that predict noise "
            "(epsilon) or velocity (v_prediction), such as Stable Diffusion 1 and 2"
        )
    return scheduler


def require_trainable(pipeline: Any, settings: Settings) -> None:
    """Refuse a pipeline that is not made as Stable Diffusion 1 and 2 are, or does not fit.

    Raises:
        ConfigError: names the part, the prompt or the crop.
    """
    missing = [name for name in PARTS if getattr(pipeline, name, None) is None]
    more = [name for name in ("text_encoder_2", "transformer") if hasattr(pipeline, name)]
    if missing or more:
        which = f"has no {missing[0]}" if missing else f"has a {more[0]}"
        raise ConfigError(
            f"model={settings.model} is a {type(pipeline).__name__}, which {which}; personalise "
            "trains models made as Stable Diffusion 1 and 2 are"
        )
    for name in ("unet", "vae", "text_encoder"):
        dtype = next(getattr(pipeline, name).parameters()).dtype
        if not dtype.is_floating_point or dtype.itemsize < 4:
            raise ConfigError(
                f"the weights of the {name} are {dtype}, in which steps of lr={settings.lr:g} are "
                "lost in rounding; load the model with torch.float32"
            )
    require_whole_crop(pipeline, settings.crop)
    require_identifier(pipeline.tokenizer, settings.identifier, settings.prompt)
    if settings.prior.weight:
        require_short(pipeline.tokenizer, settings.prior.prompt, "prior.prompt")
    if settings.samples.every:
        require_short(pipeline.tokenizer, settings.samples.prompt, "samples.prompt")


def require_whole_crop(pipeline: Any, crop: int) -> None:
    """Refuse a crop that VAE and U-Net cannot halve as often as they do.

    Raises:
        ConfigError: names the nearest crops that they can.
    """
    factor = size_factor(pipeline)
    if crop % factor:
        below, above = crop // factor * factor, -(-crop // factor) * factor
        near = f"{below} or {above}" if below else f"{above}"
        raise ConfigError(
            f"crop={crop} must be a multiple of {factor}, by which the model's VAE and U-Net "
            f"reduce pictures; set crop={near}"
        )


def size_factor(pipeline: Any) -> int:
    """Pixels of a picture's side for one of the U-Net's coarsest features."""
    vae, unet = pipeline.vae.config.block_out_channels, pipeline.unet.config.block_out_channels
    return int(2 ** (len(vae) - 1 + len(unet) - 1))


def checkpoint_gradients(pipeline: Any, settings: Settings) -> None:
    """Let trained parts compute activations again rather than keep them."""
    pipeline.unet.enable_gradient_checkpointing()
    if settings.train_text_encoder:
        text = pipeline.text_encoder
        # transformers has given it a new name, and warns of the old one (5.24).
        has_new = hasattr(text, "activation_checkpointing_enable")
        enable = "activation_checkpointing_enable" if has_new else "gradient_checkpointing_enable"
        getattr(text, enable)()
