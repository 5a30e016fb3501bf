"""Forks that end as a test wants them to."""

import os
import pickle
import signal
import traceback


def fork(act):
    """Start ``act`` in a child that never returns to the test runner; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        act()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child):
    """Whether the child finished its work; False when it was killed.

    Raises:
        AssertionError: it failed.
    """
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "the child failed, see its traceback"
    return True


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(act):
    """Do it in a process that is killed right after."""
    assert not ended(fork(lambda: (act(), die())))


def result_of(act):
    """What it returns in another process."""
    source, target = os.pipe()
    child = fork(lambda: os.write(target, pickle.dumps(act())))
    os.close(target)
    with os.fdopen(source, "rb") as file:
        content = file.read()
    assert ended(child)
    return pickle.loads(content)
