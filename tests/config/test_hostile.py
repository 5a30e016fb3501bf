"""Hundreds of hostile files and configurations: none may run, hang, kill or harm anything.

The cases are in ``hostile/``. Each process there works through many and says of each how it ended,
so that a killed interpreter or one that hangs is put down to its case; another goes on after it.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest

WORKER = Path(__file__).parent / "hostile" / "worker.py"
LIMIT = 20.0
"""Seconds for a case; most need some hundredths."""
START = 120.0
"""Seconds until the first case begins, and between cases."""


@dataclass
class Ended:
    """How the cases of a group ended, by name, and what was said of each."""

    outcomes: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, outcome: str, words: str = "") -> None:
        assert name not in self.outcomes, f"{name} twice"
        self.outcomes[name], self.words[name] = outcome, words

    def of(self, *kinds: str) -> list[str]:
        """Reports of the cases that ended so."""
        return [
            f"{outcome}: {name}\n{self.words[name]}"
            for name, outcome in self.outcomes.items()
            if outcome in kinds
        ]


def run_group(group: str, folder: Path, ended: Ended, limit: float = LIMIT) -> None:
    """Have processes work through a group, one after the other where one is lost."""
    folder.mkdir(parents=True)
    first: int | None = 0
    while first is not None:
        first = run_process(group, folder, first, ended, limit)


def run_process(group: str, folder: Path, first: int, ended: Ended, limit: float) -> int | None:
    """One process; the case that another has to begin with, or None if all are done."""
    environment = {**os.environ, "HOSTILE_MARKER": str(folder.parent / f"executed_{group}")}
    environment["OMP_NUM_THREADS"] = "1"
    environment["PYTHONPATH"] = str(WORKER.parents[2])
    with (folder / "stderr").open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, str(WORKER), group, str(first)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    lines: Queue[str] = Queue()

    def follow(output: Iterable[str]) -> None:
        for line in output:
            lines.put(line)
        lines.put("")

    Thread(target=follow, args=[process.stdout]).start()
    started: dict[str, object] | None = None
    hung = False
    while True:
        try:
            line = lines.get(timeout=limit if started else START)
        except Empty:
            hung = True
            process.kill()
            continue
        if not line:
            break
        record = json.loads(line)
        if "outcome" in record:
            ended.add(record["name"], record["outcome"], record["words"])
            started = None
        else:
            started = record
    code = process.wait()
    process.stdout.close()
    if started is None:
        assert code == 0, (folder / "stderr").read_text()[-4000:]
        return None
    ended.add(str(started["name"]), "hung" if hung else "lost", f"exit code {code}")
    return int(str(started["number"])) + 1


def digest(folder: Path) -> dict[str, str]:
    """Hashes of all files below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def kept_output(folder: Path) -> Path:
    """What an earlier run has left beside the places that the cases work in."""
    run = folder / "logs" / "run"
    for name in ("results.json", "checkpoints/last.ckpt", "pseudo_labels/labels.u8", "a/0.png"):
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 99)
    return run


def test_hostile_files_are_refused_left_out_or_harmless(tmp_path: Path) -> None:
    output = kept_output(tmp_path)
    before, ended = digest(output), Ended()
    run_group("all", tmp_path / "all", ended)
    count = Counter(ended.outcomes.values())
    executed = list(tmp_path.glob("executed_*"))
    count["executed"] += len(executed)
    line = (
        f"cases {len(ended.outcomes)}, clear errors {count['clear error']}, "
        f"skipped {count['skipped']}, harmless {count['harmless']}, lost {count['lost']}, "
        f"executed {count['executed']}, hung {count['hung']}"
    )
    sys.stdout.write(f"\n{line}\n")
    assert not ended.of("lost", "executed", "hung"), "\n\n".join(
        [line, *ended.of("lost", "executed", "hung")]
    )
    assert line.endswith("lost 0, executed 0, hung 0")
    assert len(ended.outcomes) >= 200
    assert digest(output) == before
    # An error says what is wrong, to whom it may be said.
    assert not [name for name, said in ended.words.items() if "Traceback" in said]
    assert not [
        name for name in ended.outcomes if ended.outcomes[name] == "clear error"
        and len(ended.words[name]) < 20
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("group", "outcomes"),
    [
        ("sound", ["harmless"] * 3),
        ("killed", ["harmless", "lost", "harmless"]),
        ("hanging", ["harmless", "hung", "harmless"]),
        ("raising", ["harmless", "lost", "harmless"]),
        ("unpickling", ["harmless", "executed", "harmless"]),
        ("calling", ["harmless", "executed", "harmless"]),
    ],
)
def test_the_battery_notices(tmp_path: Path, group: str, outcomes: list[str]) -> None:
    ended = Ended()
    run_group(f"self_test:{group}", tmp_path / "place", ended, limit=1.0)
    assert list(ended.outcomes.values()) == outcomes
