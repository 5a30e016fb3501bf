"""A shallower ``tiny`` for tests that train or store it for the sake of something else."""

from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.discriminator import Discriminator

_DEFAULTS = TinyTransformer.__init__.__kwdefaults__
_SHIPPED = dict(_DEFAULTS)
_JUDGES = Discriminator.__init__.__kwdefaults__
_WIDTH = _JUDGES["width"]


def make_shallow() -> None:
    """Give every ``tiny`` of this process, and of those it forks, half of the blocks.

    And every discriminator of predictions an eighth of the maps.

    Most of what a small run takes goes with the number of tensors: drawing them, moving them by
    Adam, writing and reading them.
    """
    _DEFAULTS.update(depths=(1, 1, 1, 1), channels=(32, 32, 64, 64))
    _JUDGES["width"] = _WIDTH // 8


def make_as_shipped() -> None:
    """Undo it, in a process that works with one that others have started."""
    _DEFAULTS.update(_SHIPPED)
    _JUDGES["width"] = _WIDTH
