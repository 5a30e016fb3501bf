"""How the processes of a run meet, wait together, and lose one another."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sfseg.errors import ConfigError, LostProcessError
from sfseg.runs import source_model
from sfseg.runs.processes import lost_processes, meet
from sfseg.storage.lock import WriterLock


def trainer(launcher: Any = None, **more: Any) -> Any:
    strategy = SimpleNamespace(launcher=launcher, setup_environment=lambda: None)
    return SimpleNamespace(strategy=strategy, **more)


class Scripts:
    """Starts processes by their command, as Lightning's launcher of DDP does."""

    cluster_environment = None

    def __init__(self) -> None:
        self.launched: list[Any] = []

    def launch(self, function: Any) -> None:
        self.launched.append(function)


def test_processes_meet_where_there_are_some() -> None:
    meet(trainer())
    launcher = Scripts()
    several = trainer(launcher)
    meet(several)
    assert launcher.launched == [several.strategy.setup_environment]


def test_processes_for_one_call_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.strategy must not be .* by object; take ddp"):
        meet(trainer(object()))


@pytest.mark.parametrize("text", ["[gloo] Connection closed by peer", "something else"])
@pytest.mark.parametrize("processes", [1, 2])
def test_the_end_of_another_process_is_named(text: str, processes: int) -> None:
    is_lost = processes == 2 and "gloo" in text
    expected = LostProcessError if is_lost else RuntimeError
    message = "process 0 of 2 waits in vain for another" if is_lost else "closed|else"
    with (
        pytest.raises(expected, match=message),
        lost_processes(trainer(world_size=processes, global_rank=0)),
    ):
        raise RuntimeError(text)


class Together:
    """The part of a strategy by which processes agree; says what it was told."""

    def __init__(self, *, is_global_zero: bool, answers: Any = None) -> None:
        self.is_global_zero, self.answers, self.told = is_global_zero, answers, []

    def broadcast(self, value: Any) -> Any:
        self.told.append(value)
        return value if self.answers is None else self.answers[len(self.told) - 1]


def test_all_hear_at_each_try_whether_the_folder_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "models").mkdir()
    held, first = WriterLock(tmp_path / "models" / ".lock"), Together(is_global_zero=True)

    def wait(seconds: float) -> None:
        if len(first.told) == 3:
            held.release()

    monkeypatch.setattr(source_model.time, "sleep", wait)
    with caplog.at_level(logging.INFO), source_model.waiting_lock(tmp_path / "models", first):
        assert first.told == [False, False, False, True]
        with pytest.raises(ConfigError, match="in this process already"):
            WriterLock(tmp_path / "models" / ".lock")
    assert caplog.text.count("waiting") == 1
    WriterLock(tmp_path / "models" / ".lock").release()


def test_other_processes_neither_lock_nor_make_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_model.time, "sleep", lambda _: None)
    other = Together(is_global_zero=False, answers=[False, True])
    with source_model.waiting_lock(tmp_path / "models", other):
        assert other.told == [False, False] and not (tmp_path / "models").exists()


@pytest.mark.parametrize(("found", "is_other"), [("a", False), ("b", True), (None, True)])
def test_what_the_first_process_has_found_counts(found: str | None, is_other: bool) -> None:
    own = None if found is None else Path(found)
    strategy: Any = Together(is_global_zero=False, answers=[Path("a")])
    assert source_model.shared(None, own, strategy) == (Path("a"), is_other)  # type: ignore[arg-type]
