"""Lightning's hints and one deprecation of its own, kept out of the users' sight."""

import logging
import warnings

from lightning.fabric.utilities.warnings import PossibleUserWarning


def quiet_lightning() -> None:
    """Leave hints and advertisements out and print warnings once."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    # Lightning 2.6.6 calls torch's pytree in a way that torch 2.15 deprecates
    # (Lightning-AI/pytorch-lightning#21326).
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
