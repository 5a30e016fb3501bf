import json
import logging
import random
import resource
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from sfseg.errors import ConfigError, NumericError, OutputError
from sfseg.storage import checkpoint_files
from sfseg.storage.atomic import remove_partial
from sfseg.storage.checkpoint_files import CheckpointFiles
from sfseg.storage.manifest import (
    LAST,
    MANIFEST,
    PREVIOUS,
    digest,
    newest,
    read_manifest,
    require_whole,
    verify,
)


def content(steps: int, size: int = 1000) -> dict[str, object]:
    weight = torch.full((size,), float(steps))
    return {"state_dict": {"weight": weight, "count": torch.tensor(steps)}, "global_step": steps}


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        CheckpointFiles().save_checkpoint(content(step), folder / LAST)


def step_of(path: Path | None) -> int | None:
    return None if path is None else int(torch.load(path, weights_only=True)["global_step"])


def test_the_last_two_stay(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    write(tmp_path / "a", 1, 2, 3)
    folder = tmp_path / "a"
    assert sorted(p.name for p in folder.iterdir()) == [LAST, MANIFEST, PREVIOUS]
    assert step_of(folder / LAST) == 3 and step_of(folder / PREVIOUS) == 2
    assert newest(folder) == folder / LAST
    assert require_whole(folder / PREVIOUS) == 2


def test_a_checkpoint_is_what_torch_would_have_written(tmp_path: Path) -> None:
    write(tmp_path, 5)
    read = CheckpointFiles().load_checkpoint(tmp_path / LAST)
    assert read["global_step"] == 5
    torch.testing.assert_close(read["state_dict"], content(5)["state_dict"])
    verify(tmp_path / LAST)


@pytest.mark.parametrize("call", range(1, 7))
def test_stopped_between_any_two_steps_of_writing_one_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    write(tmp_path, 1, 2)
    calls = 0

    class StoppedError(BaseException):
        pass

    def counted(name: str, of: object):
        plain = getattr(of, name)

        def wrapped(*arguments, **settings):
            nonlocal calls
            calls += 1
            if calls == call:
                raise StoppedError
            return plain(*arguments, **settings)

        return wrapped

    for name, of in (("replace", Path), ("unlink", Path), ("fsync", checkpoint_files.os)):
        monkeypatch.setattr(of, name, counted(name, of))
    with suppress(StoppedError):
        write(tmp_path, 3)
    monkeypatch.undo()
    assert step_of(newest(tmp_path)) in {2, 3}
    write(tmp_path, 4)
    assert step_of(newest(tmp_path)) == 4
    remove_partial(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [LAST, MANIFEST, PREVIOUS]


def test_no_file_has_its_name_before_the_manifest_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every change of a name, and after it, each checkpoint that can be seen is listed."""
    write(tmp_path, 1, 2)
    rename, seen = Path.replace, 0

    def listed(path: Path) -> bool:
        known = read_manifest(tmp_path)
        return known is not None and digest(path) in known

    def watched(path: Path, target: Path) -> Path:
        nonlocal seen
        done = rename(path, target)
        seen += 1
        assert all(listed(tmp_path / n) for n in (LAST, PREVIOUS) if (tmp_path / n).exists())
        return done

    monkeypatch.setattr(Path, "replace", watched)
    write(tmp_path, 3)
    assert seen == 3, "manifest, previous and last"


def broken(whole: bytes, chance: random.Random, *, cut: bool) -> bytes:
    place = chance.randrange(len(whole))
    if cut:
        return whole[:place]
    return whole[:place] + bytes([whole[place] ^ (1 << chance.randrange(8))]) + whole[place + 1 :]


@pytest.mark.parametrize("cut", [True, False], ids=["truncated", "flipped"])
def test_a_broken_file_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: bool
) -> None:
    write(tmp_path, 1, 2)
    whole, chance = (tmp_path / LAST).read_bytes(), random.Random(cut)
    for _ in range(50):
        (tmp_path / LAST).write_bytes(broken(whole, chance, cut=cut))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = newest(tmp_path)
        if found == tmp_path / LAST:
            # Between the archive's parts nothing is kept.
            assert not cut and "but whole by its checksums" in caplog.text
            read, weight = torch.load(found, weights_only=True), content(2)["state_dict"]["weight"]
            assert torch.equal(read["state_dict"]["weight"], weight)
            continue
        assert found == tmp_path / PREVIOUS
        assert "last.ckpt is not as it was written" in caplog.text
        assert f"going on from {tmp_path / PREVIOUS}, of step 1" in caplog.text
        with pytest.raises(ConfigError, match="is not as it was written"):
            verify(tmp_path / LAST)


@pytest.mark.parametrize("cut", [True, False], ids=["truncated", "flipped"])
def test_without_a_manifest_the_archives_own_checksums_count(tmp_path: Path, cut: bool) -> None:
    write(tmp_path, 1)
    (tmp_path / MANIFEST).unlink()
    assert require_whole(tmp_path / LAST) == 1
    whole, chance = (tmp_path / LAST).read_bytes(), random.Random(cut)
    weight = content(1)["state_dict"]["weight"]
    for _ in range(50):
        (tmp_path / LAST).write_bytes(broken(whole, chance, cut=cut))
        try:
            require_whole(tmp_path / LAST)
            read = torch.load(tmp_path / LAST, weights_only=True)
        except (ConfigError, RuntimeError):
            continue
        # Between the archive's parts nothing is kept.
        assert not cut and torch.equal(read["state_dict"]["weight"], weight)


def test_when_all_are_broken_nothing_is_begun_anew(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    for name in (LAST, PREVIOUS):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no checkpoint in .* is whole"):
        newest(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"checkpoints": []}', '{"checkpoints": {"a": "x"}}', "[" * 10_000],
)
def test_a_damaged_manifest_is_named_and_written_anew(tmp_path: Path, text: str) -> None:
    write(tmp_path, 1)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ConfigError, match=r"manifest.json is damaged"):
        verify(tmp_path / LAST)
    write(tmp_path, 2)
    assert step_of(newest(tmp_path)) == 2


def forget(folder: Path, name: str) -> None:
    """Take a checkpoint out of the manifest, as if another program had put it there."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["checkpoints"][digest(folder / name)]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_a_manifest_of_others_says_nothing_of_this_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 1)
    other = {"checkpoints": {"0" * 64: 99}}
    (tmp_path / MANIFEST).write_text(json.dumps(other))
    verify(tmp_path / LAST)
    assert newest(tmp_path) == tmp_path / LAST and "of step 1" in caplog.text
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:-1])
    with pytest.raises(ConfigError, match="is not in"):
        verify(tmp_path / LAST)
    verify(tmp_path / "foreign.ckpt")


