"""What a run has logged: W&B's file, the CSV file, and which of them is believed."""

import math

import pytest
from wandb.proto import wandb_internal_pb2 as messages
from wandb_log import pieces

from sfseg.errors import DataError
from sfseg.report.dashboard import Panel
from sfseg.report.logged_run import LoggedRun, is_logged, name_apart, read_logged
from sfseg.report.pages.dashboard_page import bars, context, draw, layout_of
from sfseg.report.pages.page import render


def history(step, **values):
    record = messages.Record()
    for name, value in {"trainer/global_step": step, **values}.items():
        record.history.item.add(nested_key=[name], value_json=str(value))
    return record


def wandb_file(folder, rows, *, start="20260101_000000", run_id="abc", name="tent-s0", ends=True):
    """One start of a run, in rows of a step and its loss."""
    first = messages.Record()
    first.run.run_id, first.run.display_name = run_id, name
    made = [first, *(history(step, **{"train/loss": loss}) for step, loss in rows)]
    if ends:
        made.append(messages.Record(exit=messages.RunExitRecord(exit_code=0)))
    path = folder / "wandb" / f"offline-run-{start}-{run_id}" / f"run-{run_id}.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(pieces([record.SerializeToString() for record in made]))
    return path


def csv_file(folder, rows, name="train/loss"):
    (folder / "csv").mkdir(parents=True)
    lines = [f"step,{name}", *(f"{step},{value}" for step, value in rows), ""]
    (folder / "csv" / "metrics.csv").write_text("\n".join(lines))


def points(run, name="train/loss"):
    return list(zip(run.metrics.steps[name], run.metrics.values[name], strict=True))


def test_w_and_b_s_file_is_believed(tmp_path):
    rows = [(0, 2.0), (5, 1.5)]
    wandb_file(tmp_path, rows)
    csv_file(tmp_path, rows)
    run = read_logged(tmp_path)
    assert (run.label, run.source, run.notes) == ("tent-s0", "W&B's file", [])
    assert points(run) == rows


def test_without_one_the_csv_file_is_and_says_so(tmp_path):
    csv_file(tmp_path, [(0, 2.0)])
    run = read_logged(tmp_path)
    assert run.source == "csv/metrics.csv, as there is no W&B file with numbers"
    assert (points(run), run.label, run.notes) == ([(0, 2.0)], tmp_path.name, [])


def test_a_killed_run_has_the_steps_that_only_the_csv_file_has(tmp_path):
    wandb_file(tmp_path, [(0, 2.0)], ends=False)
    csv_file(tmp_path, [(0, 2.0), (9, 1.0)])
    run = read_logged(tmp_path)
    assert points(run) == [(0, 2.0), (9, 1.0)] and run.source == "csv/metrics.csv"
    assert "killed" in run.notes[0] and "ends at step 0, csv/metrics.csv at 9" in run.notes[1]


def test_a_run_that_was_started_again_is_one_curve(tmp_path):
    (tmp_path / "wandb_id.txt").write_text("abc\n")
    wandb_file(tmp_path, [(0, 3.0), (5, 2.0), (9, 1.0)], ends=False)
    wandb_file(tmp_path, [(5, 1.9), (7, 1.8)], start="20260101_000100")
    wandb_file(tmp_path, [(99, 0.0)], start="20260102_000000", run_id="xyz", name="other")
    run = read_logged(tmp_path)
    # Step 9 was not reached again: the run that there is now has not logged it.
    assert points(run) == [(0, 3.0), (5, 1.9), (7, 1.8)] and run.label == "tent-s0"


def test_damage_is_told(tmp_path):
    path = wandb_file(tmp_path, [(0, 2.0), (5, 1.5)])
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    csv_file(tmp_path, [(0, 2.0), (5, 1.5)])
    run = read_logged(tmp_path)
    assert points(run) == [(0, 2.0), (5, 1.5)] and any("damaged" in note for note in run.notes)
    path.write_bytes(b"no file of W&B")
    run = read_logged(tmp_path)
    assert "left out" in run.notes[0] and run.source.startswith("csv/metrics.csv, as there is no")


