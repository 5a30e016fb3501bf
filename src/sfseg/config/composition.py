"""The commands' common frame: where the configuration lives, and errors without tracebacks."""

import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from platform import machine
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from sfseg.config.information import VERSION, asks, tell, told
from sfseg.config.misspelt import explain, missing
from sfseg.config.multirun import left_to_jobs
from sfseg.config.trust import on_command_line, require_allowed, require_command_line, trusting
from sfseg.errors import ConfigError, OutputError, SfsegError

_PACKAGE = Path(__file__).parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The configuration tree: inside the wheel, or beside ``src`` in a checkout."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What the system says when a disk or a quota is full, or a disk takes nothing any more."""


def fast_precision() -> str:
    """``bf16-mixed`` where the hardware multiplies bfloat16 matrices, else ``32-true``."""
    import torch

    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # oneDNN says yes to every AVX-512 processor; one without instructions for bfloat16 imitates
        # them, four times slower than float32.
        imitated = machine() in {"x86_64", "AMD64"} and not torch.cpu._is_avx512_bf16_supported()
        fast = not imitated and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return "bf16-mixed" if fast else "32-true"


def by_choice(choice: str, values: DictConfig) -> Any:
    """The value of a choice, as in ``${by:${method.variant},{paper:0.0,release:0.01}}``.

    None for what is no choice: it is the object that takes it who says so.
    """
    return values.get(choice)


def first_given(*values: Any) -> Any:
    """The first of some values that is not null, as in ``${first:${data.target_crop},[64,64]}``."""
    return next((value for value in values if value is not None), None)


def judged_by(eval_sets: Any) -> str:
    """Whose scores a run is judged by: the mean over its evaluation sets, or its target."""
    return "target" if eval_sets is None else "mean"


OmegaConf.register_new_resolver("fast_precision", fast_precision, use_cache=True)
OmegaConf.register_new_resolver("by", by_choice)
OmegaConf.register_new_resolver("first", first_given)
OmegaConf.register_new_resolver("judged_by", judged_by)

SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
"""Names of environment variables whose values no record of a run may hold."""
MASKED = "masked"
LIST = re.compile(r"""^(\+{0,2}data\.\w+_list=)([^'"]*\{split\}[^'"]*)$""")
"""The setting of a file list whose name has a place for the split."""
TEMPLATE = re.compile(r"""^(\+{0,2}template=)([^'"]*\{[^'"]*)$""")
"""The setting of a prompt with places to fill."""
ADDRESS = re.compile(r"""^(view=)(https?://[^'"]+)$""")
"""The setting of an address in the web, which may hold a ``=``."""
NAME = re.compile(
    r"^(\+{0,2}(?:data\.(?:[\w.]+\.)?(?:\w+_)?(?:root|list|dir|suffix)|data\.(?:\w+_)?classes"
    r"|ckpt_path|replay|run|out|model|source_checkpoint|source_model\.folder|pseudo_labels\.start_from)=)"
    r"([+-]?\.?\d[\w.+-]*)$"
)
"""The setting of a path, or of a part of one, that begins like a number."""


def command(
    task: Callable[[DictConfig], Any],
    config_name: str,
    *,
    first: Callable[[DictConfig], None] = lambda cfg: None,
) -> None:
    """Run ``task`` under Hydra; errors a user can mend end with one message and exit code.

    Before the task begins, everything that its configuration names is looked at, see
    :mod:`sfseg.config.trust`; ``first`` is called before that, and must build nothing.

    Exit codes are those of :mod:`sfseg.errors`. Anything else is a defect and keeps its traceback.
    """
    # A console script, unlike python -m, does not see modules beside which it is called: a
    # user's own method.
    sys.path.append(str(Path.cwd()))
    # Hydra would print a traceback of its own and hide the exception.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.argv[1:] = quoted(sys.argv[1:])
    words = tuple(sys.argv[1:])
    if "--version" in words:
        tell(VERSION)
        return

    @functools.wraps(task)
    def checked(cfg: DictConfig) -> Any:
        with _past_hydra(), trusting(on_command_line(words)):
            require_command_line(cfg.trust)
            first(cfg)
            require_allowed(cfg)
            return task(cfg)

    decorated = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    try:
        sys.argv[1:] = left_to_jobs(words, CONF)
        with told(words, CONF, config_name) if asks(words) else nullcontext():
            decorated(checked)()
    except (SfsegError, _Ended) as caught:
        error = _error_of(caught)
        # From a loader process it comes inside the text of a traceback.
        name = f"{type(error).__module__}.{type(error).__qualname__}: "
        _fail(str(error).rpartition(name)[2], error.exit_code)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        text = missing(error) or explain(error, str(CONF), config_name, words)
        _fail(text or error, ConfigError.exit_code)
    except OSError as error:
        if error.errno in FULL:
            _fail(f"{error}; make room, then go on with resume=auto", OutputError.exit_code)
        if not _is_output_error(error):
            raise
        _fail(f"the output folder cannot be written: {error}", ConfigError.exit_code)


