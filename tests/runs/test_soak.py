"""A long run holds at its end what it held near its beginning."""

import json
from pathlib import Path

import pytest
from test_kills import command, require_equal, state
from zygote import Parent, Zygote


@pytest.mark.slow
def test_memory_files_and_processes_stay_what_they_are(parent: Parent, tmp_path: Path) -> None:
    lines = tmp_path / "memory.jsonl"
    arguments = [
        *command("uniuvpt"), "trainer.max_steps=2000", "data.num_workers=2", "eval_every=500",
        "checkpoint.every_steps=250", "+callbacks.memory._target_=memory.Memory",
        f"+callbacks.memory.path={lines}", "+callbacks.memory.every=100", "hydra.run.dir=long",
        # As in a real run: the longer a class is open, the fewer of its pixels still change.
        "callbacks.early_learning.every=10", "callbacks.early_learning.window=20",
    ]  # fmt: skip
    zygote = Zygote(parent, tmp_path, SFSEG_CACHE=str(tmp_path / "cache"), WANDB_MODE="offline")
    code, seconds = zygote.train(*arguments)
    assert code == 0, zygote.log.read_text()[-3000:]
    seen = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["step"] for line in seen] == list(range(100, 2001, 100))
    resident = [line["resident"] for line in seen]
    # The first steps, and the first evaluation, fill what later ones use again.
    start, end = resident[5], max(resident[6:])
    print(  # noqa: T201
        f"2,000 steps in {seconds:.0f} s: {start / 2**20:.0f} MiB at step 600, later at most "
        f"{end / 2**20:.0f}; files {[line['files'] for line in seen][5::5]}, shared "
        f"{[line['shared'] for line in seen][5::5]}"
    )
    assert end <= 1.03 * start
    for what in ("files", "shared", "children"):
        held = [line[what] for line in seen[5:]]
        # Of shared memory, batches on their way take some.
        assert max(held) <= held[0] + (16 if what == "shared" else 2), (what, held)
        assert what != "shared" or held[-1] <= held[0] + 2


@pytest.mark.slow
def test_hash_seeds_and_locales_change_nothing(tmp_path: Path) -> None:
    states = []
    for name, settings in (
        ("a", {"PYTHONHASHSEED": "1", "LC_ALL": "C"}),
        ("b", {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        # Of its own: a hash seed is taken when a process starts.
        with Parent(**settings) as parent:
            zygote = Zygote(parent, folder, SFSEG_CACHE=str(folder / "cache"))
            code, _ = zygote.train(*command("uniuvpt"), "hydra.run.dir=run")
            assert code == 0, zygote.log.read_text()[-3000:]
        states.append(state(folder / "run"))
    require_equal(*states)
