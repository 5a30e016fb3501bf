"""What a machine and its installation offer a run, and what is missing; nothing is contacted."""

import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from sfseg.config.composition import CONF, fast_precision
from sfseg.runs.folder import versions

GIB = 2**30
PLACES = {"SFSEG_LOG_DIR": "logs", "SFSEG_CACHE": "~/.cache/sfseg", "SFSEG_DATA": "data"}
"""Variable -> the folder where nothing is set."""
LEAST_SHARED = 1 * GIB
"""Of shared memory, through which loader processes hand their batches over."""


class Fact(NamedTuple):
    """Something that was found.

    name: what it is of.
    value: what was found.
    advice: what to do about it; empty where all is well.
    is_broken: a run would fail.
    """

    name: str
    value: str
    advice: str = ""
    is_broken: bool = False


def environment() -> dict[str, list[Fact]]:
    """Facts by section."""
    return {
        "Versions": [*_versions()],
        "Devices": [*_devices()],
        "Fast paths": [*_fast_paths()],
        "Extras": [*_extras()],
        "Folders": [_place(name, default) for name, default in PLACES.items()],
        "Services": [_wandb(), _hub()],
    }


def presets() -> dict[str, int]:
    """Name of each memory preset -> GiB, the smallest first."""
    found = {path.stem: int(path.stem.removesuffix("gb")) for path in CONF.glob("preset/*gb.yaml")}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def preset_for(gib: float) -> str | None:
    """The largest preset that fits a memory; None where none does."""
    # Cards have a little less than they are called after.
    fitting = [name for name, size in presets().items() if size <= 1.03 * gib]
    return fitting[-1] if fitting else None


def memory_bytes() -> int:
    """Of the machine, or of the container where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total


def _versions() -> Iterator[Fact]:
    yield Fact("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name, found in versions().items():
        yield Fact(name, found)
    for requirement in requires("sfseg") or []:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]
        if not _is_installed(name):
            yield Fact(name, "missing", f"pip install '{requirement}'", is_broken=True)


def _devices() -> Iterator[Fact]:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Fact(
        "processor",
        f"{processor()}, {usable} of {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{memory_bytes() / GIB:.1f} GiB",
    )
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        gib = card.total_memory / GIB
        fits = preset_for(gib)
        yield Fact(
            f"cuda:{index}",
            f"{card.name}, {gib:.1f} GiB, compute {card.major}.{card.minor}",
            f"preset={fits} fits it"
            if fits
            else f"it is smaller than preset={next(iter(presets()))}",
        )
    if torch.version.cuda and not torch.cuda.is_available():
        yield Fact("cuda", f"built for CUDA {torch.version.cuda}, no GPU found: trainer=cpu")
    if torch.backends.mps.is_available():
        yield Fact("mps", "Apple's GPU: trainer.accelerator=mps")


def processor() -> str:
    """Its model, as the system calls it."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _fast_paths() -> Iterator[Fact]:
    import torch

    has_gpu = torch.cuda.is_available()
    precision = fast_precision()
    half = precision != "32-true"
    does = "is multiplied by the hardware" if half else "would be imitated, slower than float32"
    yield Fact("precision", f"{precision}: bfloat16 {does}")
    if has_gpu:
        yield Fact("float32", "matmul_precision=high: TensorFloat32 where the GPU has it")
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if has_gpu and find_spec("triton") is None:
        yield Fact("compile", "no Triton", "backbone.compile=true would fail: pip install triton")
    elif compiler is None:
        yield Fact("compile", "no C++ compiler", "backbone.compile=true would fail: install g++")
    else:
        yield Fact("compile", f"backbone.compile=true can be used ({Path(compiler).name})")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        advice = "data.num_workers=0, or more of it (docker run --shm-size=8g)"
        yield Fact(
            "shared memory", f"{free / GIB:.1f} GiB free", "" if free >= LEAST_SHARED else advice
        )
    backends = [name for name in ("nccl", "gloo") if getattr(
        torch.distributed, f"is_{name}_available", lambda: False)()]  # fmt: skip
    yield Fact("several devices", f"trainer=ddp by {', '.join(backends) or 'nothing'}")


def _extras() -> Iterator[Fact]:
    """Extras of the package, and what of each is not installed."""
    needed: dict[str, list[str]] = {
        name: [] for name in metadata("sfseg").get_all("Provides-Extra") or []
    }
    for requirement in requires("sfseg") or []:
        found = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", requirement)
        if found and found[1] != "sfseg":
            needed[found[2]].append(found[1])
    for extra, names in needed.items():
        missing = [name for name in names if not _is_installed(name)]
        if extra in {"dev", "parity", "docs"} and missing:
            continue
        advice = f"pip install 'sfseg[{extra}]'" if missing else ""
        yield Fact(extra, f"without {', '.join(missing)}" if missing else "installed", advice)


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _place(variable: str, default: str, given: Mapping[str, str] = os.environ) -> Fact:
    """A folder of the settings: whether it can be written, or its first parent that is there."""
    path = Path(given.get(variable, default)).expanduser()
    there = next(place for place in [path.absolute(), *path.absolute().parents] if place.exists())
    name = str(path).replace(str(Path.home()), "~", 1)
    if variable == "SFSEG_DATA":
        return Fact(variable, name if path.is_dir() else f"{name}, which is not there")
    if not os.access(there, os.W_OK):
        return Fact(variable, name, f"cannot be written: set {variable}", is_broken=True)
    return Fact(variable, f"{name}, {shutil.disk_usage(there).free / GIB:.0f} GiB free")


def _wandb() -> Fact:
    from sfseg.report.wandb_server import netrc_has

    if mode := os.environ.get("WANDB_MODE"):
        return Fact("wandb", f"WANDB_MODE={mode}")
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if os.environ.get("WANDB_API_KEY") or netrc_has(url):
        return Fact("wandb", f"there is a key for {url}: logger=wandb sends")
    return Fact("wandb", "no key: logger=wandb keeps runs offline", "wandb login, to send them")


def _hub() -> Fact:
    from huggingface_hub import constants, get_token

    offline = "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "online"
    signed = "signed in" if get_token() else "not signed in: gated weights and sfseg-push need it"
    return Fact("huggingface.co", f"{offline}, {signed}")
