import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, PolynomialLR

from sfseg.errors import ConfigError
from sfseg.optim import (
    count_parameters,
    norm_parameters,
    pairs_of,
    parameter_groups,
    take_settings,
    warmup_decay,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
        self.head_token = nn.Parameter(torch.zeros(2))


def recipe(*rules, net=None):
    """(learning rate, weight decay) by parameter name, with lr 1 and weight decay 0.1."""
    net = net or Net()
    names = {id(p): n for n, p in net.named_parameters()}
    found = [
        (names[id(p)], (group["lr"], group["weight_decay"]))
        for group in parameter_groups(net, rules, lr=1.0, weight_decay=0.1)
        for p in group["params"]
    ]
    assert len(dict(found)) == len(found), "a parameter is in two groups"
    return dict(found)


def test_without_rules_there_is_one_group():
    groups = parameter_groups(Net(), [], lr=1.0, weight_decay=0.1)
    assert len(groups) == 1
    assert len(recipe()) == len(list(Net().named_parameters()))


def test_rules_apply_in_order_and_factors_multiply():
    found = recipe(
        {"match": r"^head\.", "lr_factor": 10},
        {"match": "<norm>", "weight_decay": 0.0},
        {"match": "<bias>", "lr_factor": 2, "weight_decay": 0.5},
    )
    assert found == {
        "backbone.0.weight": (1, 0.1),
        "backbone.0.bias": (2, 0.5),
        "backbone.1.weight": (1, 0),
        "backbone.1.bias": (2, 0.5),
        "head.0.weight": (10, 0),
        "head.0.bias": (20, 0.5),
        "head.1.weight": (10, 0.1),
        "head.1.bias": (20, 0.5),
        "head_token": (1, 0.1),
    }


def test_a_match_is_searched_anywhere_in_the_name():
    assert recipe({"match": "token", "lr_factor": 3})["head_token"] == (3, 0.1)


def test_equal_settings_share_a_group():
    rules = [{"match": "^head", "lr_factor": 10}, {"match": "<norm>", "weight_decay": 0.0}]
    groups = parameter_groups(Net(), rules, lr=1.0, weight_decay=0.1)
    settings = [(group["lr"], group["weight_decay"]) for group in groups]
    assert sorted(settings) == [(1, 0), (1, 0.1), (10, 0), (10, 0.1)]


def test_frozen_parameters_are_left_out():
    net = Net()
    net.backbone.requires_grad_(False)
    assert all(not name.startswith("backbone") for name in recipe(net=net))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"match": "decoder"}, "'decoder' matches no trainable parameter"),
        ({"match": "^ead"}, "correct it or remove it from method.parameter_rules"),
        ({"lr_factor": 2}, "must have 'match'.*{'lr_factor': 2}"),
        ({"match": "head", "lr": 2}, "may have 'lr_factor' and 'weight_decay', got"),
    ],
)
def test_a_rule_that_does_nothing_is_refused(rule, message):
    with pytest.raises(ConfigError, match=message):
        recipe(rule)


def test_a_rule_for_frozen_parameters_is_refused():
    net = Net()
    net.backbone.requires_grad_(False)
    with pytest.raises(ConfigError, match="'backbone' matches no trainable parameter"):
        recipe({"match": "backbone"}, net=net)


@pytest.mark.parametrize("lr", [0, -0.1])
def test_rates_must_be_positive(lr):
    with pytest.raises(ConfigError, match=f"lr must be positive, got {lr}; set method.lr"):
        parameter_groups(Net(), [], lr=lr, weight_decay=0.1)


def test_a_frozen_network_is_refused():
    with pytest.raises(ConfigError, match="no trainable parameter; unfreeze"):
        recipe(net=Net().requires_grad_(False))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.RMSNorm(4),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_are_known_by_type_alone_and_inside_others(norm):
    names = {name for name, _ in norm.named_parameters()}
    assert names
    assert set(norm_parameters(norm)) == names
    nested = nn.Sequential(nn.Linear(2, 2), nn.Sequential(norm))
    assert set(norm_parameters(nested)) == {f"1.0.{name}" for name in names}


def schedule(**arguments):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    return warmup_decay(optimizer, **arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"decay": "constant"}, {0: 1, 50: 1, 100: 1, 150: 1}),
        ({"decay": "linear"}, {0: 1, 25: 0.75, 50: 0.5, 99: 0.01, 100: 0, 150: 0}),
        ({"decay": "poly", "power": 2}, {0: 1, 50: 0.25, 90: 0.01, 100: 0}),
        ({"decay": "poly", "power": 0.9}, {50: 0.5358867312681466, 100: 0}),
        ({"decay": "cosine"}, {0: 1, 25: 0.8535533905932737, 50: 0.5, 75: 0.1464466094, 100: 0}),
        ({"decay": "linear", "end_factor": 0.2}, {0: 1, 50: 0.6, 100: 0.2, 150: 0.2}),
        ({"decay": "cosine", "end_factor": 0.5}, {0: 1, 50: 0.75, 100: 0.5}),
        (
            {"decay": "linear", "warmup": 10, "warmup_factor": 0.1},
            {0: 0.1, 1: 0.19 * 0.99, 5: 0.55 * 0.95, 9: 0.91 * 0.91, 10: 0.9, 11: 0.89},
        ),
        ({"decay": "constant", "warmup": 4, "warmup_factor": 0}, {0: 0, 1: 0.25, 3: 0.75, 4: 1}),
        # A warm-up takes a tenth of the run at most.
        ({"decay": "constant", "warmup": 1500, "warmup_factor": 0}, {5: 0.5, 10: 1}),
    ],
)
def test_rates_by_hand(arguments, expected):
    (factor,) = schedule(steps=100, **arguments).lr_lambdas
    assert {step: factor(step) for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "oracle"),
    [
        ({"decay": "poly", "power": 0.9}, lambda o: PolynomialLR(o, total_iters=40, power=0.9)),
        ({"decay": "cosine"}, lambda o: CosineAnnealingLR(o, T_max=40)),
    ],
)
def test_whole_curves_are_those_of_torch(arguments, oracle):
    def curve(make):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        scheduler, rates = make(optimizer), []
        for _ in range(40):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return rates

    ours = curve(lambda o: warmup_decay(o, steps=40, **arguments))
    assert ours == pytest.approx(curve(oracle), abs=1e-9)


