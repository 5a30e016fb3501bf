"""Optimiser recipes: parameter groups by rule, warm-up and decay of the learning rate."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from sfseg.errors import ConfigError

Rule = Mapping[str, Any]


def parameter_groups(
    module: nn.Module, rules: Sequence[Rule], *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Trainable parameters in groups of equal learning rate and weight decay.

    A rule has a regular expression ``match``, searched in the parameter's name, and any of
    ``lr_factor`` and ``weight_decay``; the special match ``<norm>`` means every parameter of a
    normalisation layer and ``<bias>`` every bias. All matching rules apply, in order: factors
    multiply, the last weight decay holds. The special matches may find nothing.

    Raises:
        ConfigError: an expression matches no parameter, or a rule has a key that no rule has.
    """
    if not lr > 0:  # NaN is not
        raise ConfigError(f"lr must be positive, got {lr}; set method.lr")
    norms = set(norm_parameters(module))
    trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}
    if not trainable:
        raise ConfigError("the network has no trainable parameter; unfreeze a part of it")
    for rule in rules:
        _check_rule(rule, trainable, norms)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in trainable.items():
        rate, decay = lr, weight_decay
        for rule in rules:
            if _matches(rule, name, norms):
                rate *= float(rule.get("lr_factor", 1.0))
                decay = float(rule.get("weight_decay", decay))
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def _check_rule(rule: Rule, names: Iterable[str], norms: set[str]) -> None:
    if "match" not in rule or set(rule) - {"match", "lr_factor", "weight_decay"}:
        raise ConfigError(
            "a rule must have 'match' and may have 'lr_factor' and 'weight_decay', got "
            f"{dict(rule)}"
        )
    is_special = rule["match"] in ("<norm>", "<bias>")
    if not is_special and not any(_matches(rule, name, norms) for name in names):
        raise ConfigError(
            f"the rule {rule['match']!r} matches no trainable parameter; correct it or "
            "remove it from method.parameter_rules"
        )


def _matches(rule: Rule, name: str, norms: set[str]) -> bool:
    pattern = str(rule["match"])
    if pattern == "<norm>":
        return name in norms
    if pattern == "<bias>":
        return name.split(".")[-1] == "bias"
    return re.search(pattern, name) is not None


def norm_parameters(module: nn.Module) -> Iterator[str]:
    """Names of the parameters of normalisation layers."""
    # _NormBase: batch and instance normalisation.
    kinds = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    for prefix, child in module.named_modules():
        if isinstance(child, kinds):
            for name, _ in child.named_parameters(recurse=False):
                yield f"{prefix}.{name}" if prefix else name


Decay = Literal["poly", "linear", "cosine", "constant"]


