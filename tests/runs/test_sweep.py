import csv
import json
import logging

import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from sfseg.runs.sweep import SweepTable, essential, read_jobs, sweep_table


def results(target, source=None):
    domains = {"target": target} if source is None else {"target": target, "source": source}
    return {
        domain: {"summary": {"mIoU": value, "pixel_accuracy": 0.9}, "IoU": {"road": value}}
        for domain, value in domains.items()
    }


def adapted(before, after, **cost):
    document = results(after)
    document["target"]["source_only"] = results(before)["target"]
    return {**document, "cost": cost} if cost else document


def cells(table, column):
    header, rows = table
    return [row[header.index(column)] for row in rows]


def write_job(folder, number, overrides, scores):
    job = folder / str(number)
    (job / ".hydra").mkdir(parents=True)
    (job / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    if scores is not None:
        (job / "results.json").write_text(json.dumps(scores))


def finish(folder):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    SweepTable().on_multirun_end(config)


def test_jobs_that_differ_in_their_seed_share_a_row():
    jobs = [
        (["data=toyscapes", f"method={method}", f"seed={seed}"], results(target, 0.8))
        for method, seed, target in [
            ("a", 0, 0.4), ("a", 1, 0.6), ("b", 0, 0.7), ("b", 1, 0.7), ("b", 2, 0.7),
        ]
    ]  # fmt: skip
    header, rows = sweep_table(jobs)
    assert header == [
        "job", "runs", "target mIoU", "target pixel_accuracy", "source mIoU",
        "source pixel_accuracy",
    ]  # fmt: skip
    assert rows == [
        ["method=a", "2", "50.00 +- 14.14", "90.00 +- 0.00", "80.00 +- 0.00", "90.00 +- 0.00"],
        ["method=b", "3", "70.00 +- 0.00", "90.00 +- 0.00", "80.00 +- 0.00", "90.00 +- 0.00"],
    ]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([["seed=0"], ["seed=1"]], "all"),
        ([["lr=1", "seed=0"], ["lr=1", "seed=1"]], "all"),
        ([["lr=1"]], "all"),
        ([[]], "all"),
    ],
)
def test_a_sweep_over_seeds_alone_is_one_row(overrides, name):
    _, rows = sweep_table([(o, results(0.5)) for o in overrides])
    assert [row[:2] for row in rows] == [[name, str(len(overrides))]]


def test_shots_that_were_drawn_share_a_row():
    jobs = [
        (["data.n_shots=1", f"data.shot_seed={shot}", f"seed={seed}"], results(0.4 + shot / 10))
        for shot in (0, 1, 2) for seed in (0, 1)
    ]  # fmt: skip
    assert [row[:2] for row in sweep_table(jobs)[1]] == [["all", "6"]]


def test_several_swept_settings_are_named_together():
    jobs = [([f"lr={lr}", f"wd={wd}"], results(0.5)) for lr in (1, 2) for wd in (3, 4)]
    _, rows = sweep_table(jobs)
    assert [row[0] for row in rows] == ["lr=1 wd=3", "lr=1 wd=4", "lr=2 wd=3", "lr=2 wd=4"]
    assert {row[1] for row in rows} == {"1"}


def test_an_undefined_score_is_a_dash():
    _, rows = sweep_table([(["seed=0"], results(None))])
    assert rows == [["all", "1", "-", "90.00"]]


def test_undefined_scores_of_several_seeds_are_a_dash():
    _, rows = sweep_table([([f"seed={s}"], results(v)) for s, v in enumerate((None, 0.5))])
    assert "-" in rows[0][2]


@pytest.mark.parametrize("source", [(0.8, None), (None, 0.8)], ids=["first", "second"])
def test_methods_with_and_without_source_share_a_table(source):
    jobs = [([f"method={k}"], results(0.5, value)) for k, value in enumerate(source)]
    header, rows = sweep_table(jobs)
    column = header.index("source mIoU")
    shown = [row[column] for row in rows]
    assert shown == ["-" if value is None else "80.00" for value in source]


def test_jobs_come_in_the_order_of_their_numbers(tmp_path):
    for number in reversed(range(12)):
        write_job(tmp_path, number, [f"lr={number}"], results(0.5))
    assert [overrides for overrides, _ in read_jobs(tmp_path)] == [[f"lr={n}"] for n in range(12)]


def test_jobs_that_failed_are_left_out(tmp_path):
    write_job(tmp_path, 0, ["lr=0"], None)
    write_job(tmp_path, 1, ["lr=1"], results(0.5))
    assert [overrides for overrides, _ in read_jobs(tmp_path)] == [["lr=1"]]


def test_the_table_is_written_and_shown(tmp_path, capsys):
    for seed, value in enumerate((0.4, 0.6)):
        write_job(tmp_path, seed, ["method=a", f"seed={seed}"], results(value))
    finish(tmp_path)
    with (tmp_path / "summary.csv").open() as file:
        header, row = csv.reader(file)
    assert dict(zip(header, row, strict=True)) == {
        "job": "all",
        "runs": "2",
        "target mIoU": "50.00 +- 14.14",
        "target pixel_accuracy": "90.00 +- 0.00",
    }
    assert "| all | 2 | 50.00 +- 14.14 |" in (tmp_path / "summary.md").read_text()
    assert "50.00 +- 14.14" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["MULTIRUN", "RUN"])
