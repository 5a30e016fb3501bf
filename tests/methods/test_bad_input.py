"""What methods need and do not get: said before training starts, with the way out."""

import pytest
from conftest import DEBUG, Cli

ODD = "data.adaptation.batch_size=3"
NO_NORM = ["backbone/head=deeplabv2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=sfda", ODD], "an even number of images, half of whose patches are easy, got 3"),
        (["method=sfda", "method.patches=9"], "method: patches must be at most 4 for crops of"),
        (["method=sfda", "trainer.gradient_clip_val=1"], "trainer.gradient_clip_val must be null"),
        (["method=bn_adapt", *NO_NORM], "must have batch normalisation for bn_adapt, got none"),
        (["method=mean_teacher", "method.confidence=1.5"], "confidence must be in [0, 1], got 1.5"),
        (["method=cpsl", *NO_NORM], "choose"),
        (["method=cbst", "pseudo_labels.portion=1.5"], "portion must be in (0, 1], got 1.5"),
        (["method=max_square", "method.multi_level=true"], "backbone.aux must be a head for"),
        (["method=vpt_elr", "backbone=resnet50"], "Swin"),
        (["method=adaptsegnet", "data.target_crop=[24,64]"], "got 64x24; set data.target_crop=["),
        (["method=advent", "method.adversarial_loss=ls"], "one of vanilla, least_squares, got"),
        (["method=fda", "method.aux_weight=0.1"], "set method.aux_weight or backbone.aux"),
        (["method=daformer", "backbone=resnet50"], "or method.feature_distance=0"),
        (["method=dacs", "data.target_crop=[64,129]"], "[64, 128] and [64, 129]; set it, or"),
        (["select=best"], "select must be one of last, label_free, oracle, got 'best'"),
    ],
)
def test_what_is_missing_is_named(cli: Cli, settings: list[str], message: str) -> None:
    method = [] if settings[0].startswith("method=") else ["method=source_only"]
    batch = [s for s in DEBUG if not (ODD in settings and s.startswith("data.adaptation.batch"))]
    done = cli(
        "sfseg-train", *batch, *method, *settings, "backbone.pretrained=false",
        "hydra.run.dir=run", "source_model.steps=1",
    )  # fmt: skip
    assert done.code == 2 and "Traceback" not in done.output, done.output
    assert message in done.output, done.output
    assert not (done.folder / "run" / "checkpoints").exists()


def test_a_checkpoint_of_a_method_with_other_parts_is_refused(cli: Cli) -> None:
    common = [*DEBUG, "source_model.steps=1", "trainer.max_steps=1"]
    first = cli("sfseg-train", "method=minent", *common, "hydra.run.dir=first")
    assert first.code == 0, first.output
    done = cli(
        "sfseg-train", "method=sfda", *common, "hydra.run.dir=second",
        "ckpt_path=first/checkpoints/last.ckpt",
    )  # fmt: skip
    assert done.code == 2 and "first/checkpoints/last.ckpt" in done.output
    assert "generator" in done.output
