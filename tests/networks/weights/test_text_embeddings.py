import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_clip import DIM, NAME, tiny_clip

from sfseg.errors import ConfigError
from sfseg.networks.weights.text_embeddings import TEMPLATES, text_embeddings

open_clip: Any = pytest.importorskip("open_clip")


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[str]:
    yield tiny_clip(tmp_path, open_clip)
    text_embeddings.cache_clear()


def test_names_are_the_mean_of_sentences(weights: str) -> None:
    names = ("road", "traffic light", "palm tree")
    found = text_embeddings(names, model=NAME, pretrained=weights)
    model = open_clip.create_model(NAME, pretrained=weights).eval()
    tokenizer = open_clip.get_tokenizer(NAME)
    for name, direction in zip(names, found, strict=True):
        total = torch.zeros(DIM, dtype=torch.float64)
        for template in TEMPLATES:
            with torch.no_grad():
                (sentence,) = model.encode_text(tokenizer([template.replace("{}", name)])).double()
            total += sentence / sentence.square().sum().sqrt()
        expected = total / total.square().sum().sqrt()
        torch.testing.assert_close(direction.double(), expected, rtol=0, atol=1e-5)
    assert not found.requires_grad
    assert (found @ found.T).tril(-1).max() < 0.99  # names differ


def test_templates_are_fourteen_with_one_place_each() -> None:
    assert len(set(TEMPLATES)) == 14
    assert all(template.count("{}") == 1 for template in TEMPLATES)


def test_one_line_says_it(weights: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    with caplog.at_level("INFO"):
        text_embeddings(("road", "car"), model=NAME, pretrained=weights)
    assert caplog.messages == [f"2 names encoded by {NAME}, {weights}"]


def test_names_are_encoded_once(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = text_embeddings(("road",), model=NAME, pretrained=weights)
    monkeypatch.setattr(open_clip, "create_model", None)
    assert text_embeddings(("road",), model=NAME, pretrained=weights) is first


def test_without_open_clip_the_way_out_is_the_linear_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ConfigError, match=r"install 'sfseg\[clouds\]'; or .*class_head=linear"):
        text_embeddings(("road",), model="RN50", pretrained="openai")


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("RN51", "openai", r"model must be an architecture of open_clip, got RN51"),
        ("hf-hub:a/b", "openai", r"model must be an architecture of open_clip, got hf-hub"),
        ("RN50", "opanai", r"a file or a tag of weights of RN50 \(openai, .*\), got opanai"),
        (NAME, "x.bin", r"\(there are none\), got x\.bin"),
    ],
)
@pytest.mark.usefixtures("weights")
def test_what_open_clip_does_not_know(model: str, pretrained: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        text_embeddings(("road",), model=model, pretrained=pretrained)


def test_a_download_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("no connection")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(ConfigError, match=r"=openai cannot be had .*no connection.*=linear"):
        text_embeddings(("road",), model="RN50-quickgelu", pretrained="openai")


def test_what_open_clip_says_of_a_download_stands_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("The file is not in v1.2 of the cache. Please check your connection.\nOr so.")

    monkeypatch.setattr(sys.modules["open_clip.factory"], "download_pretrained", offline)
    with pytest.raises(ConfigError) as refused:
        text_embeddings(("road",), model="RN50-quickgelu", pretrained="openai")
    text = str(refused.value)
    assert text.count("The file is not in v1.2 of the cache); give a file") == 1
    assert "Please" not in text and not caplog.records


def test_weights_of_another_activation_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name RN50 alone builds a text side that OpenAI's weights were not trained in."""
    factory = sys.modules["open_clip.factory"]
    monkeypatch.setattr(factory, "download_pretrained", lambda *_, **__: "nowhere")
    with pytest.raises(ConfigError, match=r"QuickGELU mismatch.* such as RN50-quickgelu"):
        text_embeddings(("road",), model="RN50", pretrained="openai")


def test_a_file_of_another_model(weights: str) -> None:
    tensors = torch.load(weights, weights_only=True)
    del tensors["text_projection"]
    torch.save(tensors, weights)
    with pytest.raises(ConfigError, match=rf"cannot be had for {NAME} \(RuntimeError"):
        text_embeddings(("road",), model=NAME, pretrained=weights)


def test_weights_that_are_not_finite(weights: str) -> None:
    tensors = torch.load(weights, weights_only=True)
    tensors["text_projection"][0, 0] = torch.nan
    torch.save(tensors, weights)
    with pytest.raises(ConfigError, match=r"weights must be finite.*text_projection"):
        text_embeddings(("road",), model=NAME, pretrained=weights)