def test_the_table_of_the_jobs_that_worked_is_there_when_one_fails(tmp_path, mode, caplog):
    write_job(tmp_path, 0, ["lr=0"], results(0.5))
    write_job(tmp_path, 1, ["lr=1"], None)
    config = OmegaConf.create({"hydra": {"mode": mode, "sweep": {"dir": str(tmp_path)}}})
    config.hydra.mode = RunMode[mode]
    with caplog.at_level(logging.INFO):
        SweepTable().on_job_end(config, JobReturn(status=JobStatus.FAILED))
    assert (tmp_path / "summary.md").exists() == (mode == "MULTIRUN") == bool(caplog.messages)
    if mode == "MULTIRUN":
        assert "| all | 1 | 50.00 |" in (tmp_path / "summary.md").read_text()


def test_a_sweep_without_results_writes_nothing(tmp_path):
    write_job(tmp_path, 0, ["lr=0"], None)
    finish(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_the_spread_of_a_gain_is_that_of_the_seeds_own_gains():
    pairs = [(0.40, 0.45), (0.60, 0.67), (0.20, 0.26)]
    table = sweep_table(
        [([f"seed={k}"], adapted(before, after)) for k, (before, after) in enumerate(pairs)]
    )
    assert cells(table, "source-only mIoU") == ["40.00 +- 20.00"]
    # Gains of 5, 7 and 6; each side spreads by 20.
    assert cells(table, "gain mIoU") == ["+6.00 +- 1.00"]


def test_methods_that_adapt_and_those_that_do_not_share_a_table():
    jobs = [(["method=a"], results(0.5, 0.7)), (["method=b"], adapted(0.5, 0.4))]
    table = sweep_table(jobs)
    assert cells(table, "source-only mIoU") == ["-", "50.00"]
    assert cells(table, "gain mIoU") == ["-", "-10.00"]
    assert cells(table, "target mIoU") == ["50.00", "40.00"]


def of_sets(before, after):
    """Results on two sets and the source, of which the sets have a mean."""
    names = ("mean", "rain", "fog", "source")
    document = {}
    for name, old, new in zip(names, before, after, strict=True):
        document[name] = {**results(new)["target"], "source_only": results(old)["target"]}
    return document


def test_of_several_sets_the_mean_is_what_was_gained():
    before, after = (0.4, 0.3, 0.5, 0.8), (0.55, 0.5, 0.6, 0.7)
    jobs = [([], of_sets(before, after)), (["data=toyscapes"], adapted(0.2, 0.3))]
    table = sweep_table(jobs)
    assert table[0][:2] == ["job", "runs"]
    shown = [table[0][k] for k in essential(table[0])]
    assert shown == [
        "job",
        "runs",
        "mean mIoU",
        "source mIoU",
        "target mIoU",
        "source-only mIoU",
        "gain mIoU",
    ]
    assert cells(table, "mean mIoU") == ["55.00", "-"]
    assert cells(table, "fog mIoU") == ["60.00", "-"]
    assert cells(table, "source-only mIoU") == ["40.00", "20.00"]
    assert cells(table, "gain mIoU") == ["+15.00", "+10.00"]


def test_costs_are_means_over_seeds(tmp_path):
    for seed, minutes in enumerate((2.0, 3.0)):
        write_job(tmp_path, seed, ["method=a", f"seed={seed}"], results(0.5))
        cost = {"minutes": minutes, "peak_memory_mib": 1000.4, "trainable_parameters": 1234567}
        (tmp_path / str(seed) / "cost.json").write_text(json.dumps(cost))
    write_job(tmp_path, 2, ["method=b", "seed=0"], results(0.5))
    table = sweep_table(read_jobs(tmp_path))
    assert cells(table, "minutes") == ["2.5", "-"]
    assert cells(table, "peak MiB") == ["1,000", "-"]
    assert cells(table, "trainable") == ["1,234,567", "-"]


def test_a_table_says_where_weights_were_selected_with_labels():
    oracle = results(0.5)
    oracle["target"]["selection"] = {"mode": "oracle", "step": 3}
    table = sweep_table([(["select=oracle"], oracle), (["select=last"], results(0.4))])
    assert cells(table, "selected") == ["oracle", "last"]
    assert "selected" not in sweep_table([(["seed=0"], results(0.4))])[0]


def test_a_terminal_shows_the_essential_columns():
    header = [
        "job", "runs", "target mIoU", "target mIoU16", "target pixel_accuracy",
        "source-only mIoU", "gain mIoU", "minutes", "peak MiB", "trainable", "selected",
    ]  # fmt: skip
    assert [header[k] for k in essential(header)] == [
        "job", "runs", "target mIoU", "source-only mIoU", "gain mIoU", "minutes", "trainable",
        "selected",
    ]  # fmt: skip
    plain = ["job", "runs", "target mIoU", "target mIoU16", "target mean_accuracy", "minutes"]
    assert [plain[k] for k in essential(plain)] == [*plain[:4], "minutes"]
