"""What a run has written of itself: read as a stranger's, refused where it is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sfseg.config.moved import with_todays_names
from sfseg.config.trust import require_allowed
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.nesting import require_small
from sfseg.runs.older_records import updated


@contextmanager
def record_of(source: str) -> Iterator[None]:
    """Errors of reading what a run has written of itself, into its checkpoint say.

    Args:
        source: where, for messages, such as ``ckpt_path=last.ckpt``.

    Raises:
        ConfigError: it is no such record.
    """
    try:
        yield
    except (
        LookupError, TypeError, ValueError, AttributeError, RecursionError, OmegaConfBaseException
    ) as error:  # fmt: skip
        raise ConfigError(
            f"{source} has no usable record of its run ({type(error).__name__}: {error}); "
            "take a file that sfseg-train has written"
        ) from error


def labels_of(record: Any, source: str) -> LabelSpace:
    """The label space in the record of a run; arguments and errors as of :func:`record_of`."""
    with record_of(source):
        require_small(record, "the record")
        return LabelSpace.from_dict(record["labels"])


def config_of(record: Any, source: str) -> DictConfig:
    """The configuration in the record of a run, interpolations unresolved.

    Raises:
        ConfigError: there is none, or it names what must not be called.
    """
    with record_of(source):
        require_small(record, "the record")
        config = OmegaConf.create(updated(with_todays_names(record["config"])))
        for key in ("backbone.network", "method", "data.module"):
            if not OmegaConf.is_dict(OmegaConf.select(config, key)):
                raise ValueError(f"{key} is no group of settings")
        assert isinstance(config, DictConfig)
        OmegaConf.set_struct(config, True)
    require_allowed(config, source=source)
    return config
