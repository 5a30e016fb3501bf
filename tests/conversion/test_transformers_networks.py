"""Networks of transformers, there and here: they compute the same, and come back as they were."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import command
from foreign_networks import KINDS, NAMES, foreign, narrow, saved

import sfseg
from sfseg.runs.checkpoints import Restored, restore

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        yield


@pytest.fixture(scope="module", params=KINDS)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, Restored, Path]:
    """A kind, its network of transformers, and ours in a checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    model = foreign(request.param)
    saved(
        model, folder / "theirs", image_mean=MEAN, image_std=STD, size={"height": 64, "width": 96}
    )
    words = [f"source={folder}/theirs", f"output={folder}/ours.ckpt"]
    assert command("sfseg-convert", *words, f"hydra.run.dir={folder}/run") == 0
    return request.param, model, restore(folder / "ours.ckpt"), folder


def test_outputs_are_the_same_at_any_size(converted: tuple[str, Any, Restored, Path]) -> None:
    """Shown plain pixels, of which theirs are normalised by hand."""
    kind, model, restored, _ = converted
    network = restored.network.double()
    # ConvNeXt drops what is left of its patches; here images are padded.
    size = (96, 160) if kind == "upernet_convnext" else (67, 109)
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    with torch.inference_mode():
        theirs = model.double()((image - mean) / std)
        if kind == "mask2former":
            found = network(image, masks=True)[-1]
            pairs = [
                (found.classes, theirs.class_queries_logits),
                (found.masks, theirs.masks_queries_logits),
            ]
        elif kind == "segformer":
            pairs = [(network.head(network.features(image)), theirs.logits)]
        else:
            logits = network.head(network.features(image))
            pairs = [(F.interpolate(logits, size=size, mode="bilinear"), theirs.logits)]
    for ours, other in pairs:
        assert other.std() > 0.1 and other.flatten(2).std(dim=2).min() > 1e-3
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4 * float(other.std()))


def test_classes_and_preprocessing_are_kept(
    converted: tuple[str, Any, Restored, Path], caplog: pytest.LogCaptureFixture
) -> None:
    _, _, restored, folder = converted
    assert restored.labels.classes == NAMES and len(set(restored.labels.palette)) == len(NAMES)
    assert list(restored.config.data.eval_size) == [64, 96]
    assert restored.config.trainer.precision == "32-true"
    torch.testing.assert_close(restored.network.mean.flatten().float(), torch.tensor(MEAN))
    model = sfseg.load(folder / "ours.ckpt", precision="32-true")
    assert model.classes == NAMES
    result = model.predict(torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8))
    assert result.label.shape == (64, 96)


def test_the_way_back_leads_to_the_same_bits(
    converted: tuple[str, Any, Restored, Path], caplog: pytest.LogCaptureFixture
) -> None:
    transformers = pytest.importorskip("transformers")
    _, model, restored, folder = converted
    words = [f"source={folder}/ours.ckpt", f"output={folder}/back", "to=transformers"]
    with caplog.at_level(logging.INFO):
        assert command("sfseg-convert", *words, f"hydra.run.dir={folder}/run") == 0
    assert "another one here" not in caplog.text  # the eps of its LayerNorms came with it
    loader = getattr(transformers, type(model).__name__)
    back, found = loader.from_pretrained(folder / "back", output_loading_info=True)
    assert not found["unexpected_keys"]
    own, other = model.float().state_dict(), back.state_dict()
    kept = {key for key in own if not key.startswith("auxiliary_head.") and
            "swin.layernorm." not in key}  # fmt: skip
    assert kept <= other.keys()
    assert all(torch.equal(own[key], other[key]) for key in kept)
    assert back.config.id2label == dict(enumerate(NAMES))
    assert back.config.label2id["sky"] == 2
    assert back.config.palette == [list(colour) for colour in restored.labels.palette]
    prepared = json.loads((folder / "back/preprocessor_config.json").read_text())
    assert prepared["image_mean"] == pytest.approx(MEAN)
    assert prepared["size"] == {"height": 64, "width": 96}
    assert not prepared["do_reduce_labels"]
    assert isinstance(
        transformers.AutoImageProcessor.from_pretrained(folder / "back"),
        transformers.BaseImageProcessor,
    )


def test_a_run_starts_from_it(converted: tuple[str, Any, Restored, Path], tmp_path: Path) -> None:
    """With the settings that the command prints; strictly, as of a run's own file."""
    from sfseg.networks.weights.checkpoint import load_segmenter
    from sfseg.runs.checkpoints import stored_labels

    _, _, restored, folder = converted
    labels = stored_labels(folder / "ours.ckpt")
    assert labels is not None and labels.classes == NAMES
    before = {key: value.clone() for key, value in restored.network.state_dict().items()}
    with torch.no_grad():
        for parameter in restored.network.parameters():
            parameter.zero_()
    load_segmenter(restored.network, folder / "ours.ckpt")
    after = restored.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