def subcommands(tasks: Mapping[str, Callable[[DictConfig], None]], usage: str) -> None:
    """Run the task that the first word of the command line names, with the configuration of it."""
    program, *words = sys.argv
    name = words[0] if words else ""
    if name in {"-h", "--help", "--version"}:
        tell(VERSION if name == "--version" else usage)
        return
    if name not in tasks:
        sys.stderr.write(usage)
        sys.exit(ConfigError.exit_code)

    def task(cfg: DictConfig) -> None:
        sys.argv = [program, *words]  # as the run's record keeps it
        tasks[name](cfg)

    sys.argv = [program, *words[1:]]  # Hydra knows settings only
    command(task, name)


def quoted(words: Sequence[str]) -> list[str]:
    """A command line in which names stand in quotes, which shells take away.

    Hydra would read the braces of ``data.source_list={split}.txt`` as a dictionary, and
    ``data.root=2024_05`` as the number 202405.
    """
    for pattern in (LIST, TEMPLATE, ADDRESS, NAME):
        words = [pattern.sub(r'\1"\2"', word) for word in words]
    return list(words)


class _Ended(BaseException):
    """An error on its way through Hydra, which would print a line about the job's settings."""

    def __init__(self, error: SfsegError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _past_hydra() -> Iterator[None]:
    """Errors of the only job reach :func:`command` unseen by Hydra.

    Among several jobs the others go on, and Hydra's line says which one it was.
    """
    try:
        yield
    except (SfsegError, OmegaConfBaseException) as error:
        known = error if isinstance(error, SfsegError) else _known(error)
        if known is None or HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        raise _Ended(known) from error


def _known(error: Exception) -> ConfigError | None:
    """An error of the configuration in words of ours, where there are any."""
    text = missing(error)
    return None if text is None else ConfigError(text)


def _error_of(caught: SfsegError | _Ended) -> SfsegError:
    return caught.error if isinstance(caught, _Ended) else caught


def build(node: Any, **arguments: Any) -> Any:
    """Instantiate a configuration node with plain containers; the configuration stays as it is.

    Raises:
        ConfigError: it names what a configuration must not call, or an argument is refused by the
            object it is meant for.
    """
    own = detached(node)
    require_allowed(own, is_built=True)
    try:
        return hydra.utils.instantiate(own, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, SfsegError):
            raise cause from error
        key = getattr(node, "_get_full_key", lambda _: "")("")
        where = f"{key}: " if key else ""
        raise ConfigError(f"{where}{cause or error}") from error


def detached(node: Any) -> Any:
    """A copy of a node with values in place of interpolations, which belongs to no configuration.

    Hydra resolves what it instantiates in place, and with it the nodes that interpolations lead
    to, wherever in the configuration these stand.
    """
    if not OmegaConf.is_config(node):
        return node
    return OmegaConf.create(_as_text(OmegaConf.to_container(node, resolve=True)))


def _as_text(value: Any) -> Any:
    """Containers in which a string that has come to hold ``${`` is one, not an interpolation."""
    if isinstance(value, dict):
        return {key: _as_text(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_text(part) for part in value]
    # As OmegaConf's grammar has it: backslashes before an escaped brace count double.
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def plain(cfg: DictConfig, *, resolve: bool) -> dict[str, Any]:
    """The configuration as dicts and lists, as a checkpoint, a record or a logger may hold it.

    Secrets that it takes from the environment are masked, whatever way they come.
    """
    with _masked_secrets():
        container = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def as_typed(cfg: DictConfig, key: str) -> str:
    """A setting that is a name, though it may look like a number: ``2024_05`` is no 202405."""
    value = OmegaConf.select(cfg, key, throw_on_missing=True)
    if isinstance(value, str):
        return value
    typed = [word.partition("=") for word in overrides()]
    return next((text for name, _, text in reversed(typed) if name == key), str(value))


def require_flags(cfg: DictConfig, *names: str) -> None:
    """Refuse settings that are neither true nor false: ``no`` is a text to Hydra, and true.

    Raises:
        ConfigError: names the first.
    """
    for name in names:
        if not isinstance(cfg[name], bool):
            raise ConfigError(f"{name} must be true or false, got {cfg[name]}")


def overrides() -> list[str]:
    """The command line's settings of this job as they were typed, interpolations unresolved."""
    typed = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(typed, list)
    return typed


@contextmanager
def _masked_secrets() -> Iterator[None]:
    """Meanwhile, ``${oc.env:NAME}`` shows no value of a variable that is named like a secret."""

    def masked(name: str, *default: str | None) -> str | None:
        if SECRET.search(name) and name in os.environ:
            return MASKED
        value: str | None = oc.env(name, *default)
        return value

    OmegaConf.register_new_resolver("oc.env", masked, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _is_output_error(error: OSError) -> bool:
    """Whether Hydra failed to make the run folder."""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__") == "hydra.core.utils":
            return traceback.tb_next is None or "pathlib" in str(
                traceback.tb_next.tb_frame.f_globals.get("__name__")
            )
        traceback = traceback.tb_next
    return False


def _fail(message: object, exit_code: int) -> None:
    # Hydra's own errors may be empty and leave what happened to their cause.
    while isinstance(message, Exception) and not str(message):
        message = message.__cause__ or message.__context__ or type(message).__name__
    sys.stderr.write(f"\nsfseg: {message}\n")
    sys.exit(exit_code)