def test_a_newer_one_that_the_manifest_does_not_know_wins_if_it_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 1, 2)
    forget(tmp_path, LAST)
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path) == tmp_path / LAST
    assert "last.ckpt is not in" in caplog.text and "whole by its checksums" in caplog.text
    assert f"going on from {tmp_path / LAST}, of step 2" in caplog.text
    verify(tmp_path / LAST)  # whoever reads it next agrees


def test_an_older_one_that_the_manifest_does_not_know_loses(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    forget(tmp_path, PREVIOUS)
    assert newest(tmp_path) == tmp_path / LAST


@pytest.mark.parametrize("steps", [(1, 2), (2, 2)])
def test_without_a_manifest_the_later_one_wins(tmp_path: Path, steps: tuple[int, ...]) -> None:
    write(tmp_path, *steps)
    (tmp_path / MANIFEST).unlink()
    assert newest(tmp_path) == tmp_path / LAST


def test_of_equal_steps_the_last_written_wins(tmp_path: Path) -> None:
    CheckpointFiles().save_checkpoint(content(2), tmp_path / LAST)
    CheckpointFiles().save_checkpoint(content(2) | {"evaluated": True}, tmp_path / LAST)
    assert newest(tmp_path) == tmp_path / LAST


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_poisoned_checkpoint_replaces_nothing(tmp_path: Path, value: float) -> None:
    write(tmp_path, 1)
    before = digest(tmp_path / LAST)
    poisoned = content(2)
    poisoned["state_dict"]["weight"][3] = value
    with pytest.raises(NumericError, match="1 tensors are NaN or infinite, weight first"):
        CheckpointFiles().save_checkpoint(poisoned, tmp_path / LAST)
    assert digest(tmp_path / LAST) == before and newest(tmp_path) == tmp_path / LAST


def test_a_full_disk_replaces_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot be written: .*; what was there is still"):
            CheckpointFiles().save_checkpoint(content(2, 1 << 20), tmp_path / LAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(p.name for p in tmp_path.iterdir()) == [LAST, MANIFEST]
    assert step_of(newest(tmp_path)) == 1


def test_a_folder_that_became_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(OutputError, match=r"checkpoints/last.ckpt cannot be written"):
        write(tmp_path / "checkpoints", 1)


def test_nothing_but_tensors_and_plain_containers_is_read(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": {}, "extra": Payload()}, tmp_path / "hostile.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        CheckpointFiles().load_checkpoint(tmp_path / "hostile.ckpt", weights_only=False)
    assert not (tmp_path / "executed").exists()
