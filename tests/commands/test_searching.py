"""Searches go by what a run says it optimises, which may be a score without labels."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from conftest import DEBUG, Cli

EVALUATED = ["trainer.max_steps=2", "eval_every=1", "source_model.steps=2"]
needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None
    if importlib.util.find_spec("hydra_plugins") else True,
    reason="hydra-optuna-sweeper is not installed",
)  # fmt: skip


def metric_of(run: Path) -> float:
    found: float = json.loads((run / "run.json").read_text())["finished"]["metric"]
    return found


def scores(run: Path) -> list[dict[str, str]]:
    with (run / "label_free.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["combined", "entropy"])
def test_a_label_free_score_can_be_the_objective(cli: Cli, name: str) -> None:
    done = cli(
        "sfseg-train", "method=tent", *DEBUG, *EVALUATED, f"optimized_metric=label_free/{name}"
    )
    assert done.code == 0, done.output
    last = scores(done.run)[-1]
    assert last["step"] == "2"
    assert metric_of(done.run) == pytest.approx(float(last[name]), rel=1e-5)


def test_the_objective_is_of_the_weights_that_are_shown(cli: Cli) -> None:
    done = cli(
        "sfseg-train", "method=tent", *DEBUG, *EVALUATED, "optimized_metric=label_free/combined",
        "select=label_free", "method.lr=1.0",
    )  # fmt: skip
    assert done.code == 0, done.output
    best = max(float(row["combined"]) for row in scores(done.run))
    assert metric_of(done.run) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize(
    "settings", [["method=tent", "optimized_metric=label_free/combind"],
                 ["method=source_only", "optimized_metric=label_free/combined"],
                 ["method=tent", "optimized_metric=label_free/combined",
                  "~callbacks.label_free_score"]],
)  # fmt: skip
def test_a_score_that_no_run_logs_is_refused_before_training(cli: Cli, settings: list[str]) -> None:
    done = cli("sfseg-train", *DEBUG, *settings)
    assert done.code == 2
    assert "optimized_metric='label_free/" in done.output
    assert not list(done.folder.rglob("run.json"))


@needs_optuna
@pytest.mark.filterwarnings("ignore")  # of Optuna 2 and what it stands on
def test_a_search_needs_no_labels(cli: Cli) -> None:
    done = cli(
        "sfseg-train", "-m", "sweep=label_free", "method=bn_adapt", *DEBUG, *EVALUATED,
        "method.momentum=interval(0.1,0.9)", "hydra.sweeper.n_trials=3",
    )  # fmt: skip
    assert done.code == 0, done.output
    (found,) = done.folder.rglob("optimization_results.yaml")
    best = yaml.safe_load(found.read_text())
    tried = [metric_of(found.parent / str(job)) for job in range(3)]
    assert best["best_value"] == max(tried)
    assert 0.1 <= best["best_params"]["method.momentum"] <= 0.9
    assert "| method.momentum=" in (found.parent / "summary.md").read_text()
