"""Refusals of arguments; each names the argument, its value and its range."""

from typing import Any, get_args


def require_options(**options: tuple[Any, Any]) -> None:
    """Each value must be one of those of its literal type.

    Args:
        **options: value and type by name.

    Raises:
        ValueError: one is not.
    """
    for name, (value, kind) in options.items():
        if value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}")


def require_shares(**shares: float) -> None:
    """Each must be in [0, 1].

    Raises:
        ValueError: one is not.
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {share}")


def require_weights(**weights: float) -> None:
    """Each must be 0 or more; NaN is not.

    Raises:
        ValueError: one is not.
    """
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} must not be negative, got {weight}")


def require_positive(**values: float) -> None:
    """Each must be more than 0; NaN is not.

    Raises:
        ValueError: one is not.
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def require_at_least(least: float, **values: float) -> None:
    """Each must reach a bound; NaN does not.

    Raises:
        ValueError: one does not.
    """
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def require_whole(least: int, **values: int) -> None:
    """Each must be a whole number that reaches a bound; a fraction is refused, also one like 2.0.

    Raises:
        ValueError: one is not.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")
    require_at_least(least, **values)
