import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from scripting import SCRIPTS, script

from sfseg.config.composition import CONF
from sfseg.data.toyscapes.scenes import Toyscapes, draw_scene
from sfseg.errors import ConfigError
from sfseg.randomness import generator

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a script; the thread counts that it sets end with the test."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    threads = torch.get_num_threads(), cv2.getNumThreads()

    yield script
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


def test_bench_report_prints_its_ratio(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load("bench_report").main(["--quick"])
    out = capsys.readouterr().out
    assert re.search(
        r"^page on 2,000 steps and 6 pictures: [\d.]+ s, [\d.]+ MB$", out, re.MULTILINE
    )
    assert re.search(r"^ratio [\d.]+, limit 0.05", out, re.MULTILINE)


def test_bench_metrics_counts_alike_and_prints_ratios(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    load("bench_metrics").main(["--quick"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "ratio" in line]
    assert len(lines) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_bench_predict_prints_ratios(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--backbone=mit_b0", "--photos=2", "--height=64", "--width=96", "--repeats=1"]
    ratios = load("bench_predict").main(words)
    assert len(ratios) == 2 and all(ratio > 0 for ratio in ratios.values())
    assert capsys.readouterr().out.count(" = ") == 2


def test_bench_data_sees_equal_crops_and_prints_ratios(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    load("bench_data").main(["--quick"])
    output = capsys.readouterr().out
    assert "byte-equal" in output
    assert "ratio" in output
    assert "all but decode" in output


def test_bench_data_times_the_cache(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load("bench_data").main(["--quick"])
    assert "x as fast as the classic order from files" in capsys.readouterr().out


@pytest.mark.slow
def test_a_million_images_need_little_memory(load: Load) -> None:
    assert load("bench_start_up").main([]) <= 300


@pytest.mark.slow
def test_bench_start_up_prints_both_arms(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load("bench_start_up").main(["--images", "200"])
    output = capsys.readouterr().out
    assert "100 images" in output and "200 images" in output and "growth" in output


def test_bench_data_refuses_to_time_different_pixels(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("bench_data")
    correct = script.crop_image
    monkeypatch.setattr(script, "crop_image", lambda *arguments: correct(*arguments) ^ 1)
    with pytest.raises(AssertionError, match="images"):
        script.main(["--quick"])


def test_bench_pseudo_prints_room_and_ratios(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    load("bench_pseudo").main(["--quick"])
    output = capsys.readouterr().out
    assert "store, labels and confidences" in output
    assert output.count("ratio to sorting") == 2
    assert "largest difference of a threshold" in output


def test_bench_pseudo_refuses_to_time_other_thresholds(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("bench_pseudo")
    correct = script.class_quantiles
    monkeypatch.setattr(script, "class_quantiles", lambda *arguments: correct(*arguments) - 0.01)
    with pytest.raises(AssertionError, match=r"thresholds differ by 0\.0"):
        script.main(["--quick"])


CPU = ["--device", "cpu", "--backbone", "tiny", "--size", "32", "--batch", "1"]
STEPS = ["--warm-up", "1", "--steps", "1"]


def test_gpu_check_prints_a_row_a_method(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    failed = load("gpu_check").main([*CPU, *STEPS, "--methods", "source_only"])
    row = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert failed == 0
    assert row[:2] == ["source_only", "tiny"]
    assert float(row[-2]) > 0
    assert float(row[-1]) > 0


def test_gpu_check_goes_on_after_a_failure_and_counts_it(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load("gpu_check").main([*CPU, "--methods", "missing", "absent"]) == 2
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert "missing | tiny | failed: " in rows[0]
    assert "absent | tiny | failed: " in rows[1]


def test_gpu_check_lists_every_method(load: Load) -> None:
    names = load("gpu_check").methods()
    assert "source_only" in names
    assert not any(name.startswith("_") for name in names)


def write_finished(target: Path, after: float, *, minutes: int = 1) -> None:
    """What a run leaves behind that has begun at 40 mIoU."""
    target.mkdir(parents=True)
    scores = {"source_only": {"summary": {"mIoU": 0.4}}, "summary": {"mIoU": after}}
    cost = {"minutes": minutes, "peak_memory_mib": 1000, "trainable_parameters": 5}
    (target / "results.json").write_text(json.dumps({"target": scores}))
    (target / "cost.json").write_text(json.dumps(cost))


def test_uniuvpt_tables_read_finished_runs(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = load("uniuvpt_tables")
    rows = {row.words: row for rows in tables.TABLES.values() for row in rows}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for row in rows.values():
            assert compose("train", overrides=["method=uniuvpt", *row.settings]).method.lr > 0
    for seed, after in enumerate((0.44, 0.46)):
        target = tables.place(tmp_path, rows["full"], seed)
        write_finished(target, after)
        (target / "label_correction.csv").write_text(
            "class,known,right_before,right_after\nroad,10,2,5\ncar,10,4,9\n"
        )
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "--show"])
    tables.main()
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("| full"))
    assert line == (
        "| full | 56.24 | 2 | 40.00 +- 0.00 | 45.00 +- 1.41 | 5.00 +- 1.41 | +4.00 | 2 to 2 | "
        "30% -> 70% |"
    )


def test_source_free_tables_read_finished_runs(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = load("source_free_tables")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name, settings in (tables.ROWS | tables.SWITCHES).items():
            assert compose("train", overrides=list(settings or (f"method={name}",))).method.lr > 0
    for seed, after in enumerate((0.44, 0.46)):
        target = tables.place(tmp_path, "sfda, ipsm=false", seed)
        write_finished(target, after, minutes=1 + seed)
        (target / "label_free.csv").write_text(
            "step,combined,agreement,snd,entropy,target_mIoU\n"
            f"0,0.5,0.5,1.0,0.3,0.40\n1,0.6,0.4,2.0,0.2,0.48\n2,0.7,0.6,3.0,0.1,{after}\n"
        )
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "--show"])
    tables.main()
    lines = capsys.readouterr().out.splitlines()
    assert (
        "| sfda, ipsm=false | 2 | 40.00 +- 0.00 | 45.00 +- 1.41 | 5.00 +- 1.41 | +4.00 | 1.5 | "
        "1,000 | 5 |"
    ) in lines
    combined = next(line for line in lines if line.startswith("| combined"))
    # It picks the last checkpoint of each run, 4 and 2 below the best.
    assert combined.endswith("| 0.50 | 3.00 +- 1.41 | 3.00 +- 1.41 |")


def test_with_source_tables_read_finished_runs(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = load("with_source_tables")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for settings in (tables.LADDER | tables.BESIDE).values():
            assert compose("train", overrides=list(settings)).method.lr > 0
    for seed, after in enumerate((0.44, 0.46)):
        target = sys.modules["source_free_tables"].place(tmp_path, "uplr, SR", seed)
        write_finished(target, after, minutes=1 + seed)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "--show"])
    tables.main()
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == (
        "| uplr, SR | +9.5 | 2 | 40.00 +- 0.00 | 45.00 +- 1.41 | 5.00 +- 1.41 | +4.00, +6.00 | "
        "1.5 |"
    )


@pytest.mark.slow
def test_bench_uniuvpt_prints_a_ratio(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--backbone", "tiny", "--size", "64", "--steps", "1", "--repeats", "1"]
    load("bench_uniuvpt").main([*tiny, "method.adapter.recompute=true"])
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[2:]}
    plain, prompted = (float(rows[arm][0]) for arm in ("plain", "prompted"))
    assert 0 < plain < prompted
    assert float(rows["ratio"][0]) > 1


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_bench_adversarial_prints_a_ratio(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load("bench_adversarial").main(["--size", "32", "64", "--batch", "1", "--steps", "2"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    theirs, ours, ratio = (float(row[-1]) for row in rows)
    assert [row[0] for row in rows] == ["bare", "adaptsegnet", "ratio"]
    assert theirs > 0
    assert ratio == pytest.approx(ours / theirs, rel=0.05)


@pytest.mark.slow
def test_bench_labelling_labels_alike_and_prints_a_ratio(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--size", "32", "64", "--images", "5", "--repeats", "1"]
    load("bench_labelling").main(small)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 images of 64x32, tiny, one thread a process"
    assert lines[-1].startswith("ratio ") and lines[-1].endswith("labels byte-equal")


def test_bench_gmm_fits_alike_and_prints_a_ratio(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    load("bench_gmm").main(["--values", "20000"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("20,000 values: histogram ")
    assert float(lines[1].rpartition(" ")[2]) > 0
    assert lines[-1].startswith("room of the histogram: 8,192 bytes a class")


def stand_ins(load: Load, folder: Path, *words: str) -> dict[str, bytes]:
    """What the script has written, by name."""
    load("stand_in_generated").main([str(folder), "--length", "4", "--size", "64", "128", *words])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_stand_ins_are_the_same_in_one_go_or_two(load: Load, tmp_path: Path) -> None:
    whole = stand_ins(load, tmp_path / "a", "--images", "12")
    assert "im_11_p1.png" in whole and len(whole) == 13
    stand_ins(load, tmp_path / "b", "--images", "5")
    kept = (tmp_path / "b" / "im_3_p3.png").stat().st_mtime_ns
    (tmp_path / "b" / "im_2_p2.png").unlink()
    assert stand_ins(load, tmp_path / "b", "--images", "12") == whole
    assert (tmp_path / "b" / "im_3_p3.png").stat().st_mtime_ns == kept
    manifest = json.loads(whole["manifest.json"])
    assert manifest["generator"] == "stand-in, not a diffusion model"
    assert manifest["images"][11] == {
        "file": "im_11_p1.png", "prompt": "a photo of sks traffic signs", "seed": [0, 11],
    }  # fmt: skip
    images = [data for name, data in whole.items() if name.endswith("png")]
    assert len(set(images)) == 12, "each is another one"
    decoded = cv2.imdecode(np.frombuffer(images[0], np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (64, 128, 3)


def test_stand_ins_of_another_shot_need_another_folder(load: Load, tmp_path: Path) -> None:
    one = stand_ins(load, tmp_path / "a", "--images", "1", "--shot", "000001")
    with pytest.raises(ConfigError, match=r"other settings: shot='city/train/000001.png', not"):
        stand_ins(load, tmp_path / "a", "--images", "1", "--shot", "000002")
    other = stand_ins(load, tmp_path / "b", "--images", "1", "--shot", "000002")
    assert one["im_0_p0.png"] != other["im_0_p0.png"]
    with pytest.raises(ConfigError, match="'000009', which no training image of the target has"):
        stand_ins(load, tmp_path / "c", "--shot", "000009")


def test_stand_ins_have_the_light_of_their_shot(load: Load) -> None:
    """Drawn again in the look that was measured, the shot is what it was."""
    script = load("stand_in_generated")
    scenes = Toyscapes("city", "train", length=3, size=(64, 128))
    rng = [generator(0, 0, k, "toyscapes/city/train") for k in range(3)]
    for k in range(3):
        again = draw_scene(script.look_of(scenes, k).style, (64, 128), rng[k])[..., :3]
        assert np.abs(again.astype(int) - scenes.image(k)).mean() < 0.5


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")
def test_bench_engine_prints_the_ratio_to_a_loop(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    load("bench_engine").main(["step", "--size", "32", "64", "--batch", "1", "--steps", "2"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    theirs, ours, ratio = (float(row[-1]) for row in rows)
    assert [row[0] for row in rows] == ["bare", "daformer", "ratio"]
    assert theirs > 0
    assert ratio == pytest.approx(ours / theirs, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "arms"), [("propagate", ["each", "sum"]), ("checkpoint", ["without", "with"])]
)
def test_bench_engine_compares_memory_and_gradients(
    load: Load, capsys: pytest.CaptureFixture[str], part: str, arms: list[str]
) -> None:
    small = ["--backbone", "tiny", "--size", "64", "64", "--batch", "1", "--steps", "1"]
    load("bench_engine").main([part, *small])
    *rows, apart = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == [*arms, "ratio"]
    first, second, ratio = ([float(number) for number in row[1:]] for row in rows)
    assert min(*first, *second) > 0
    assert ratio[1] == pytest.approx(second[1] / first[1], abs=0.02)
    assert apart[0] == "gradients" and float(apart[3]) < 0.02


def test_stand_ins_of_clouds_are_drawn_and_learnt_from(load: Load, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from sfseg.networks.sam import SegmentAnything

    folder, script = tmp_path / "stand_ins", load("stand_in_clouds")
    words = [str(folder), "--images", "4", "--cities", "2"]
    script.main(words)
    written = {path: path.read_bytes() for path in sorted(folder.rglob("*.png"))}
    assert {path.name for path in (folder / "generated").iterdir()} == {
        f"im_{j}_p{j}.png" for j in range(4)
    }
    gone = folder / "wide" / "masks" / "000002.png"
    gone.unlink()
    script.main(words)
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*.png"))} == written
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = compose("train", overrides=["data=toyscapes_to_styles"])
    judged = [part.scenes.style_seed for part in settings.data.eval_sets.values()]
    assert max(judged) < script.GENERATED < script.WIDE

    load("train_tiny_sam").main([str(tmp_path / "sam"), str(folder / "wide"), "--steps", "1"])
    sam = SegmentAnything.load(str(tmp_path / "sam"))
    image = cv2.imread(str(folder / "wide" / "images" / "000000.png"))
    embedding = sam.embed(torch.from_numpy(image).permute(2, 0, 1)[None])
    masks, scores = sam.masks(embedding, torch.tensor([[[9.0, 9.0]]]), image.shape[:2])
    assert masks.shape == (1, *image.shape[:2]) and scores.shape == (1,)
    with pytest.raises(SystemExit):
        script.main([str(folder), "--images", "0"])
    with pytest.raises(SystemExit):
        load("train_tiny_sam").main([str(tmp_path / "sam"), str(tmp_path), "--steps", "1"])


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")
def test_bench_clouds_prints_a_ratio(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load("bench_clouds").main(["step", "--size", "64", "64", "--batch", "1", "--steps", "2"])
    assert "ratio" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_clouds_compares_memory(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--backbone", "tiny", "--size", "64", "64", "--batch", "1", "--steps", "2"]
    load("bench_clouds").main(["memory", *words])
    assert "frozen" in capsys.readouterr().out


def test_bench_sam_makes_equal_labels_and_prints_a_ratio(
    load: Load, tiny_sam: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--model", str(tiny_sam), "--images", "2", "--size", "64", "128"]
    load("bench_sam").main(small)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 images of 128x64") and lines[-1].startswith("ratio ")
    assert lines[-1].endswith("over 2 passes, labels equal")


@pytest.mark.slow
def test_bench_export_prints_a_ratio(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--backbone", "tiny", "--size", "128", "192", "--repeats", "1"]
    load("bench_export").main(words)
    assert "ONNX Runtime" in capsys.readouterr().out
