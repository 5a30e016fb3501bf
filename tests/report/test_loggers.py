"""CSV files that survive kills and restarts; W&B without network, without key, without W&B."""

import logging
import os
import socket
import time

import numpy as np
import pytest
import wandb
from conftest import DEBUG
from zygote import Zygote

from sfseg.errors import ConfigError
from sfseg.report.loggers import ID_FILE, MetricsCsv, MetricsFile, WandbRun
from sfseg.report.wandb_server import is_reachable

CLOSED = "http://127.0.0.1:9"
NOWHERE = "http://10.255.255.1"


def table(folder):
    return MetricsCsv(save_dir=str(folder), name="csv", version="")


def content(folder):
    path = folder / "csv" / "metrics.csv"
    return path.read_bytes() if path.is_file() else None


def log_step(logger, step):
    """Columns that come and go, one with a comma, and two rows of one step."""
    logger.log_metrics({"train/loss": 1 / (step + 3), "train/lr": 0.1**step}, step)
    if step % 4 == 3:
        logger.log_metrics({"val/mIoU": step / 7, f"IoU/a, {step // 4}": float("nan")}, step)
    if step == 5:
        logger.log_metrics({"a/rare": 5, "z/rare": -5.0}, step)


def uninterrupted(folder, steps=10, save_every=3):
    logger = table(folder)
    for step in range(steps):
        log_step(logger, step)
        if step % save_every == 0:
            logger.save()
    logger.finalize("success")
    return content(folder)


def test_columns_are_sorted_and_rows_in_order(tmp_path):
    lines = uninterrupted(tmp_path).decode().splitlines()
    assert lines[0] == '"IoU/a, 0","IoU/a, 1",a/rare,step,train/loss,train/lr,val/mIoU,z/rare'
    assert [line.split(",")[3] for line in lines[1:]] == list("0123345567789")


@pytest.mark.parametrize("save_every", [1, 3, 100])
def test_when_it_is_saved_changes_no_byte(tmp_path, save_every):
    expected = uninterrupted(tmp_path / "a")
    assert uninterrupted(tmp_path / "b", save_every=save_every) == expected


@pytest.mark.parametrize("saves_later_rows", [False, True])
@pytest.mark.parametrize("at", range(-1, 10))
def test_a_continued_run_has_the_same_bytes(tmp_path, at, saves_later_rows):
    expected = uninterrupted(tmp_path / "whole")
    first = table(tmp_path / "cut")
    for step in range(at + 1):
        log_step(first, step)
    first.save()
    for step in range(at + 1, 9):
        log_step(first, step)
    if saves_later_rows:
        first.save()
    second = table(tmp_path / "cut")
    second.resume_from(at)
    for step in range(at + 1, 10):
        log_step(second, step)
    second.finalize("success")
    assert content(tmp_path / "cut") == expected


def test_lightning_asks_what_its_loggers_are_overridden_by(tmp_path):
    """Private names that these loggers take over from Lightning's, see test_architecture.py."""
    asked = []

    class Watched(MetricsFile):
        def _check_log_dir_exists(self):
            asked.append("folder")

        def _record_new_keys(self):
            asked.append("keys")
            return super()._record_new_keys()

    file = Watched(str(tmp_path))
    file.log_metrics({"a": 1.0}, step=0)
    file.save()
    assert asked == ["folder", "keys"]
    assert vars(MetricsCsv(tmp_path, name=""))["_experiment"] is None
    run = WandbRun(save_dir=str(tmp_path), name="r", project="p", id="i", prefix="x", entity="e")
    arguments = vars(run)
    assert (arguments["_id"], arguments["_prefix"], arguments["_experiment"]) == ("i", "x", None)
    assert (
        arguments["_wandb_init"] | {"project": "p", "entity": "e", "id": "i"}
        == (arguments["_wandb_init"])
    )


def test_a_new_logger_deletes_nothing(tmp_path):
    expected = uninterrupted(tmp_path)
    logger = table(tmp_path)
    assert logger.experiment.metrics == [] and content(tmp_path) == expected
    logger.log_metrics({"train/loss": 0.5}, 10)
    logger.save()
    assert content(tmp_path) == expected + b",,,10,0.5,,,\r\n"


@pytest.mark.parametrize("resumes", [False, True])
def test_half_a_line_is_dropped_wherever_it_was_cut(tmp_path, resumes):
    expected = uninterrupted(tmp_path)
    path = tmp_path / "csv" / "metrics.csv"
    last = expected.rstrip().rfind(b"\n") + 1
    for cut in range(last, len(expected)):
        path.write_bytes(expected[:cut])
        logger = table(tmp_path)
        if resumes:
            logger.resume_from(9)
        log_step(logger, 9)
        logger.save()
        assert content(tmp_path) == expected, cut