def warmup_decay(
    optimizer: Optimizer,
    *,
    steps: int,
    warmup: int = 0,
    warmup_factor: float = 1e-6,
    decay: Decay = "poly",
    power: float = 1.0,
    end_factor: float = 0.0,
) -> LambdaLR:
    """Learning rate by step: linear warm-up times a decay to ``end_factor``.

    Args:
        optimizer: its groups' rates are the full rates.
        steps: optimiser steps of the whole run, at which the decay ends.
        warmup: steps of the warm-up, at most a tenth of the run.
        warmup_factor: share of the rate at step 0, multiplied onto the decay as in
            mmsegmentation.
        decay: ``poly`` is (1 - t/T)^power, ``linear`` is power 1, ``cosine`` half a wave.
        power: exponent of ``poly``.
        end_factor: share of the rate at the end.

    Raises:
        ConfigError: ``steps`` not positive, negative warm-up, unknown decay.
    """
    if steps < 1:
        raise ConfigError(
            f"the schedule needs the number of steps, got {steps}; set trainer.max_steps"
        )
    if warmup < 0:
        raise ConfigError(f"warmup must be a number of steps, 0 for none, got {warmup}")
    warmup = min(warmup, steps // 10)
    shapes: dict[str, Callable[[float], float]] = {
        "poly": lambda rest: rest**power,
        "linear": lambda rest: rest,
        "cosine": lambda rest: (1 - math.cos(math.pi * rest)) / 2,
        "constant": lambda rest: 1.0,
    }
    if decay not in shapes:
        raise ConfigError(f"decay must be one of {sorted(shapes)}, got {decay!r}")

    def factor(step: int) -> float:
        rest = max(0.0, 1 - step / steps)
        rate = end_factor + (1 - end_factor) * shapes[decay](rest)
        if step < warmup:
            rate *= warmup_factor + (1 - warmup_factor) * step / warmup
        return rate

    return LambdaLR(optimizer, factor)


def count_parameters(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    """(all, trainable)."""
    sizes = [(p.numel(), p.requires_grad) for p in parameters]
    return sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)


Pair = tuple[Optimizer, LRScheduler | None]
POSITION = {"last_epoch", "_step_count", "_last_lr", "base_lrs"}
"""What of a schedule's state says where it is, not what it is."""


def pairs_of(configured: Any) -> list[Pair]:
    """Optimisers and their schedules, from what ``configure_optimizers`` may return."""
    if isinstance(configured, Optimizer):
        return [(configured, None)]
    if isinstance(configured, Mapping):
        return [(configured["optimizer"], _schedule(configured.get("lr_scheduler")))]
    parts = list(configured)
    if len(parts) == 2 and all(isinstance(part, Sequence) for part in parts):
        return list(zip_longest(parts[0], map(_schedule, parts[1])))
    return [pair for part in parts for pair in pairs_of(part)]


def _schedule(configured: Any) -> LRScheduler | None:
    found: LRScheduler | None = (
        configured["scheduler"] if isinstance(configured, Mapping) else configured
    )
    return found


def take_settings(continued: Pair, fresh: Pair) -> dict[str, tuple[Any, Any]]:
    """Let an optimiser that goes on from a checkpoint have the settings of a new one.

    Its moments and the position of its schedule stay; rates, decay and the schedule's shape are
    the new one's. Settings that agree leave every bit as it is.

    Args:
        continued: from the checkpoint, of the same parameters in the same groups.
        fresh: by the settings of this run.

    Returns:
        Setting -> old and new value, of those that differ.

    Raises:
        ConfigError: the schedule is of a kind that cannot change its settings on the way.
    """
    (optimizer, schedule), (new, new_schedule) = continued, fresh
    differ: dict[str, tuple[Any, Any]] = {}
    wanted = [group["lr"] for group in new.param_groups]
    if schedule is not None and new_schedule is not None:
        wanted = _rates(schedule, new_schedule)
    for group, theirs, rate in zip(optimizer.param_groups, new.param_groups, wanted, strict=True):
        for name, value in ({**theirs, "lr": rate}).items():
            if name != "params" and group.get(name) != value:
                differ.setdefault(name, (group.get(name), value))
                group[name] = value
    return differ


def _rates(schedule: LRScheduler, fresh: LRScheduler) -> list[float]:
    """Learning rates where a schedule is, by the settings of a fresh one, which it takes over."""
    position = schedule.last_epoch
    if isinstance(schedule, LambdaLR) and isinstance(fresh, LambdaLR):
        bases = [float(rate) for rate in fresh.base_lrs]
        rates = [b * shape(position) for b, shape in zip(bases, fresh.lr_lambdas, strict=True)]
        schedule.load_state_dict({**schedule.state_dict(), "base_lrs": bases, "_last_lr": rates})
        return rates
    old, new = schedule.state_dict(), fresh.state_dict()
    for name in sorted(new.keys() - POSITION):
        if old.get(name) != new[name]:
            raise ConfigError(
                f"method.schedule.{name}={new[name]} cannot take the place of the checkpoint's "
                f"{old.get(name)} on the way; keep that, or choose sfseg.optim.warmup_decay"
            )
    factors = [a / b if b else 1.0 for a, b in zip(fresh.base_lrs, schedule.base_lrs, strict=True)]
    now = [group["lr"] for group in schedule.optimizer.param_groups]
    rates = [
        rate if factor == 1 else rate * factor for rate, factor in zip(now, factors, strict=True)
    ]
    state = {**old, "base_lrs": list(fresh.base_lrs), "_last_lr": rates}
    schedule.load_state_dict(state)
    return rates
