"""Features of pixels against one vector for each class (ProDA, CVPR 2021; CPSL, CVPR 2022)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor


def cosine_scores(
    features: Float[Tensor, "B C h w"], prototypes: Float[Tensor, "K C"]
) -> Float[Tensor, "B K h w"]:
    """Cosine of the angle between every pixel's features and each class's prototype.

    Single precision, whatever autocast says: temperatures below 0.1 magnify rounding.
    """
    with torch.autocast(features.device.type, enabled=False):
        return torch.einsum(
            "bchw,kc->bkhw", F.normalize(features.float()), F.normalize(prototypes.float())
        )


def rectified_label(
    scores: Float[Tensor, "B K H W"], logits: Float[Tensor, "B K H W"], *, temperature: float
) -> Int[Tensor, "B H W"]:
    """The class that is most likely after prototypes have weighed a soft pseudo-label.

    Args:
        scores: of :func:`cosine_scores`.
        logits: the pseudo-label's; their softmax is what is weighed.
        temperature: of the softmax of the scores, which gives the weights.
    """
    # The product of both softmaxes is largest where the sum of their logits is.
    return (scores / temperature + logits.float().log_softmax(dim=1)).argmax(dim=1)


def prototype_consistency(
    scores: Float[Tensor, "B K h w"], teacher: Float[Tensor, "B K h w"], *, temperature: float
) -> Float[Tensor, ""]:
    """Mean over pixels and classes of the terms of KL(teacher || student), in nats.

    Being a mean over classes too it is K times smaller than the divergence; so it is in the
    published codes of ProDA and CPSL, for which their weights of 10 and 5 are.

    Args:
        scores: the student's, of :func:`cosine_scores`.
        teacher: likewise, detached.
        temperature: of both softmaxes.
    """
    student = (scores / temperature).log_softmax(dim=1)
    goal = (teacher / temperature).log_softmax(dim=1)
    return F.kl_div(student, goal, reduction="none", log_target=True).mean()


def class_sums(
    features: Float[Tensor, "B C h w"], label: Integer[Tensor, "B h w"], *, num_classes: int
) -> tuple[Float[Tensor, "K C"], Int[Tensor, " K"]]:
    """Sums of the features of each class's pixels, and how many there are.

    Args:
        features: of pixels.
        label: class ids; pixels of none, such as IGNORE, are left out.
        num_classes: K.
    """
    ids = label.flatten().long().clamp(max=num_classes)
    member = F.one_hot(ids, num_classes + 1)[:, :num_classes]  # (B * h * w, K)
    rows = features.float().permute(0, 2, 3, 1).flatten(0, 2)
    with torch.autocast(features.device.type, enabled=False):
        return member.float().T @ rows, member.sum(dim=0)
