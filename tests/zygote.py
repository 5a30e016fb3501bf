"""Runs commands many times without paying their imports each time, and kills them.

A process that has imported all it needs, and computed nothing, forks a child for every process of
a run. As a script it takes one request a line and answers each.
"""

import gc
import importlib
import json
import os
import pkgutil
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

COMMANDS = {
    "sfseg-train": "train",
    "sfseg-eval": "evaluate",
    "sfseg-predict": "predict",
    "sfseg-data": "data",
    "sfseg-generate": "generate",
    "sfseg-export": "export",
    "sfseg-push": "push",
    "sfseg-convert": "convert",
    "sfseg-doctor": "doctor",
    "sfseg-report": "run_report",
    "sfseg-compare": "compare",
    "sfseg-dashboard": "dashboard",
}


def main_of(command: str) -> Callable[[], None]:
    """What the console script of a command calls, by its name or path."""
    module = importlib.import_module(f"sfseg.commands.{COMMANDS[Path(command).name]}")
    main: Callable[[], None] = module.main
    return main


class Parent:
    """The process, from outside.

    Args:
        environment: added to this process's, for what is read when a process starts.
    """

    def __init__(self, **environment: str) -> None:
        here = str(Path(__file__).parent)
        path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()


class Zygote:
    """A folder in which children of such a process run the command.

    Args:
        parent: forks them.
        folder: where they run.
        environment: added to their parent's.
    """

    def __init__(self, parent: Parent, folder: Path, **environment: str) -> None:
        self.parent, self.folder, self.environment = parent, folder, environment
        self.log = folder / "zygote.log"

    def train(
        self,
        *arguments: str,
        kill_after: float | None = None,
        number: int = signal.SIGKILL,
        ranks: int = 1,
    ) -> tuple[int, float]:
        """Run a command, and end it by a signal after a while if it still runs.

        Args:
            arguments: of the command.
            kill_after: seconds.
            number: of the signal.
            ranks: processes of the run; the last one gets the signal.

        Returns:
            The exit code of the first process, negative where a signal ended it, and the seconds
            until the last one ended.
        """
        return self._run(
            ["sfseg-train", *arguments], kill_after=kill_after, signal=int(number), ranks=ranks
        )

    def call(
        self, name: str, *arguments: str, code: str | None = None, ranks: int = 1
    ) -> tuple[int, str]:
        """Run a command, or instead of it some lines of Python; its exit code and what it says.

        Args:
            name: of the command, or of what runs in its place.
            arguments: of it.
            code: in Python.
            ranks: processes of the run.
        """
        self.log.unlink(missing_ok=True)
        ended, _ = self._run([name, *arguments], code=code, ranks=ranks)
        return ended, self.log.read_text()

    def _run(self, argv: list[str], **more: Any) -> tuple[int, float]:
        request = {
            "argv": argv,
            "folder": str(self.folder),
            "environment": self.environment,
            "log": str(self.log),
            **more,
        }
        answer = self.parent.ask(request)
        return int(answer["code"]), float(answer["seconds"])


def killed_until_done(
    zygote: Zygote, arguments: Sequence[str], *, moments: random.Random, longest: float
) -> int:
    """Kill a run at random moments and start it again with ``resume=auto`` until it ends.

    Args:
        zygote: runs it.
        arguments: of the run, without ``resume``.
        moments: draws them.
        longest: seconds after which the latest kill comes; a run that lasts longer than that
            from its last checkpoint on would never end, so each start may last a little longer.

    Returns:
        How often it was killed.
    """
    kills = 0
    while True:
        kill_after = moments.uniform(0.02, longest * (1 + kills / 10))
        code, _ = zygote.train(*arguments, "resume=auto", kill_after=kill_after)
        if code == 0:
            return kills
        assert code == -signal.SIGKILL, zygote.log.read_text()[-3000:]
        kills += 1


def serve() -> None:
    """Fork a child for each request of the standard input."""
    prepare()
    for line in sys.stdin:
        request = json.loads(line)
        begin = time.monotonic()
        port = _free_port()
        children = []
        for rank in range(request.get("ranks", 1)):
            children.append(os.fork())
            if children[-1] == 0:
                _be(request, rank, port)
        codes = _end(children, request)
        answer = {"code": codes[0], "seconds": time.monotonic() - begin}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def prepare() -> None:
    """Import and compose here what every child would: it takes longer than a small run."""
    import albumentations  # noqa: F401
    import composing
    import sklearn.cluster  # noqa: F401
    import timm  # noqa: F401
    from hydra import compose, initialize_config_dir
    from shallow import make_shallow

    import sfseg
    from sfseg.config.composition import CONF

    for module in pkgutil.walk_packages(sfseg.__path__, "sfseg."):
        importlib.import_module(module.name)
    composing.remember()
    make_shallow()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose("train", overrides=["method=uniuvpt", "trainer=debug"], return_hydra_config=True)
    gc.freeze()  # what the children share stays shared: the collector of garbage writes into all


def _end(children: list[int], request: dict[str, Any]) -> list[int]:
    """Exit codes of all children; the last gets its signal when the time has come."""
    after = request.get("kill_after")
    deadline = None if after is None else time.monotonic() + after
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                codes[child] = os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() > deadline:
            if children[-1] not in codes:
                os.kill(children[-1], request["signal"])
            deadline = None
        time.sleep(0.002)
    return [codes[child] for child in children]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _be(request: dict[str, Any], rank: int, port: int) -> None:
    """Become a process of the run; never returns."""
    os.chdir(request["folder"])
    os.environ |= request["environment"]
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = request["argv"]
    if request.get("ranks", 1) > 1:
        # As torchrun starts them.
        os.environ |= {
            "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0", "WORLD_SIZE": str(request["ranks"]),
            "LOCAL_WORLD_SIZE": str(request["ranks"]), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
    code = 1
    try:
        if (lines := request.get("code")) is not None:
            exec(compile(lines, sys.argv[0], "exec"), {"__name__": "__main__"})
        else:
            main_of(sys.argv[0])()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
