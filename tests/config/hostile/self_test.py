"""What a battery must notice: three cases, the second of which goes wrong."""

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator

from payload import TOUCH, Payload


def sound() -> str:
    return "harmless"


def killed() -> str:
    os.kill(os.getpid(), signal.SIGSEGV)
    return "harmless"


def hanging() -> str:
    time.sleep(1000)
    return "harmless"


def raising() -> str:
    raise KeyError("no error of ours")


def unpickling() -> str:
    pickle.loads(pickle.dumps(Payload()))
    return "harmless"


def calling() -> str:
    os.system(TOUCH)
    return "harmless"


def cases(second: str) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "first", sound
    attempts = (sound, killed, hanging, raising, unpickling, calling)
    yield "second", {attempt.__name__: attempt for attempt in attempts}[second]
    yield "third", sound
