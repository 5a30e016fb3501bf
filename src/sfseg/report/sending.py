"""Pictures and tables of reports, to the loggers that take them."""

from collections.abc import Iterable, Sequence

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from sfseg.report.drawing import Pixels
from sfseg.report.loggers import WandbRun
from sfseg.report.tables import Cell
from sfseg.report.trackio_run import TrackioRun


def send_picture(loggers: Iterable[Logger], key: str, picture: Pixels, step: int) -> None:
    """Show a picture (H, W, 3) in TensorBoard and Trackio, at that step, and in W&B."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, picture, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(key=key, images=[picture])
        elif isinstance(logger, TrackioRun):
            logger.log_picture(key, picture, step)


def send_table(
    loggers: Iterable[Logger], key: str, header: Sequence[str], rows: Sequence[Sequence[Cell]]
) -> None:
    """Show a table in W&B and Trackio, which have some."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(key=key, columns=list(header), data=[list(row) for row in rows])
        elif isinstance(logger, TrackioRun):
            logger.log_table(key, header, rows)


def close(loggers: Iterable[Logger]) -> None:
    """Close runs of services, or the next job of a sweep would go on in them."""
    for logger in loggers:
        if isinstance(logger, WandbRun | TrackioRun):
            logger.close()
