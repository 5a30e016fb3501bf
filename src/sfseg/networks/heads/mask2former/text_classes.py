"""Classes by their names: queries are compared with what CLIP's text side says of them."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES, LabelSpace
from sfseg.networks.layers import require_positive
from sfseg.networks.weights.text_embeddings import text_embeddings
from sfseg.ops.mask_pooling import mask_pooled

TEMPERATURE = 0.07
LARGEST_SCALE = 100.0


class TextClasses(nn.Module):
    """The class head that CLOUDS' code has beside the linear one and no released setting uses.

    A query's embedding comes of what the decoder has made of it and of the pixels that its mask
    covers. The logit of a class is its cosine to the nearest of the class's synonyms, times a
    learnt scale; a learnt direction stands for "no object".

    The names' directions are a buffer: a checkpoint holds them, and what it is restored to needs
    neither open_clip nor its weights.

    Args:
        channels: width of queries and of the features of pixels.
        num_classes: K.
        labels: the task's, or the names of its classes.
        synonyms: names of each class; a class without an entry is called as in ``labels``.
        model: name of an architecture of open_clip.
        pretrained: a tag of its weights or a local file; False leaves random directions, which
            know nothing of the names and are meant to be loaded over.
        dim: width of CLIP's embeddings; 768 of ConvNeXt-L, 1024 of ResNet-50, 512 of ResNet-101.

    Raises:
        ConfigError: ``synonyms`` does not fit the classes, ``dim`` the model; see
            :func:`sfseg.networks.weights.text_embeddings.text_embeddings`.
        ValueError: a number that does not do.
    """

    embeddings: Tensor

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        labels: LabelSpace | Sequence[str],
        synonyms: Mapping[str, Sequence[str]],
        model: str,
        pretrained: str | bool,
        dim: int,
    ) -> None:
        super().__init__()
        require_positive(channels=[channels], dim=[dim])
        classes = labels.classes if isinstance(labels, LabelSpace) else tuple(labels)
        if len(classes) != num_classes:
            raise ValueError(
                f"labels must name the {num_classes} classes of the network, got {list(classes)}"
            )
        names = synonyms_of(classes, synonyms)
        self.counts = [len(group) for group in names]
        everyone = tuple(name for group in names for name in group)
        self.register_buffer("embeddings", _directions(everyone, model, pretrained, dim))
        self.pooled = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels))
        self.embedding = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(),
            nn.Linear(channels, channels), nn.ReLU(),
            nn.Linear(channels, dim),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))
        self.void = nn.Parameter(torch.randn(1, dim))

    def forward(
        self,
        decoded: Float[Tensor, "B Q C"],
        mask_features: Float[Tensor, "B C h w"],
        masks: Float[Tensor, "B Q h w"],
    ) -> Float[Tensor, "B Q L"]:
        """Logits of the K classes and of no object, in single precision.

        Args:
            decoded: queries.
            mask_features: of pixels.
            masks: logits; they decide what is pooled and get no gradient from it.
        """
        pooled = self.pooled(mask_pooled(mask_features, masks))
        query = self.embedding(pooled + decoded)
        with torch.autocast(query.device.type, enabled=False):
            names = torch.cat([self.embeddings, F.normalize(self.void, dim=-1)])
            names = names.to(torch.promote_types(query.dtype, torch.float32))
            cosines = F.normalize(query.to(names.dtype), dim=-1) @ names.T  # (B, Q, S + 1)
            logits = self.scale.exp().clamp(max=LARGEST_SCALE) * cosines
            groups = torch.split(logits, [*self.counts, 1], dim=-1)
            return torch.stack([group.amax(dim=-1) for group in groups], dim=-1)


def synonyms_of(
    classes: Sequence[str], synonyms: Mapping[str, Sequence[str]]
) -> list[tuple[str, ...]]:
    """What each class is called.

    Args:
        classes: names of a task's classes.
        synonyms: of some of them, and of any of Cityscapes, of which a task may have a part.

    Raises:
        ConfigError: an entry for a class that does not exist or without names, or a name that two
            classes share.
    """
    if unknown := [name for name in synonyms if name not in {*classes, *CITYSCAPES.classes}]:
        raise ConfigError(
            f"backbone.head.class_head.synonyms must be of classes of the task "
            f"({', '.join(classes)}) or of Cityscapes, got entries for {', '.join(unknown)}"
        )
    names = [tuple(synonyms.get(name, (name,))) for name in classes]
    owner: dict[str, str] = {}
    for name, group in zip(classes, names, strict=True):
        if isinstance(synonyms.get(name), str) or not group or not all(map(_is_name, group)):
            raise ConfigError(
                f"backbone.head.class_head.synonyms of {name} must be a list of one or more names, "
                f"got {synonyms[name]!r}"
            )
        for synonym in group:
            if synonym in owner:
                raise ConfigError(
                    f"backbone.head.class_head.synonyms must be of one class each and there once, "
                    f"got {synonym} for {owner[synonym]} and {name}"
                )
            owner[synonym] = name
    return names


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())


def _directions(
    names: tuple[str, ...], model: str, pretrained: str | bool, dim: int
) -> Float[Tensor, "S D"]:
    if pretrained is True:
        raise ConfigError(
            "backbone.head.class_head.pretrained must be a tag of open_clip's weights or a file, "
            "or false, got true; openai is one for RN50-quickgelu"
        )
    if pretrained is False:
        return F.normalize(torch.randn(len(names), dim), dim=-1)
    directions = text_embeddings(names, model=model, pretrained=pretrained)
    if directions.shape[1] != dim:
        raise ConfigError(
            f"backbone.head.class_head.dim must be {directions.shape[1]}, the width of {model}'s "
            f"embeddings, got {dim}"
        )
    return directions.clone()
