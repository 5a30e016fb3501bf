"""How good a model is, from its predictions alone.

A model is scored on unlabelled images by how sure it is (entropy), by how well its predictions
form neighbourhoods (:func:`soft_neighbourhood_density`) and by how well two views of an image
agree. A model that gives every pixel the same class is the best by each of the three, so the
score to choose by is :func:`classwise_agreement`, in which a class that is no longer predicted
counts as 0.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

GAMMA = 1.5
"""Of the second view: a darker exposure."""


def soft_neighbourhood_density(
    probability: Float[Tensor, "N K"], *, temperature: float = 0.05
) -> Float[Tensor, ""]:
    """Mean entropy, in nats, of who the neighbours of a prediction are; higher is better.

    A prediction's neighbours are the other N - 1, by the softmax of cosine similarities over the
    temperature: dense neighbourhoods have much entropy, at most ln(N - 1) (Saito et al., Tune it
    the Right Way, ICCV 2021, equations 1 to 3). Equal predictions reach the maximum, whatever they
    are.

    Args:
        probability: of N pixels or images.
        temperature: 0.05 in the paper.

    Raises:
        ValueError: fewer than two predictions, or a temperature that is not positive.
    """
    if len(probability) < 2:
        raise ValueError(f"probability must be of at least 2 pixels, got {len(probability)}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    unit = F.normalize(probability.float(), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    # In half precision similarities would be off by a tenth of the temperature.
    with torch.autocast(unit.device.type, enabled=False):
        cosine = unit @ unit.T  # (N, N)
    similarity = (cosine / temperature).masked_fill(itself, -torch.inf)
    log_neighbour = similarity.log_softmax(dim=1).masked_fill(itself, 0.0)
    neighbour = similarity.softmax(dim=1)
    return -(neighbour * log_neighbour).sum(dim=1).mean()


def neighbourhood_densities(
    probability: Float[Tensor, "B K H W"], position: Int[Tensor, "B n"]
) -> Float[Tensor, " B"]:
    """:func:`soft_neighbourhood_density` of some pixels of every image, among themselves.

    Args:
        probability: of the pixels' classes.
        position: of the n pixels, at least two, counted row by row.
    """
    rows = probability.flatten(2).mT  # (B, H * W, K)
    pairs = zip(rows, position, strict=True)
    return torch.stack([soft_neighbourhood_density(own[chosen]) for own, chosen in pairs])


def second_view(image: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """The images mirrored and darker, in [0, 1]; always the same."""
    return (image.flip(-1).float() / 255).pow(GAMMA)


def agreement_counts(
    label: UInt8[Tensor, "*shape"], other: UInt8[Tensor, "*shape"], *, num_classes: int
) -> Int[Tensor, "K K"]:
    """Pixels by the class that a view gives them (rows) and that another does (columns).

    Args:
        label: class ids of the first view, below ``num_classes``.
        other: of the second, in the coordinates of the first.
        num_classes: K.
    """
    code = label.flatten().long() * num_classes + other.flatten()
    return torch.bincount(code, minlength=num_classes**2).view(num_classes, num_classes)


def agreement(counts: Int[Tensor, "K K"]) -> Float[Tensor, ""]:
    """Share of all pixels to which both views give the same class."""
    return counts.diagonal().sum() / counts.sum()


def class_shares(counts: Int[Tensor, "K K"]) -> Float[Tensor, " K"]:
    """Share of all pixels to which the first view gives each class."""
    return counts.sum(dim=1) / counts.sum()


def classwise_agreement(
    counts: Int[Tensor, "K K"], classes: Bool[Tensor, " K"]
) -> Float[Tensor, ""]:
    """Mean over some classes of the IoU of two views; a class that neither predicts counts as 0.

    With the classes of the model that adaptation started from, it is 1 only if all of these are
    still predicted and no pixel changes its class between views. Like mIoU, and unlike
    :func:`agreement`, it does not let large classes hide the loss of small ones.

    Raises:
        ValueError: no class is chosen.
    """
    if not classes.any():
        raise ValueError("classes must choose at least one class, got none")
    both = counts.diagonal()
    either = counts.sum(dim=0) + counts.sum(dim=1) - both
    return (both / either.clamp_min(1))[classes].mean()
