import errno
import fcntl
import json
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from processes import killed, result_of
from pseudo_case import filled, identity

from sfseg.errors import ConfigError
from sfseg.pseudo.store import PseudoLabelStore
from sfseg.storage.lock import WriterLock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def attempt(path):
    """What a process finds that wants to write: None, or why it may not."""
    try:
        WriterLock(path).release()
    except ConfigError as error:
        return str(error)
    return None


def claim(path, **changes):
    """The file of a writer that did not release it."""
    lock = WriterLock(path)
    holder = {**json.loads(path.read_text()), **changes}
    lock.release()
    path.write_text(json.dumps(holder))


def test_it_names_its_process_and_is_empty_when_released(path):
    lock = WriterLock(path)
    holder = json.loads(path.read_text())
    assert (holder["pid"], holder["host"]) == (os.getpid(), platform.node())
    lock.release()
    assert path.read_text() == ""
    assert attempt(path) is None


def test_a_second_writer_is_refused_in_this_process_and_in_others(path):
    lock = WriterLock(path)
    assert "is open for writing in this process already" in attempt(path)
    found = result_of(lambda: attempt(path))
    assert f"is being written by process {os.getpid()} on {platform.node()}" in found
    assert f"delete {path}" in found
    lock.release()
    assert result_of(lambda: attempt(path)) is None


def test_of_many_threads_one_gets_it(path):
    begin = Barrier(8)

    def attempt_at_once(_):
        begin.wait()
        try:
            return WriterLock(path)
        except ConfigError:
            return None

    for _ in range(50):
        with ThreadPoolExecutor(8) as pool:
            (lock,) = filter(None, pool.map(attempt_at_once, range(8)))
        lock.release()


def test_releasing_twice_does_not_release_another(path):
    first = WriterLock(path)
    first.release()
    second = WriterLock(path)
    first.release()
    assert result_of(lambda: attempt(path)) is not None
    second.release()


def test_a_fork_neither_has_nor_releases_the_lock(path):
    lock = WriterLock(path)
    result_of(lock.release)
    assert "being written" in result_of(lambda: attempt(path))
    lock.release()


def test_a_killed_writer_is_not_waited_for(path):
    killed(lambda: WriterLock(path))
    assert json.loads(path.read_text())["pid"] != os.getpid()
    assert attempt(path) is None


def test_a_writer_on_another_machine_is_not_overruled(path):
    claim(path, host="elsewhere", boot="another", pid=1)
    assert "is being written by process 1 on elsewhere" in attempt(path)
    path.unlink()
    assert attempt(path) is None


def test_one_from_before_a_restart_of_this_machine_is_gone(path):
    claim(path, boot="another", pid=1)
    assert attempt(path) is None


def test_one_in_another_container_of_this_machine_is_gone_if_the_system_says_so(path):
    claim(path, host="elsewhere", pid=1)
    assert attempt(path) is None


@pytest.mark.parametrize(("pid", "lives"), [(1, True), (os.getppid(), True), (2**22 + 1, False)])
def test_where_a_file_system_has_no_locks_the_process_decides(path, monkeypatch, pid, lives):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    claim(path, pid=pid)
    assert (attempt(path) is not None) == lives


@pytest.mark.parametrize("text", ["{", "[1]", "\0\0"])
def test_a_half_written_file_is_of_a_writer_that_died(path, text):
    path.write_text(text)
    assert attempt(path) is None


def test_one_process_writes_a_store_and_any_number_read_it(tmp_path):
    def second():
        try:
            PseudoLabelStore(tmp_path / "s", identity()).close()
        except ConfigError as error:
            return str(error)
        return None

    def writes_as_fork():
        try:
            store.commit()
        except ValueError as error:
            return str(error)
        return None

    with filled(tmp_path / "s") as store:
        assert f"s is being written by process {os.getpid()}" in result_of(second)
        assert "a fork's: read only" in result_of(writes_as_fork)
        result_of(store.close)  # as loader workers end
        assert result_of(second) is not None
        store.commit()
    assert result_of(second) is None


def test_a_store_whose_writer_was_killed_opens_at_once(tmp_path):
    filled(tmp_path / "s").close()
    killed(lambda: PseudoLabelStore(tmp_path / "s", identity()))
    PseudoLabelStore(tmp_path / "s", identity()).close()
