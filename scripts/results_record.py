"""The record of a row: what its runs have found, by seed, as a JSON file."""

import csv
import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from results_rows import Row, known

import sfseg
from sfseg.errors import ConfigError
from sfseg.runs.folder import git_state, read_record
from sfseg.storage.atomic import write_whole
from sfseg.storage.json_object import json_object
from sfseg.storage.manifest import KEY, LAST, load_plain

ROOT = Path(__file__).parents[1]
SCHEMA = 1
"""Grows when a reader of today would misunderstand what is written then."""
FINISHED, FAILED, CANCELLED = "finished", "failed", "cancelled"
KEYS = {"schema", "name", "table", "overrides", "command", "seeds", "digest"}
PATH = re.compile(r"(?<![\w.>])(~?/|[A-Za-z]:[\\/])[^\s'\",;:()\[\]]*")
"""Places of a machine, in a message."""
Seed = dict[str, Any]
Record = dict[str, Any]


def new_record(row: Row) -> Record:
    """The record of a row without runs."""
    return {
        "schema": SCHEMA,
        "name": row.name,
        "table": row.table,
        "overrides": list(row.overrides),
        "command": " ".join(["sfseg-train", *map(shell_word, row.overrides), "seed=<seed>"]),
        "seeds": {},
    }


def shell_word(override: str) -> str:
    """An override as it is typed; variables of the environment are left to Hydra."""
    return f"'{override}'" if re.search(r"[\s~$*{}\[\]<>()|&;]", override) else override


def write_record(path: Path, record: Record) -> None:
    """Write a record, whole or not at all, with the digest of what it says."""
    said = {key: value for key, value in record.items() if key != "digest"}
    text = json.dumps({**said, "digest": digest_of(said)}, indent=1, allow_nan=False)
    write_whole(path, lambda file: file.write(f"{text}\n".encode()))


def read_record_of(path: Path) -> Record:
    """A record as it was written.

    Raises:
        ConfigError: another schema, or somebody has changed it by hand.
    """
    again = f"measure it again: make result-{path.stem} FORCE=1"
    record = json_object(path, f"restore it, or {again}")
    if record.get("schema") != SCHEMA:
        raise ConfigError(
            f"{path} has schema {record.get('schema')!r}, this version reads {SCHEMA}; {again}"
        )
    try:
        known(record, KEYS, "the record")
        said = {key: value for key, value in record.items() if key != "digest"}
        if record["digest"] != digest_of(said) or record["name"] != path.stem:
            raise ValueError("its digest or name does not fit what it says")
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{path} was changed by hand ({error}); restore it, or {again}"
        ) from error
    return record


def digest_of(said: Mapping[str, Any]) -> str:
    """SHA-256 of a document, whatever its layout."""
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def finished_seeds(record: Record) -> dict[str, Seed]:
    """Those with scores."""
    return {k: seed for k, seed in record["seeds"].items() if seed["status"] == FINISHED}


def circumstances(environment: Mapping[str, str]) -> dict[str, Any]:
    """What a run begins with: commit, without documentation, and machine, without its names.

    Raises:
        ConfigError: the sfseg that would run is not that of this repository.
    """
    if not Path(sfseg.__file__).is_relative_to(ROOT):
        raise ConfigError(
            f"sfseg is installed at {Path(sfseg.__file__).parent}, not from {ROOT}, whose commit "
            "would stand in the record; use the environment of `make install`"
        )
    git = git_state(ROOT, ":!docs") or {"commit": None, "dirty": None}
    return {
        "sfseg": {"version": sfseg.__version__, **git},
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": int(environment["OMP_NUM_THREADS"]),
            "system": platform.system(),
        },
    }


def processor() -> str:
    """The model of the processor, as far as the system says it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def outcome(folder: Path, begun: Mapping[str, Any]) -> Seed:
    """What a finished run has left in its folder.

    Args:
        folder: of the run.
        begun: what it has begun with.
    """
    results = json.loads((folder / "results.json").read_text())
    cost = json.loads((folder / "cost.json").read_text())
    run = read_record(folder)
    assert run is not None, "finished"
    checkpoint = load_plain(folder / "checkpoints" / LAST)
    first = next(iter(results.values()))
    steps, timed = int(checkpoint["global_step"]), cost.pop("steps")
    versions = {name: v for name, v in run["versions"].items() if v != "not installed"}
    device = "cpu" if cost["memory"] == "process" else torch.cuda.get_device_name()
    return {
        "status": FINISHED,
        **begun,
        "machine": {**begun["machine"], "device": device},
        "versions": {"python": run["python"], **versions, "sfseg": sfseg.__version__},
        "protocol": first["protocol"],
        "checkpoint": first.get("selection", {}).get("mode", "last"),
        "steps": steps,
        # Of a run that went on after an interruption, only the last part is known.
        "cost": {**cost, "steps": timed},
        "source_model": checkpoint[KEY].get("source_model", {}).get("digest"),
        "weights": weights_digest(checkpoint["state_dict"]),
        "scores": {domain: scores_of(part) for domain, part in results.items()},
        "curve": curve(folder / "label_free.csv"),
        "correction": correction(folder / "label_correction.csv"),
    }


def scores_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """Shares in [0, 1] of a domain, of both models; None where a class does not occur."""
    adapted = {"summary": part["summary"], "IoU": part["IoU"]}
    return {"source_only": part.get("source_only"), "adapted": adapted}


def curve(path: Path) -> dict[str, list[Any]]:
    """The evaluations during training, by column; empty where there were none."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [number(row[name]) for row in rows] for name in rows[0]} if rows else {}


def number(cell: str) -> float | int | str | None:
    """A cell's number, else its text; None where it is empty."""
    if not cell:
        return None
    try:
        return float(cell) if set(cell) & {".", "e"} else int(cell)
    except ValueError:
        return cell


def correction(path: Path) -> dict[str, int] | None:
    """Of labels that were corrected: of how many classes, and how many of how many were right."""
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        openings = list(csv.DictReader(file))
    counts = {
        name: sum(int(opening[name]) for opening in openings)
        for name in ("known", "right_before", "right_after")
    }
    return {"classes": len({opening["class"] for opening in openings}), **counts}


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and bits of tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def failure(code: int, log: str) -> str:
    """Why a run has failed, in a line without places or names of the machine.

    Args:
        code: its exit code; of a process that a signal has ended, minus the signal.
        log: what it has printed.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("sfseg: ")] or lines or ["it said nothing"]
    reason = PATH.sub("<path>", said[-1].removeprefix("sfseg: "))
    if host := platform.node():
        reason = re.sub(rf"\b{re.escape(host)}\b", "<host>", reason)
    return f"{f'signal {-code}' if code < 0 else f'exit code {code}'}: {reason}"
