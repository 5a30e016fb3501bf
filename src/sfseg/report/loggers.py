"""Lightning's loggers for CSV files and W&B, made to outlive kills, restarts and lost networks."""

import csv
import io
import logging
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only

from sfseg.errors import ConfigError
from sfseg.report.wandb_server import why_unusable
from sfseg.storage.atomic import write_whole

log = logging.getLogger(__name__)
Row = Mapping[str, Any]
ID_FILE = "wandb_id.txt"
STOP_SECONDS = 10.0
INIT_SECONDS = 30.0
"""Wait for a server that takes the connection; W&B's own 90 would hold up training for nothing."""


class MetricsCsv(CSVLogger):
    """Lightning's CSV logger for a folder that may be continued: it never deletes what is there.

    Columns are sorted by name, rows in the order they came in. A process may be killed at any time,
    also while it saves: what was saved before stays, and half a line is dropped.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsFile":
        if self._experiment is None:
            self._experiment = MetricsFile(self.log_dir)
        return cast(MetricsFile, self._experiment)

    @rank_zero_only
    def resume_from(self, step: int) -> None:
        """Forget what was logged after a step, which the continued run will log again.

        Rows of a larger step go, and with them columns that only they had. The file then grows to
        the same bytes as that of a run that was never interrupted.

        Args:
            step: last one to keep. Lightning counts them from 0: it logs the n-th optimiser step,
                and the evaluation after it, as n - 1.
        """
        self.experiment.resume_from(step)


class MetricsFile(ExperimentWriter):
    """The file of a :class:`MetricsCsv`, and rows that are not in it yet."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        self._size = 0
        self._load()

    def _check_log_dir_exists(self) -> None:
        """Nothing is in the way: Lightning would delete the metrics of the run that goes on."""

    def resume_from(self, step: int) -> None:
        """See :meth:`MetricsCsv.resume_from`."""
        self.metrics = []
        rows = [row for row in self._load() if int(row["step"]) <= step]
        self.metrics_keys = sorted({key for row in rows for key, value in row.items() if value})
        if rows:
            self._write_all(rows)
        else:
            self.path.unlink(missing_ok=True)
            self._size = 0

    def save(self) -> None:
        """Bring all rows to the disk.

        Raises:
            OSError: the disk takes nothing; another call tries again.
        """
        if not self.metrics:
            return
        if self._record_new_keys():
            self._write_all([*self._load(keep_keys=True), *self.metrics])
        else:
            self._append(self.metrics)
        self.metrics = []

    def _load(self, *, keep_keys: bool = False) -> list[dict[str, str]]:
        """Whole rows of the file, and how many bytes they take."""
        if not self.path.is_file():
            return []
        content = self.path.read_bytes()
        self._size = content.rfind(b"\n") + 1
        reader = csv.DictReader(io.StringIO(content[: self._size].decode(), newline=""))
        if not keep_keys:
            self.metrics_keys = list(reader.fieldnames or ())
        return list(reader)

    def _write_all(self, rows: Sequence[Row]) -> None:
        header = dict(zip(self.metrics_keys, self.metrics_keys, strict=True))
        content = self._lines([header, *rows])
        write_whole(self.path, lambda file: file.write(content))
        self._size = len(content)

    def _append(self, rows: Sequence[Row]) -> None:
        content = self._lines(rows)
        with self.path.open("r+b") as file:
            # Behind the last whole row: a full disk or a kill may have left half of one.
            file.truncate(self._size)
            file.seek(self._size)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._size += len(content)

    def _lines(self, rows: Sequence[Row]) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.metrics_keys, extrasaction="ignore")
        writer.writerows(rows)
        return text.getvalue().encode()


