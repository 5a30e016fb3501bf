"""W&B's file of a run: read back what W&B has written, and what damage leaves of it."""

import math

import numpy as np
import pytest
from wandb_log import pieces

from sfseg.errors import DataError
from sfseg.report.logged_run import wandb_files
from sfseg.report.loggers import MetricsCsv, WandbRun
from sfseg.report.pages.csv_files import read_columns
from sfseg.report.wandb_file import BLOCK, HEAD, WandbFile, read_wandb_file, records

SIZES = [0, 1, 100, 30_000, 2_650, 3 * BLOCK, 5, BLOCK - 7, 17]
"""Of records: the fourth and fifth leave six bytes of the first block, in which no piece begins."""


@pytest.fixture(scope="module")
def contents():
    rng = np.random.default_rng(0)
    return [rng.bytes(size) for size in SIZES]


def read(path, content):
    path.write_bytes(content)
    found = WandbFile()
    return list(records(path, found)), found.damaged


def test_records_of_any_size_come_back(tmp_path, contents):
    assert read(tmp_path / "f", pieces(contents)) == (contents, 0)


def test_a_file_cut_anywhere_has_the_records_before(tmp_path, contents):
    content = pieces(contents)
    ends = [len(pieces(contents[:k])) for k in range(len(contents) + 1)]
    near = {*range(7, 140, 2), *range(BLOCK - 20, BLOCK + 20), *range(2 * BLOCK - 9, 2 * BLOCK + 9)}
    cuts = {*near, *range(len(content) - 60, len(content), 3)}
    for cut in sorted(cuts):
        whole = max(k for k, end in enumerate(ends) if end <= cut)
        assert read(tmp_path / "f", content[:cut]) == (contents[:whole], 0), cut


def test_damage_never_makes_a_record_that_nobody_wrote(tmp_path, contents):
    content, rng = pieces(contents), np.random.default_rng(1)
    lost = 0
    for at in [7, 11, 13, *rng.integers(7, len(content), 60).tolist()]:
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        found, number = read(tmp_path / "f", bytes(damaged))
        assert set(found) <= set(contents), at
        lost += len(found) < len(contents)
        assert number > 0 or len(found) == len(contents) or at > len(content) - 40, at
    assert lost > 30
    # A block that is lost, in the middle of a record of four: the others come back.
    damaged = content[: 2 * BLOCK] + bytes(BLOCK - 1) + b"x" + content[3 * BLOCK :]
    found, number = read(tmp_path / "f", damaged)
    assert found == contents[:5] + contents[6:] and number > 0


@pytest.mark.parametrize("content", [b"", b":W&B", b"SQLite format 3", HEAD[:-1] + b"\x01"])
def test_other_files_are_refused(tmp_path, content):
    with pytest.raises(DataError, match="is no file of a run that this version can read"):
        read(tmp_path / "f", content)


def test_a_record_that_is_no_message_is_left_out(tmp_path):
    (tmp_path / "f").write_bytes(pieces([b"\xff" * 9, b"\x0a\x7f", b""]))
    found = read_wandb_file(tmp_path / "f")
    assert found.damaged == 2 and not found.metrics.values


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The folder of a run that has logged the same to W&B and to the CSV file."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        loggers = [
            WandbRun(save_dir=str(folder), project="p", name="tent-s0"),
            MetricsCsv(save_dir=str(folder), name="csv", version=""),
        ]
        for step in range(12):
            values = {"train/loss": 1 / (step + 3), "train/a.b c": -(10.0**step)}
            if step % 4 == 3:
                values |= {"val/target/IoU/traffic light": math.nan, "val/target/mIoU": step / 7}
            for logger in loggers:
                logger.log_metrics(values, step)
            if step == 7:
                loggers[0].log_image("panels/target", [np.zeros((4, 4, 3), np.uint8)])
                loggers[0].log_table("per_class", columns=["a"], data=[[1.0]])
        loggers[0].close()
        loggers[1].finalize("success")
    return folder


def test_what_wandb_has_written_is_what_the_csv_file_has(logged):
    (path,) = wandb_files(logged)
    found, expected = read_wandb_file(path), read_columns(logged / "csv" / "metrics.csv")
    assert found.metrics.steps == expected.steps
    for name, values in expected.values.items():
        assert found.metrics.values[name].tolist() == pytest.approx(values.tolist(), nan_ok=True)
    assert (found.name, found.has_ended, found.damaged) == ("tent-s0", True, 0)
    assert found.run_id == (logged / "wandb_id.txt").read_text().strip()
    assert found.pictures == {"panels/target"}


def test_a_killed_run_s_file_is_read_as_far_as_it_goes(logged, tmp_path):
    (path,) = wandb_files(logged)
    content = path.read_bytes()
    whole = read_wandb_file(path).metrics
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    found = read_wandb_file(tmp_path / "cut")
    assert not found.has_ended and found.damaged == 0
    for name, steps in found.metrics.steps.items():
        assert steps == whole.steps[name][: len(steps)]
