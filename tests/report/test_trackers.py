"""MLflow and Trackio get what a run logs; each test runs where its program is installed."""

from pathlib import Path

import numpy as np
import pytest
from conftest import DEBUG, WITH_PANELS, Cli

from sfseg.errors import ConfigError
from sfseg.report.sending import close, send_picture, send_table


@pytest.mark.filterwarnings("ignore")  # of MLflow and what it stands on
def test_mlflow_keeps_a_run(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("SFSEG_LOG_DIR", str(tmp_path / "logs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = cli("sfseg-train", *DEBUG, "logger=mlflow", f"hydra.run.dir={tmp_path}/logs/run")
    assert done.code == 0, done.output
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/logs/mlflow.db")
    experiment = client.get_experiment_by_name("sfseg")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "source_only-tiny-toyscapes-s0" and run.info.status == "FINISHED"
    assert run.data.params["method/lr"] == "0.003"
    assert 0 <= run.data.metrics["val/target/mIoU"] <= 1
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == [0, 1, 2]


@pytest.mark.filterwarnings("ignore")  # of Trackio and what it stands on
def test_trackio_keeps_a_run(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trackio = pytest.importorskip("trackio")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path)
    done = cli("sfseg-train", *WITH_PANELS, "logger=trackio")
    assert done.code == 0, done.output
    (run,) = trackio.Api().runs("sfseg")
    assert run.name == f"source_only-tiny-toyscapes-s0 {done.run.name}"
    assert run.config["method"]["lr"] == 0.003
    rows = trackio.SQLiteStorage.get_logs("sfseg", run.name)
    assert [row["step"] for row in rows if "train/loss" in row] == [0, 1, 2]
    assert any("panels" in row for row in rows) and any("per_class" in row for row in rows)


def test_without_trackio_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from sfseg.report.trackio_run import TrackioRun

    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    with pytest.raises(ConfigError, match=r"pip install 'sfseg\[trackio\]'"):
        TrackioRun("sfseg", "run", "logs/run")


class Told:
    """A stand-in for Trackio that remembers."""

    def __init__(self) -> None:
        self.config: dict[str, object] = {}
        self.logged: list[tuple[dict[str, object], int | None]] = []
        self.is_finished = False
        self.name = ""

    def init(self, project: str, name: str, resume: str) -> "Told":
        assert (project, resume) == ("sfseg", "allow")
        self.name = name
        return self

    def log(self, values: dict[str, object], step: int | None = None) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.is_finished = True

    Image = staticmethod(np.asarray)

    @staticmethod
    def Table(columns: list[str], data: list[list[object]]) -> tuple[object, ...]:  # noqa: N802
        return columns, data


@pytest.mark.parametrize(
    ("folder", "tail"), [("logs/runs/2026-01-02_03", "2026-01-02_03"),
                         ("logs/multiruns/2026-01-02_03/1", "2026-01-02_03 1")],
)  # fmt: skip
def test_trackio_hears_what_lightning_says(
    folder: str, tail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfseg.report.trackio_run import TrackioRun

    told = Told()
    monkeypatch.setitem(__import__("sys").modules, "trackio", told)
    logger = TrackioRun("sfseg", "tent-s0", folder)
    logger.log_hyperparams({"seed": 1})
    logger.log_metrics({"train/loss": 0.5}, 3)
    send_picture([logger], "panels", np.zeros((2, 3, 3), np.uint8), 4)
    send_table([logger], "per_class", ["class", "IoU"], [["road", 0.5]])
    close([logger])
    assert told.name == logger.version == f"tent-s0 {tail}"
    assert told.config == {"seed": 1} and told.is_finished
    assert told.logged[0] == ({"train/loss": 0.5}, 3)
    assert told.logged[1][1] == 4 and told.logged[1][0]["panels"].shape == (2, 3, 3)
    assert told.logged[2] == ({"per_class": (["class", "IoU"], [["road", 0.5]])}, None)