def test_rates_never_rise_after_the_warm_up():
    (factor,) = schedule(steps=1000, warmup=100, decay="cosine").lr_lambdas
    rates = [factor(step) for step in range(1100)]
    assert all(math.isfinite(rate) and 0 <= rate <= 1 for rate in rates)
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[:100] == sorted(rates[:100])


def test_groups_keep_their_proportion_and_resume_where_they_were():
    def make():
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 10.0)]
        optimizer = torch.optim.SGD(groups)
        return optimizer, warmup_decay(optimizer, steps=10, decay="linear")

    optimizer, scheduler = make()
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.7, 7])
    again, resumed = make()
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    again.step()
    resumed.step()
    assert [g["lr"] for g in again.param_groups] == pytest.approx([0.6, 6])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "number of steps, got 0; set trainer.max_steps"),
        ({"steps": -1}, "got -1"),
        ({"steps": 10, "warmup": -5}, "warmup must be a number of steps, 0 for none, got -5"),
        ({"steps": 10, "decay": "step"}, r"one of \['constant', .*\], got 'step'"),
    ],
)
def test_impossible_schedules_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        schedule(**arguments)


def test_parameters_are_counted_with_and_without_the_frozen():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False))
    assert count_parameters(net.parameters()) == (10, 10)
    net[0].requires_grad_(False)
    assert count_parameters(net.parameters()) == (10, 2)
    assert count_parameters([]) == (0, 0)


def trained_for(steps, pair):
    optimizer, scheduler = pair
    for _ in range(steps):
        optimizer.zero_grad()
        sum(p.square().sum() for g in optimizer.param_groups for p in g["params"]).backward()
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler


def pair_of(net, *, lr=0.5, decay=0.1, steps=20, make=None):
    groups = [
        {"params": [net.weight], "lr": lr, "weight_decay": decay},
        {"params": [net.bias], "lr": lr / 2, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    make = make or (lambda o: warmup_decay(o, steps=steps, warmup=2))
    return optimizer, make(optimizer)


def continued(settings, made=None):
    """A network after three steps, and its optimiser and schedule restored under settings."""
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    states = [part.state_dict() for part in trained_for(3, pair_of(net, **(made or {})))]
    pair = pair_of(net, **settings)
    for part, state in zip(pair, states, strict=True):
        part.load_state_dict(state)
    return net, pair, take_settings(pair, pair_of(net, **settings))


def test_equal_settings_change_nothing_of_what_goes_on():
    torch.manual_seed(0)
    whole = nn.Linear(3, 2)
    trained_for(6, pair_of(whole))
    net, pair, differ = continued({})
    trained_for(3, pair)
    assert not differ
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), net.parameters(), strict=True))


def test_what_goes_on_has_the_rates_and_the_decay_of_this_run():
    _, (optimizer, scheduler), differ = continued({"lr": 0.1, "decay": 0.3, "steps": 40})
    assert differ["weight_decay"] == (0.1, 0.3) and differ["initial_lr"] == (0.5, 0.1)
    _, oracle = trained_for(3, pair_of(nn.Linear(3, 2), lr=0.1, decay=0.3, steps=40))
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0.0]
    assert [g["lr"] for g in optimizer.param_groups] == oracle.get_last_lr()
    assert scheduler.last_epoch == 3 and scheduler.get_last_lr() == oracle.get_last_lr()
    assert all(state["exp_avg"].any() for state in optimizer.state.values())
    trained_for(5, (optimizer, scheduler))
    trained_for(5, (oracle.optimizer, oracle))
    assert scheduler.get_last_lr() == oracle.get_last_lr()


def test_schedules_of_torch_are_scaled_but_keep_their_shape():
    def poly(power):
        return lambda o: PolynomialLR(o, total_iters=20, power=power)

    made = {"make": poly(2.0)}
    _, (optimizer, _), differ = continued({"lr": 0.1, **made}, made)
    assert differ["lr"][1] == pytest.approx(0.1 * (17 / 20) ** 2)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(
        [0.1 * (17 / 20) ** 2, 0.05 * (17 / 20) ** 2]
    )
    assert continued(made, made)[2] == {}
    with pytest.raises(ConfigError, match=r"method.schedule.power=3.0 cannot take the place"):
        continued({"make": poly(3.0)}, made)


def test_optimisers_are_found_in_whatever_lightning_takes():
    net = nn.Linear(1, 1)
    optimizer, scheduler = pair_of(net)
    entry = {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}
    with_both = [(optimizer, scheduler)]
    assert pairs_of(optimizer) == pairs_of({"optimizer": optimizer}) == [(optimizer, None)]
    assert pairs_of(entry) == pairs_of([entry]) == with_both
    assert pairs_of(([optimizer], [scheduler])) == with_both
    assert pairs_of([optimizer, optimizer]) == [(optimizer, None)] * 2