class WandbRun(WandbLogger):
    """Lightning's W&B logger; no missing network and no failing W&B keeps a run from training.

    Where the server cannot be reached or there is no key for it, the run is kept offline, for
    ``wandb sync`` to send; ``WANDB_MODE`` and W&B's own settings come first. If W&B fails later,
    one warning says so and training goes on without it: the same numbers are in the CSV file.

    The run's id is kept in its folder, so that a run that is continued there stays one run. W&B's
    steps are those of training: what a continued run logs again falls on the rows that are there.

    Args:
        save_dir: the run folder.
        offline: do not look for a server at all.
        **arguments: see :class:`lightning.pytorch.loggers.WandbLogger`.
    """

    def __init__(self, *, save_dir: str, offline: bool = False, **arguments: Any) -> None:
        super().__init__(save_dir=save_dir, **arguments)
        self.folder = Path(save_dir)
        self.wants_offline = offline
        self.is_lost = False
        self._first = self._last = 0

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None and not self.is_lost:
            self._guarded(self._start)
        return DummyLogger().experiment if self.is_lost else self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._guarded(lambda: self._log(metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self._guarded(lambda: super(WandbRun, self).log_hyperparams(params))

    @rank_zero_only
    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        self._guarded(lambda: super(WandbRun, self).log_image(key, images, step, **kwargs))

    @rank_zero_only
    def log_table(self, *arguments: Any, **kwargs: Any) -> None:
        self._guarded(lambda: super(WandbRun, self).log_table(*arguments, **kwargs))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._guarded(lambda: super(WandbRun, self).finalize(status))

    @rank_zero_only
    def close(self) -> None:
        """Finish the run, or the next job of a sweep would go on in it."""
        if self._experiment is not None:
            self._guarded(self._experiment.finish)
        self._experiment = None

    def _guarded(self, call: Callable[[], object]) -> None:
        """Call W&B unless it is lost; its failures are one warning, other errors stay errors."""
        if self.is_lost:
            return
        try:
            call()
        except Exception as error:
            if not is_of_service(error):
                raise
            self.is_lost = True
            log.warning(
                "W&B has failed (%s: %s); training goes on without it, and the CSV file has "
                "all numbers",
                type(error).__name__,
                error,
            )
            _stop_service(self._experiment)

    def _start(self) -> None:
        import wandb

        arguments = {key: value for key, value in self._wandb_init.items() if value is not None}
        arguments["id"] = self._id = self._kept_id()
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            arguments.setdefault("settings", wandb.Settings(init_timeout=INIT_SECONDS))
        mode = self._mode()
        if mode is not None:
            arguments["mode"] = mode
        try:
            # A run of its own, whatever another logger of this process has left open.
            run = wandb.init(reinit="create_new", **arguments)
        except wandb.errors.CommError as error:
            self._warn(str(error))
            _stop_service()
            run = wandb.init(reinit="create_new", **{**arguments, "mode": "offline"})
        except wandb.errors.UsageError as error:
            raise ConfigError(f"logger.wandb is refused: {error}") from error
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self._first = run.starting_step if run.resumed else 0
        self._experiment = run

    def _mode(self) -> str | None:
        """How to run; None leaves it to W&B and its settings."""
        import wandb

        if self.wants_offline:
            return "offline"
        settings = wandb.setup().settings
        if os.environ.get("WANDB_MODE") or settings.mode != "online":
            return None
        reason = why_unusable(settings)
        if reason is None:
            return None
        self._warn(reason)
        return "offline"

    def _warn(self, reason: str) -> None:
        log.warning(
            "W&B: %s. The run is kept offline; `wandb sync` sends %s later, WANDB_MODE=offline is "
            "silent",
            reason.strip().rstrip("."),
            self.folder / "wandb" / "offline-run-*",
        )

    def _kept_id(self) -> str:
        """Of this folder's run: the one it had before, or a new one."""
        path = self.folder / ID_FILE
        with suppress(FileNotFoundError):
            kept = path.read_text(encoding="ascii").strip()
            if kept:
                return kept
        chosen = str(self._id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))
        write_whole(path, lambda file: file.write(f"{chosen}\n".encode()))
        return chosen

    def _log(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Log at a step of W&B that never falls; pictures and tables go to the last one."""
        run = self.experiment
        at = max(self._last, step or 0)
        if self.is_lost or at < self._first:
            # W&B has it from before the restart, and would warn of each.
            return
        self._last = at
        join = self.LOGGER_JOIN_CHAR
        values = {f"{self._prefix}{join}{k}" if self._prefix else k: v for k, v in metrics.items()}
        if step is not None:
            values["trainer/global_step"] = step
        run.log(values, step=at)


def is_of_service(error: Exception) -> bool:
    """Whether W&B or what it runs on has failed, rather than the program that uses it."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] == "wandb"


def _stop_service(run: Any = None) -> None:
    """Let go of the terminal and of W&B's process, so that another run can have a new one."""
    import wandb

    def stop() -> None:
        # What has failed may fail again, want to end the program, or wait for ever.
        if run is not None:
            with suppress(Exception, SystemExit):
                run.finish()
            with suppress(Exception):
                # Where it fails early, it goes on sending whatever is printed (wandb 0.31).
                run._console_stop()
        with suppress(Exception, SystemExit):
            wandb.teardown()

    attempt = threading.Thread(target=stop, daemon=True)
    attempt.start()
    attempt.join(STOP_SECONDS)
