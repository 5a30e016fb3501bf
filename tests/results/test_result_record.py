import getpass
import json
import platform
from pathlib import Path

import pytest
import torch
from handwritten import finished
from results_record import (
    correction,
    curve,
    failure,
    new_record,
    read_record_of,
    weights_digest,
    write_record,
)
from results_rows import Row

from sfseg.errors import ConfigError

ROW = Row("tent", "source-free", ("~callbacks.panels", "method=tent"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record of two seeds."""
    record = new_record(ROW) | {"seeds": {"0": finished(0.44), "1": finished(0.46)}}
    write_record(tmp_path / "tent.json", record)
    return tmp_path / "tent.json"


def test_a_record_is_read_as_it_was_written(path: Path) -> None:
    record = read_record_of(path)
    assert record["command"] == "sfseg-train '~callbacks.panels' method=tent seed=<seed>"
    assert record["seeds"]["1"] == finished(0.46)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    assert read_record_of(path) == record, "the layout is free"


def test_a_score_that_was_typed_is_noticed(path: Path) -> None:
    path.write_text(path.read_text().replace("0.46", "0.56", 1))
    with pytest.raises(ConfigError, match=r"was changed by hand .* make result-tent FORCE=1"):
        read_record_of(path)


def test_the_record_of_another_row_is_none_of_this_one(path: Path) -> None:
    with pytest.raises(ConfigError, match="digest or name does not fit"):
        read_record_of(path.rename(path.with_name("minent.json")))


@pytest.mark.parametrize("schema", [2, 0, "1", None])
def test_another_schema_is_refused(path: Path, schema: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema}))
    with pytest.raises(ConfigError, match=r"has schema .*, this version reads 1; measure it again"):
        read_record_of(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_what_is_no_record_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match="is damaged"):
        read_record_of(path)


def test_a_key_more_is_refused(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mean": 99}))
    with pytest.raises(ConfigError, match=r"changed by hand .*'mean'"):
        read_record_of(path)


def test_what_cannot_be_written_leaves_what_was_there(path: Path) -> None:
    before = path.read_bytes()
    broken = new_record(ROW) | {"seeds": {"0": finished(float("nan"))}}
    with pytest.raises(ValueError, match="JSON"):
        write_record(path, broken)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["tent.json"]


def test_a_reason_names_no_place_of_the_machine(tmp_path: Path) -> None:
    host, home = platform.node(), Path.home()
    log = (
        f"loading\nsfseg: {tmp_path}/a.png and '{home}/b c' on {host}: lr must be > 0; ratio 1/2 "
        f"of C:\\Users\\{getpass.getuser()}\\x\n[12:00:00] the end\n"
    )
    reason = failure(2, log)
    assert reason.startswith("exit code 2: <path> and '<path>") and "lr must be > 0" in reason
    assert "ratio 1/2" in reason and reason.endswith("of <path>")
    assert str(tmp_path) not in reason and str(home) not in reason
    assert not host or host not in reason.split()


@pytest.mark.parametrize(
    ("code", "log", "reason"),
    [
        (1, "Traceback:\n  x\nKeyError: 'a'\n\n", "exit code 1: KeyError: 'a'"),
        (-9, "", "signal 9: it said nothing"),
    ],
)
def test_a_run_without_last_words_has_a_reason_too(code: int, log: str, reason: str) -> None:
    assert failure(code, log) == reason


def test_weights_are_told_apart_by_every_bit() -> None:
    one, zero = torch.ones(2, dtype=torch.bfloat16), torch.zeros(2)
    base = {"a": one, "b": zero}
    assert weights_digest(base) == weights_digest({"b": zero.clone(), "a": one.clone()})
    others = [
        {"a": one, "b": -zero},
        {"a": one, "b": zero[:, None]},
        {"a": one, "b": zero.int()},
        {"a": one, "c": zero},
        {"a": one, "b": zero, "c": torch.tensor(0)},
    ]
    assert len({weights_digest(tensors) for tensors in [base, *others]}) == len(others) + 1


def test_an_evaluation_is_kept_by_column(tmp_path: Path) -> None:
    path = tmp_path / "label_free.csv"
    path.write_text(
        "step,snd,vanished,has_collapsed,target_mIoU\n0,1.5,,False,0.25\n9,2e-05,a;b,True,\n"
    )
    assert curve(path) == {
        "step": [0, 9], "snd": [1.5, 2e-5], "vanished": [None, "a;b"],
        "has_collapsed": ["False", "True"], "target_mIoU": [0.25, None],
    }  # fmt: skip
    assert curve(tmp_path / "none.csv") == {}


def test_corrected_labels_are_added_up_over_openings(tmp_path: Path) -> None:
    path = tmp_path / "label_correction.csv"
    path.write_text("class,known,right_before,right_after\nroad,10,2,5\ncar,10,4,9\nroad,5,1,1\n")
    assert correction(path) == {"classes": 2, "known": 25, "right_before": 7, "right_after": 15}
    assert correction(tmp_path / "none.csv") is None
