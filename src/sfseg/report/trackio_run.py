"""Trackio's dashboards, kept on this machine, for Lightning."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from sfseg.errors import ConfigError
from sfseg.report.drawing import Pixels
from sfseg.report.tables import Cell


class TrackioRun(Logger):
    """Logs to a project of Trackio, whose database is where ``TRACKIO_DIR`` says.

    A run is known by its name there: that of the run and of its folder, so that a run which goes on
    in its folder stays one, and another of the same settings is another.

    Args:
        project: of Trackio.
        name: of the run.
        save_dir: the run folder.

    Raises:
        ConfigError: Trackio is not installed.
    """

    def __init__(self, project: str, name: str, save_dir: str) -> None:
        super().__init__()
        try:
            import trackio
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"logger=trackio: {error}; pip install 'sfseg[trackio]', or set logger=csv"
            ) from error
        self._trackio = trackio
        self.project = project
        # A job of a sweep is called by its number, in the sweep's folder.
        folder = Path(save_dir)
        numbered = folder.name.isdigit()
        self._name = " ".join([name, *folder.parts[-2 if numbered else -1 :]])
        self._run: Any = None

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return self._name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's run."""
        if self._run is None:
            self._run = self._trackio.init(project=self.project, name=self._name, resume="allow")
        return self._run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        values = vars(params) if isinstance(params, Namespace) else params
        self.experiment.config.update(values)

    @rank_zero_only
    def log_picture(self, key: str, picture: Pixels, step: int) -> None:
        """Show a picture (H, W, 3)."""
        self.experiment.log({key: self._trackio.Image(picture)}, step=step)

    @rank_zero_only
    def log_table(self, key: str, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show a table."""
        data = [list(row) for row in rows]
        self.experiment.log({key: self._trackio.Table(columns=list(header), data=data)})

    @rank_zero_only
    def close(self) -> None:
        """Finish the run, or the next job of a sweep would go on in it."""
        if self._run is not None:
            self._run.finish()
        self._run = None
