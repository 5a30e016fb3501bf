"""What of a backbone's batch normalisation stays as it is in training."""

from typing import Literal, get_args

BatchNormPolicy = Literal["train", "frozen_affine", "frozen_statistics", "frozen"]
"""What of the backbone's batch normalisation stays as it is in training.

Nothing; weights and biases, while the running statistics move (AdaptSegNet); the statistics, which
then normalise in training too; or both.
"""


def require_policy(batch_norm: str, *, has_norms: bool) -> None:
    """Refuse a policy that does not exist, or freezes what is not there.

    Args:
        batch_norm: the policy.
        has_norms: whether the backbone has batch normalisation.

    Raises:
        ValueError: says what to choose.
    """
    if batch_norm not in get_args(BatchNormPolicy):
        raise ValueError(
            f"backbone.batch_norm must be one of {', '.join(get_args(BatchNormPolicy))}, "
            f"got {batch_norm}"
        )
    if batch_norm != "train" and not has_norms:
        raise ValueError(
            "backbone.batch_norm must be train for a backbone without batch normalisation, "
            f"got {batch_norm}"
        )
