"""Measured results: every row of docs/results.md is a file that one command writes.

    python scripts/results.py list
    python scripts/results.py measure tent
    python scripts/results.py measure tent --repeat
    python scripts/results.py tables

`measure` runs what the row lacks and writes docs/results/<row>.json, whole or not at all, after
every seed. Runs that have finished are not run again, those that were interrupted go on. `--force`
measures all anew; `--repeat` runs all once more in a folder that is removed, and says of every seed
whether its scores and weights are equal to the bit. `tables` makes the tables and charts of
docs/results.md from the files. Rows that need a data set say which variable of the environment
names its folder.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from results_page import state_of, update_page
from results_record import (
    CANCELLED,
    FAILED,
    FINISHED,
    ROOT,
    Record,
    Seed,
    circumstances,
    failure,
    finished_seeds,
    new_record,
    outcome,
    read_record_of,
    write_record,
)
from results_rows import Definitions, Row, read_definitions

from sfseg.errors import ConfigError, PreemptedError, SfsegError
from sfseg.runs.folder import FINISHED as COMPLETE
from sfseg.runs.folder import LOCK, read_record
from sfseg.storage.atomic import write_whole
from sfseg.storage.lock import WriterLock

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
"""One thread: what a run takes does not depend on how many others there are."""
STOPPED = {143, -signal.SIGTERM, -signal.SIGINT}
"""Exit codes of a run that was told to stop."""
COMPARED = ("scores", "curve", "weights")
"""What has to be equal when a row is repeated."""


def run(row: Row, seed: int, folder: Path, *, anew: bool = False) -> Seed:
    """One run, or the rest of one that was interrupted and began as this one would.

    Args:
        row: of the run.
        seed: of the run.
        folder: of the row's runs.
        anew: whether what is there does not count.

    Raises:
        ConfigError: the run is going on in another process.
    """
    target, note = folder / f"seed{seed}", folder / f"seed{seed}.json"
    words = [*row.overrides, f"seed={seed}"]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    begun = {"date": now, **circumstances(ENVIRONMENT)}
    if target.is_dir():
        WriterLock(target / LOCK).release()
    before = json.loads(note.read_text()) if note.is_file() and not anew else {}
    if before.get("words") == words and may_go_on(before["begun"], begun, target):
        begun = before["begun"]
    else:
        shutil.rmtree(target, ignore_errors=True)
        text = json.dumps({"words": words, "begun": begun})
        write_whole(note, lambda file: file.write(text.encode()))
    command = [sys.executable, "-m", "sfseg.commands.train", *words]
    log = target.with_suffix(".log")
    code = call([*command, f"hydra.run.dir='{target}'", "resume=auto"], log)
    if code == 0:
        return outcome(target, begun)
    if code in STOPPED:
        return {"status": CANCELLED, **begun}
    return {"status": FAILED, **begun, "reason": failure(code, log.read_text())}


def may_go_on(before: Mapping[str, Any], now: Mapping[str, Any], target: Path) -> bool:
    """Whether a run that is complete is there, or one of the same commit and machine."""
    is_complete = COMPLETE in (read_record(target) or {})
    return is_complete or {**before, "date": None} == {**now, "date": None}


def call(command: Sequence[str], log: Path) -> int:
    """The exit code of a run; what would end this process ends the run, which saves itself."""
    with log.open("w") as file:
        # In its own session: Ctrl-C reaches it once, through this process.
        process = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {s: signal.signal(s, lambda *_: process.terminate()) for s in signals}
        try:
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def measure(row: Row, seeds: Sequence[int], results: Path, work: Path, *, force: bool) -> Record:
    """Run the seeds that a row lacks; its record is written after each.

    Args:
        row: to measure.
        seeds: that it should have.
        results: folder of the records.
        work: folder of the runs.
        force: all are run, whatever is there.

    Raises:
        ConfigError: a variable is not set, or the record that is there cannot be gone on with.
        PreemptedError: a signal has ended it.
    """
    require_variables(row)
    path, folder = results / f"{row.name}.json", work / row.name
    folder.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(folder / ".lock")
    try:
        record = new_record(row)
        if path.is_file() and not force:
            kept = read_record_of(path)
            if kept["overrides"] == record["overrides"]:
                record["seeds"] = kept["seeds"]
            else:
                print(f"{row.name}: its settings have changed, so that it is measured anew")
        there = {key for key, seed in record["seeds"].items() if seed["status"] != CANCELLED}
        missing = [seed for seed in seeds if str(seed) not in there]
        if not missing:
            print(f"{row.name}: {state_of(record, seeds)}; nothing is left to do (FORCE=1 repeats)")
        for seed in missing:
            add(record, seed, run(row, seed, folder, anew=force))
            write_record(path, record)
            print(f"{row.name}, seed {seed}: {said(record['seeds'][str(seed)])}", flush=True)
            if record["seeds"][str(seed)]["status"] == CANCELLED:
                raise PreemptedError(f"{row.name} was stopped; the same command goes on")
    finally:
        lock.release()
    return record


def require_variables(row: Row) -> None:
    """Variables of the environment that a row's settings name.

    Raises:
        ConfigError: one is not set.
    """
    for name in re.findall(r"\$\{oc\.env:(\w+)\}", " ".join(row.overrides)):
        if not os.environ.get(name):
            raise ConfigError(f"{row.name} needs {name}=<folder of the data> in the environment")


def add(record: Record, seed: int, found: Seed) -> None:
    """Add what a run has found; seeds stay in their order."""
    seeds = {**record["seeds"], str(seed): found}
    record["seeds"] = {key: seeds[key] for key in sorted(seeds, key=int)}


def said(seed: Seed) -> str:
    """What a run has found, in a line."""
    if seed["status"] != FINISHED:
        return f"{seed['status']} {seed.get('reason', '')}".strip()
    parts = []
    for domain, scores in seed["scores"].items():
        before, after = scores["source_only"], scores["adapted"]["summary"]["mIoU"]
        came = "" if before is None else f"{100 * before['summary']['mIoU']:.2f} -> "
        parts.append(f"{domain} {came}{'-' if after is None else f'{100 * after:.2f}'} mIoU")
    return ", ".join(parts)


def repeat(row: Row, results: Path) -> bool:
    """Run every finished seed of a row once more; whether all are equal to the bit.

    Raises:
        ConfigError: there is nothing to compare with.
    """
    require_variables(row)
    path = results / f"{row.name}.json"
    record = read_record_of(path) if path.is_file() else new_record(row)
    kept = finished_seeds(record)
    if not kept or record["overrides"] != list(row.overrides):
        raise ConfigError(f"{row.name} has no finished seed of these settings; measure it first")
    is_equal = True
    for seed, before in kept.items():
        with TemporaryDirectory() as folder:
            again = json.loads(json.dumps(run(row, int(seed), Path(folder))))
        differ = differences(before, again)
        is_equal = is_equal and not differ
        print(
            f"{row.name}, seed {seed}: {'different: ' if differ else 'equal'}{differ}", flush=True
        )
    return is_equal


def differences(before: Seed, again: Seed) -> str:
    """What differs between two runs, and what of their circumstances does; empty if nothing."""
    if again["status"] != FINISHED:
        return said(again)
    differ = [name for name in COMPARED if before[name] != again[name]]
    if not differ:
        return ""
    names = ("source_model", "versions", "machine", "sfseg", "protocol")
    others = ", ".join(name for name in names if before[name] != again[name])
    return f"{', '.join(differ)}; {said(before)} there, {said(again)} again; " + (
        f"other {others}" if others else f"the same {', '.join(names)}"
    )


def list_rows(rows: Definitions, results: Path) -> None:
    """Print names and states."""
    width = max(map(len, rows.rows))
    for name, row in rows.rows.items():
        path = results / f"{name}.json"
        state = "not measured"
        if path.is_file():
            try:
                record = read_record_of(path)
                state = state_of(record, rows.seeds)
                if record["overrides"] != list(row.overrides):
                    state += ", of other settings than now"
            except ConfigError as error:
                state = str(error)
        print(f"{name:{width}}  {state}")


def arguments_of(words: Sequence[str] | None) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    work = Path(os.environ.get("SFSEG_LOG_DIR", ROOT / "logs")) / "results"
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="results.md, results/")
    parser.add_argument("--work", type=Path, default=work, help="folder of the runs")
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("list", help="names and states of all rows")
    tasks.add_parser("tables", help="make the tables and charts of the page")
    one = tasks.add_parser("measure", help="run what a row lacks")
    one.add_argument("rows", nargs="+", metavar="row")
    one.add_argument("--seeds", type=int, nargs="+", help="these alone")
    one.add_argument("--force", action="store_true", help="run all of it")
    one.add_argument("--repeat", action="store_true", help="run again and compare, keep nothing")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 where a row failed or came out otherwise, or that of an error."""
    arguments = arguments_of(words)
    results: Path = arguments.docs / "results"
    try:
        rows = read_definitions(results / "rows.yaml")
        if arguments.task == "list":
            list_rows(rows, results)
        elif arguments.task == "tables":
            update_page(arguments.docs, rows)
        else:
            return measure_rows(arguments, rows, results)
    except SfsegError as error:
        print(f"results: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def measure_rows(arguments: argparse.Namespace, rows: Definitions, results: Path) -> int:
    """Measure or repeat the rows of the command line."""
    if unknown := set(arguments.rows) - set(rows.rows):
        raise ConfigError(f"no rows {sorted(unknown)}; `make results` lists those there are")
    seeds = arguments.seeds or rows.seeds
    if unknown := set(seeds) - set(rows.seeds):
        raise ConfigError(f"no row has seeds {sorted(unknown)}; they have {list(rows.seeds)}")
    if arguments.force and arguments.seeds:
        raise ConfigError("--force measures every seed anew; leave --seeds out")
    work: Path = arguments.work.absolute()
    has_failed = False
    for name in arguments.rows:
        row = rows.rows[name]
        if arguments.repeat:
            has_failed |= not repeat(row, results)
        else:
            record = measure(row, seeds, results, work, force=arguments.force)
            has_failed |= any(seed["status"] == FAILED for seed in record["seeds"].values())
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
