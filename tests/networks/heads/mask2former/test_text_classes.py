import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tiny_clip import DIM, NAME, tiny_clip
from torch import Tensor, nn

from sfseg.config.composition import CONF
from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES
from sfseg.networks.heads.mask2former.text_classes import TextClasses, synonyms_of
from sfseg.networks.weights.text_embeddings import text_embeddings

GROUP = CONF / "backbone" / "head" / "class_head"
SHIPPED = yaml.safe_load((GROUP / "synonyms" / "cityscapes.yaml").read_text())
CLASSES = ("road", "car", "dog")
SYNONYMS = {"road": ["road", "street", "lane"], "car": ["car", "cars"]}


def text_classes(**changed: Any) -> TextClasses:
    settings = {"labels": CLASSES, "synonyms": SYNONYMS, "model": NAME, "pretrained": False}
    return TextClasses(8, 3, **({**settings, "dim": DIM} | changed))


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    shapes = ((2, 5, 8), (2, 8, 6, 7), (2, 5, 6, 7))
    decoded, features, masks = (torch.randn(shape, dtype=dtype) for shape in shapes)
    masks[0, 0] = -1  # covers nothing
    return decoded, features, masks


def length(vector: Tensor) -> float:
    return math.sqrt(sum(float(value) ** 2 for value in vector))


@torch.no_grad()
@pytest.mark.parametrize("scale", [math.log(1 / 0.07), math.log(101)])
def test_logits_are_those_of_a_naive_loop(scale: float) -> None:
    torch.manual_seed(0)
    head = text_classes().double()
    head.scale.data.fill_(scale)
    decoded, features, masks = inputs()
    found = head(decoded, features, masks)
    assert found.shape == (2, 5, 4)
    norm, projection = head.pooled
    first, _, second, _, third = head.embedding
    owners = [0, 0, 0, 1, 1, 2]
    for image in range(2):
        for query in range(5):
            cells = [(y, x) for y in range(6) for x in range(7) if masks[image, query, y, x] > 0]
            pooled = sum(features[image, :, y, x] for y, x in cells) / max(len(cells), 1)
            pooled = torch.zeros(8).double() if not cells else pooled
            centred = pooled - pooled.mean()
            variance = centred.square().mean()
            pooled = centred / (variance + norm.eps).sqrt() * norm.weight + norm.bias
            x = projection.weight @ pooled + projection.bias + decoded[image, query]
            x = (first.weight @ x + first.bias).clamp(min=0)
            x = (second.weight @ x + second.bias).clamp(min=0)
            x = third.weight @ x + third.bias
            best = [-math.inf] * 4
            for owner, name in zip([*owners, 3], [*head.embeddings, head.void[0]], strict=True):
                cosine = float(x @ name) / length(x) / length(name)
                best[owner] = max(best[owner], min(math.exp(scale), 100.0) * cosine)
            torch.testing.assert_close(found[image, query], torch.tensor(best).double())


def test_every_parameter_learns_and_names_do_not() -> None:
    head = text_classes()
    decoded, features, masks = inputs(torch.float32)
    loss = nn.functional.cross_entropy(
        head(decoded, features, masks).flatten(0, 1), torch.arange(10) % 4
    )
    loss.backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())
    assert "embeddings" not in dict(head.named_parameters())


def test_scale_and_length_of_queries_at_the_start() -> None:
    head = text_classes()
    assert float(head.scale.detach().exp()) == pytest.approx(1 / 0.07)
    decoded, features, masks = inputs(torch.float32)
    assert head(decoded, features, masks).abs().max() <= 1 / 0.07 + 1e-4


def test_low_precision_leaves_logits_in_single_precision() -> None:
    torch.manual_seed(0)
    head = text_classes()
    decoded, features, masks = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(decoded, features, masks)
    assert logits.dtype == torch.float32
    # The relative step of bfloat16 is 2 ** -8; three layers of the query run in it.
    exact = head(decoded, features, masks)
    assert (logits - exact).abs().max() < 8 * 2**-8 / 0.07


def test_the_order_of_synonyms_does_not_matter() -> None:
    torch.manual_seed(0)
    head, turned = text_classes(), text_classes()
    turned.load_state_dict(head.state_dict())
    turned.embeddings[:3] = head.embeddings[:3].flip(0)
    torch.testing.assert_close(head(*inputs(torch.float32)), turned(*inputs(torch.float32)))


def test_shipped_synonyms_are_of_all_of_cityscapes() -> None:
    assert set(SHIPPED) == set(CITYSCAPES.classes)
    names = synonyms_of(CITYSCAPES.classes, SHIPPED)
    assert [group[0] for group in names] == list(CITYSCAPES.classes)


def test_a_class_without_entry_is_called_as_it_is() -> None:
    assert synonyms_of(CLASSES, SYNONYMS) == [("road", "street", "lane"), ("car", "cars"), ("dog",)]
    # Entries for classes of Cityscapes that the task has not are of no use and no harm.
    assert synonyms_of(("sky", "dog"), SHIPPED) == [tuple(SHIPPED["sky"]), ("dog",)]


@pytest.mark.parametrize(
    ("synonyms", "message"),
    [
        ({"dogs": ["hound"]}, r"or of Cityscapes, got entries for dogs"),
        ({"dog": []}, r"synonyms of dog must be a list of one or more names, got \[\]"),
        ({"dog": "hound"}, r"synonyms of dog must be a list .* got 'hound'"),
        ({"dog": ["hound", " "]}, r"synonyms of dog must be a list"),
        ({"dog": [3]}, r"synonyms of dog must be a list"),
        ({"dog": ["hound", "hound"]}, r"one class each .* got hound for dog and dog"),
        ({"dog": ["car"]}, r"one class each .* got car for car and dog"),
    ],
)
def test_synonyms_that_do_not_fit(synonyms: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synonyms_of(CLASSES, synonyms)


def test_other_arguments_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"labels must name the 3 classes .* got \['road', 'car'\]"
    ):
        text_classes(labels=CLASSES[:2])
    with pytest.raises(ConfigError, match=r"pretrained must be a tag .* got true"):
        text_classes(pretrained=True)
    with pytest.raises(ValueError, match=r"dim must be positive"):
        text_classes(dim=0)


def test_names_come_from_clip_and_stay_in_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clip: Any = pytest.importorskip("open_clip")
    weights = tiny_clip(tmp_path, open_clip)
    trained = text_classes(pretrained=weights)
    names = ("road", "street", "lane", "car", "cars", "dog")
    expected = text_embeddings(names, model=NAME, pretrained=weights)
    assert torch.equal(trained.embeddings, expected)
    assert trained.embeddings is not expected
    with pytest.raises(ConfigError, match=rf"dim must be {DIM}, the width of {NAME}'s .* got 8"):
        text_classes(pretrained=weights, dim=8)
    text_embeddings.cache_clear()

    monkeypatch.setitem(sys.modules, "open_clip", None)
    restored = text_classes()
    restored.load_state_dict(trained.state_dict())
    assert torch.equal(restored(*inputs(torch.float32)), trained(*inputs(torch.float32)))


def test_the_setting_builds_it() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "train", overrides=["+backbone/head/class_head@class_head=text",
                                "class_head.pretrained=false"],
        )  # fmt: skip
    head = instantiate(cfg.class_head, _convert_="all")(256, 19)
    assert head.embeddings.shape == (sum(map(len, SHIPPED.values())), 768)
    assert head.counts == [len(names) for names in SHIPPED.values()]