def test_a_disk_that_was_full_leaves_no_half_line(tmp_path, monkeypatch):
    expected = uninterrupted(tmp_path / "whole", steps=3)
    logger = table(tmp_path / "full")
    log_step(logger, 0)
    logger.save()
    path = tmp_path / "full" / "csv" / "metrics.csv"
    log_step(logger, 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            logger.save()
    path.write_bytes(path.read_bytes()[:-5])
    log_step(logger, 2)
    logger.save()
    assert content(tmp_path / "full") == expected


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from sfseg.report.loggers import MetricsCsv

random.seed(0)
for trial in range(8):
    folder = Path(sys.argv[1]) / str(trial)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        logger = MetricsCsv(save_dir=str(folder), name="csv", version="")
        for step in range(10**6):
            logger.log_metrics({"train/loss": 1 / (step + 3), f"new/{step // 50}": step}, step)
            logger.save()
            if step == 5:
                os.write(writer, b"x")
    os.read(reader, 1)
    time.sleep(random.uniform(0, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_kill_while_it_saves_loses_no_saved_row(tmp_path, parent):
    code, said = Zygote(parent, tmp_path).call("kills", str(tmp_path), code=KILLS)
    assert code == 0, said
    for trial in range(8):
        folder = tmp_path / str(trial)
        rows = table(folder).experiment._load()
        assert [int(row["step"]) for row in rows] == list(range(len(rows))) and len(rows) > 5
        assert all(row["train/loss"] == str(1 / (k + 3)) for k, row in enumerate(rows))
        resumed = table(folder)
        resumed.resume_from(4)
        assert len(resumed.experiment._load()) == 5
        assert content(folder).splitlines()[0] == b"new/0,step,train/loss"


PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_INIT_TIMEOUT", *PROXIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    # A process reads W&B's settings once: those of another test would stay.
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


def run_logger(folder, **arguments):
    return WandbRun(save_dir=str(folder), project="p", **arguments)


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        (CLOSED, "k" * 40, f"{CLOSED} cannot be reached"),
        # Some networks answer for every address.
        (NOWHERE, "k" * 40, "The run is kept offline"),
        (CLOSED, None, f"there is no key for {CLOSED}"),
    ],
)
def test_without_network_or_key_the_run_is_kept_offline(no_key, tmp_path, caplog, url, key, words):
    no_key.setenv("WANDB_BASE_URL", url)
    if key:
        no_key.setenv("WANDB_API_KEY", key)
    started = time.monotonic()
    logger = run_logger(tmp_path)
    with caplog.at_level(logging.WARNING, logger="sfseg"):
        logger.log_metrics({"train/loss": 1.0}, 0)
        logger.log_metrics({"train/loss": 0.5}, 1)
    logger.close()
    assert time.monotonic() - started < 10
    (record,) = [r for r in caplog.records if r.name.startswith("sfseg")]
    assert words in record.getMessage() and "wandb sync" in record.getMessage()
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1
    assert "WANDB_MODE" not in os.environ


def test_a_server_that_says_nothing_is_given_up(no_key, tmp_path, caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        no_key.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        no_key.setenv("WANDB_API_KEY", "k" * 40)
        no_key.setenv("WANDB_INIT_TIMEOUT", "2")
        logger = run_logger(tmp_path)
        with caplog.at_level(logging.WARNING, logger="sfseg"):
            logger.log_metrics({"train/loss": 1.0}, 0)
        logger.close()
    assert len([r for r in caplog.records if "kept offline" in r.getMessage()]) == 1
    assert list(tmp_path.rglob("*.wandb")) and not logger.is_lost


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_the_mode_that_a_user_sets_is_silent(no_key, tmp_path, caplog, mode):
    no_key.setenv("WANDB_MODE", mode)
    no_key.setenv("WANDB_BASE_URL", CLOSED)
    logger = run_logger(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.close()
    assert len(list(tmp_path.rglob("*.wandb"))) == (mode == "offline")
    assert not [r for r in caplog.records if r.name.startswith("sfseg")]


def test_a_key_in_the_netrc_file_counts(no_key, tmp_path, caplog):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9\n  login user\n  password {'k' * 40}\n")
    no_key.setenv("WANDB_BASE_URL", CLOSED)
    logger = run_logger(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.close()
    assert "cannot be reached" in caplog.text


def test_a_continued_run_keeps_its_id(no_key, tmp_path):
    no_key.setenv("WANDB_MODE", "offline")
    ids = []
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        logger = run_logger(folder)
        ids.append(logger.experiment.id)
        assert logger.version == ids[-1] == (folder / ID_FILE).read_text().strip()
        logger.close()
    assert ids[0] == ids[1] != ids[2]


class Run:
    """What W&B would be sent."""

    id, resumed, starting_step = "abc", False, 0

    def __init__(self, error=None):
        self.logged, self.error, self.config = [], error, self
        self.update = lambda *arguments, **kwargs: None

    def log(self, values, step):
        if self.error is not None:
            raise self.error
        self.logged.append((step, values))

    def finish(self):
        if self.error is not None:
            raise self.error


def attached(tmp_path, run):
    logger = run_logger(tmp_path)
    logger._experiment = run
    return logger


def test_steps_never_fall_and_pictures_go_to_the_last_one(tmp_path):
    run = Run()
    logger = attached(tmp_path, run)
    logger.log_metrics({"a": 1}, 4)
    logger.log_metrics({"b": 2}, 3)
    logger.log_table("t", columns=["x"], data=[[1]])
    logger.log_image("i", [np.zeros((4, 4, 3), np.uint8)])
    logger.log_metrics({"a": 3}, 9)
    assert [step for step, _ in run.logged] == [4, 4, 4, 4, 9]
    assert [values.get("trainer/global_step") for _, values in run.logged] == [4, 3, None, None, 9]


def test_what_a_server_has_is_not_sent_again(tmp_path):
    run = Run()
    logger = attached(tmp_path, run)
    logger._first = 6
    for step in range(4, 9):
        logger.log_metrics({"a": step}, step)
    assert [step for step, _ in run.logged] == [6, 7, 8]


FAILURES = [
    OSError(28, "No space left on device"),
    ConnectionResetError("the service has died"),
    wandb.errors.CommError("server error"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_failing_wandb_is_one_warning(tmp_path, caplog, error):
    logger = attached(tmp_path, Run(error))
    with caplog.at_level(logging.WARNING, logger="sfseg"):
        logger.log_metrics({"a": 1}, 0)
        logger.log_metrics({"a": 1}, 1)
        logger.log_image("i", [np.zeros((4, 4, 3), np.uint8)])
        logger.log_hyperparams({"lr": 1})
        logger.experiment.log({"a": 1})
        logger.finalize("success")
        logger.close()
    (record,) = [r for r in caplog.records if r.name.startswith("sfseg")]
    assert str(error) in record.getMessage() and "training goes on" in record.getMessage()


def test_our_own_errors_stay_errors(tmp_path):
    for error in (TypeError("ours"), ValueError("ours")):
        with pytest.raises(type(error), match="ours"):
            attached(tmp_path, Run(error)).log_metrics({"a": 1}, 0)
    with pytest.raises(ValueError, match="Expected 1 items"):
        attached(tmp_path, Run()).log_image("i", [np.zeros((4, 4, 3), np.uint8)], masks=[])


def test_what_wandb_refuses_is_a_setting(no_key, tmp_path):
    no_key.setenv("WANDB_MODE", "offline")
    with pytest.raises(ConfigError, match=r"logger\.wandb is refused"):
        _ = WandbRun(save_dir=str(tmp_path), project="a/b:c").experiment


KILLED = """
import logging, os, signal, subprocess, sys, time
from pathlib import Path

from sfseg.report.loggers import WandbRun

records = []
handler = logging.Handler()
handler.emit = records.append
logging.getLogger().addHandler(handler)
folder = Path(sys.argv[1])
logger = WandbRun(save_dir=str(folder / "killed"), project="p")
logger.log_metrics({"a": 1}, 0)
ps = ["ps", "--ppid", str(os.getpid()), "-o", "pid=,comm="]
children = subprocess.run(ps, capture_output=True, text=True).stdout.splitlines()
(core,) = [line.split()[0] for line in children if "wandb-core" in line]
os.kill(int(core), signal.SIGKILL)
for step in range(1, 20):
    logger.log_metrics({"a": step}, step)
    time.sleep(0.05)
logger.close()
assert logger.is_lost
(warning,) = [r.getMessage() for r in records if r.name.startswith("sfseg")]
assert "W&B has failed" in warning
# What is printed, and the next run, are not its affair any more.
records.clear()
print("printed")
time.sleep(0.3)
assert not records, records
other = WandbRun(save_dir=str(folder / "other"), project="p")
other.log_metrics({"a": 1}, 0)
other.close()
assert not other.is_lost and list((folder / "other").rglob("*.wandb"))
"""


def test_a_service_that_is_killed_does_not_stop_the_run(tmp_path, parent):
    one = Zygote(parent, tmp_path, WANDB_MODE="offline", WANDB_SILENT="true")
    code, said = one.call("killed", str(tmp_path), code=KILLED)
    assert code == 0 and "printed" in said, said


def test_a_server_is_reached_directly_or_through_a_proxy(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = f"127.0.0.1:{server.getsockname()[1]}"
        assert is_reachable(f"http://{here}") and not is_reachable(CLOSED)
        monkeypatch.setenv("http_proxy", f"http://{here}")
        assert is_reachable("http://no.such.host.invalid")
    assert not is_reachable(NOWHERE, seconds=0.2)


def test_a_name_that_is_never_found_takes_no_longer(monkeypatch):
    def slow(*arguments, **kwargs):
        time.sleep(2)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", slow)
    started = time.monotonic()
    assert not is_reachable("https://api.wandb.ai", seconds=0.1)
    assert time.monotonic() - started < 1


def test_training_starts_without_network(cli, no_key):
    no_key.setenv("WANDB_BASE_URL", CLOSED)
    no_key.setenv("WANDB_API_KEY", "k" * 40)
    no_key.delenv("WANDB_MODE", raising=False)
    done = cli("sfseg-train", *DEBUG, "logger=wandb")
    assert done.code == 0 and done.output.count("cannot be reached") == 1, done.output
    assert (done.run / ID_FILE).is_file() and (done.run / "csv" / "metrics.csv").is_file()
    assert len(list(done.run.rglob("*.wandb"))) == 1