def test_a_folder_in_which_nothing_was_logged_is_refused(tmp_path):
    assert not is_logged(tmp_path)
    with pytest.raises(DataError, match=r"has neither wandb/\*/run-\*\.wandb nor csv/metrics"):
        read_logged(tmp_path)
    csv_file(tmp_path, [])
    with pytest.raises(DataError, match="holds no numbers"):
        read_logged(tmp_path)
    wandb_file(tmp_path, [])
    with pytest.raises(DataError, match="holds no numbers"):
        read_logged(tmp_path)


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [LoggedRun(tmp_path / name, "tent") for name in ("a/x", "b/x", "c")]
    runs.append(LoggedRun(tmp_path / "d", "other"))
    name_apart(runs)
    assert [run.label for run in runs[2:]] == ["tent (c)", "other"]
    assert len({run.label for run in runs}) == 4


def test_pictures_are_the_newest_of_the_run_s_own_folder(tmp_path):
    for name in ("panels/step_000020.png", "panels/step_000100.png", "early_learning.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    run = LoggedRun(tmp_path / "run", "r")
    assert run.newest_picture("../panels") is None and run.newest_picture("..") is None
    run.folder = tmp_path
    assert run.newest_picture("panels/target") == tmp_path / "panels" / "step_000100.png"
    assert run.newest_picture("early_learning/curves") == tmp_path / "early_learning.png"
    assert run.newest_picture("fakes") is None
    csv_file(tmp_path, [(0, 0.5)], name="val/target/mIoU")
    assert read_logged(tmp_path).pictures == ["panels/target"]


def test_runs_keep_their_colours_where_one_has_no_such_metric(tmp_path):
    csv_file(tmp_path / "a", [(0, 1.0)], name="train/entropy")
    csv_file(tmp_path / "b", [(0, 2.0), (9, 1.0)], name="train/lovasz")
    runs = [read_logged(tmp_path / name) for name in ("a", "b")]
    (section,) = layout_of(runs, compares=True)
    entropy, lovasz = draw(section, runs).charts
    assert [curve.name for curve in lovasz.curves] == ["a", "b"]
    assert lovasz.curves[0].pieces == [] and lovasz.curves[1].pieces != []
    assert entropy.curves[0].pieces != [] and entropy.curves[1].pieces == []
    assert [text for _, text in entropy.x] == [text for _, text in lovasz.x]


def test_a_page_asks_no_network_and_takes_no_markup_from_runs(tmp_path):
    evil = "<script>alert(1)</script>"
    wandb_file(tmp_path, [(0, 2.0), (5, float("nan"))], name=evil)
    csv_file(tmp_path, [(0, "nan"), (9, 0.5)], name=f"val/target/IoU/{evil}")
    text = render("dashboard.html.j2", context([read_logged(tmp_path)])).decode()
    assert evil not in text and "&lt;script&gt;" in text
    assert "<svg" in text and "http://" not in text and "https://" not in text


def test_a_metric_without_a_finite_value_is_named(tmp_path):
    csv_file(tmp_path, [(0, "nan")])
    runs = [read_logged(tmp_path)]
    (section,) = [draw(section, runs) for section in layout_of(runs, compares=False)]
    assert section.charts == [] and section.missing == ["train/loss: no finite value"]


def test_names_are_as_short_as_they_can_be_told_apart(tmp_path):
    csv_file(tmp_path, [(4, 0.5), (9, 0.25), (9, 0.75)], name="val/target/mIoU")
    (run,) = [read_logged(tmp_path)]
    alone = Panel("", ("val/target/mIoU",), "bars")
    assert bars(alone, [run]).rows == [("val/target/mIoU", [0.75])]
    both = Panel("", ("source_only/target/mIoU", "val/target/mIoU"), "bars")
    (first, (value,)), last = bars(both, [run]).rows
    assert first == "source_only/target/mIoU" and math.isnan(value)
    assert last == ("val/target/mIoU", [0.75])
    classes = Panel("", ("val/target/IoU/road", "val/target/IoU/sky"), "bars")
    assert [name for name, _ in bars(classes, [run]).rows] == ["road", "sky"]
