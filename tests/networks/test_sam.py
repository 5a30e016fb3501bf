"""Segment-anything models against transformers' own processors, and what is refused."""

import json
import shutil

import pytest
import torch

from sfseg.errors import ConfigError
from sfseg.methods.refinement import Refiner
from sfseg.networks import sam as sam_module
from sfseg.networks.sam import SegmentAnything
from sfseg.networks.weights import sam_files
from sfseg.networks.weights.sam_files import IMAGENET, load_sam

SIZES = [(48, 90), (90, 48), (64, 64), (200, 131)]


@pytest.fixture(params=["sam", "sam2"])
def folder(request, tiny_sam, tiny_sam2):
    return tiny_sam if request.param == "sam" else tiny_sam2


@pytest.fixture
def model(folder):
    return SegmentAnything.load(str(folder))


def processor(model):
    import transformers as hf

    square = {"height": model.side, "width": model.side}
    if model.is_padded:
        images = hf.SamImageProcessor(size={"longest_edge": model.side}, pad_size=square)
        return hf.SamProcessor(images)
    return hf.Sam2Processor(hf.Sam2ImageProcessor(size=square))


def picture(size, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, *size), generator=rng, dtype=torch.uint8)


def prompts(size, objects=5, points=3):
    rng = torch.Generator().manual_seed(1)
    x = torch.randint(0, size[1], (objects, points), generator=rng)
    y = torch.randint(0, size[0], (objects, points), generator=rng)
    return torch.stack([x, y], dim=-1).float()


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_those_of_transformers(model, size):
    image, points = picture(size), prompts(size)
    theirs = processor(model)(images=image[0], input_points=[points.tolist()], return_tensors="pt")
    with torch.no_grad():
        out = model.network(**{k: theirs[k] for k in ("pixel_values", "input_points")})
    places = ("original_sizes", "reshaped_input_sizes")
    cut = [theirs[name] for name in places if name in theirs]
    full = processor(model).post_process_masks(out.pred_masks, *cut)[0]
    best = out.iou_scores[0].argmax(dim=1)
    masks, iou = model.masks(model.embed(image), points, size)
    torch.testing.assert_close(iou, out.iou_scores[0].amax(dim=1))
    assert masks.shape == (5, *size) and 0 < masks.float().mean() < 1
    assert float((masks != full[torch.arange(5), best]).float().mean()) < 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_the_network_sees_what_it_does_in_transformers(model, size, monkeypatch):
    seen = []
    true = model.network.get_image_embeddings
    monkeypatch.setattr(
        model.network, "get_image_embeddings", lambda pixels: seen.append(pixels) or true(pixels)
    )
    image = picture(size)
    model.embed(image)
    theirs = processor(model)(images=image[0], return_tensors="pt")["pixel_values"]
    assert torch.equal(seen[0], theirs)


def test_images_of_a_batch_are_embedded_as_alone(model):
    images = torch.cat([picture(SIZES[0], seed) for seed in (0, 1)])
    together, alone = model.embed(images), model.embed(images[1:])
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both[1:], one, rtol=1e-3, atol=1e-4)


def test_prompts_answered_in_parts_are_the_same(model, monkeypatch):
    size = SIZES[0]
    embedding, points = model.embed(picture(size)), prompts(size, objects=7)
    masks, iou = model.masks(embedding, points, size)
    monkeypatch.setattr(sam_module, "TOGETHER", 3)
    parts, scores = model.masks(embedding, points, size)
    torch.testing.assert_close(iou, scores)
    assert float((masks != parts).float().mean()) < 1e-3


def test_masks_do_not_follow_the_precision_around_them(model):
    size = SIZES[0]
    embedding, points = model.embed(picture(size)), prompts(size)
    masks, iou = model.masks(embedding, points, size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.embed(picture(size))
        again, scores = model.masks(embedding, points, size)
    assert torch.equal(masks, again) and torch.equal(iou, scores)
    assert all(part.dtype == torch.float32 for part in half)
    assert not all(torch.equal(a, b) for a, b in zip(half, embedding, strict=True))


def test_nothing_trains(model):
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    assert not any(part.requires_grad for part in model.embed(picture(SIZES[0])))


@pytest.mark.parametrize("wrong", [torch.rand(1, 3, 8, 8), torch.zeros(3, 8, 8).byte()])
def test_floats_and_single_images_are_refused(model, wrong):
    with pytest.raises(ValueError, match="uint8 of the shape"):
        model.embed(wrong)


def test_a_refiner_asks_it(model):
    size = (48, 90)
    label = torch.zeros(1, *size, dtype=torch.uint8)
    label[..., 40:] = 4
    refiner = Refiner(model)
    made = refiner.refine(picture(size), label, [0])
    assert made.shape == label.shape and torch.equal(
        made, refiner.refine(picture(size), label, [0])
    )
    assert refiner.taken().kept == 4


def test_colours_of_the_folder_are_used(tiny_sam, tmp_path):
    folder = shutil.copytree(tiny_sam, tmp_path / "own")
    assert load_sam(str(folder)).mean == IMAGENET[0]
    own = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    assert load_sam(str(folder)).mean == own["image_mean"]


def test_weights_of_a_video_model_are_those_of_its_images(tiny_sam2, tmp_path):
    folder = shutil.copytree(tiny_sam2, tmp_path / "video")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "sam2_video"}))
    image, video = (SegmentAnything.load(str(f)) for f in (tiny_sam2, folder))
    states = [m.network.state_dict() for m in (image, video)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert image.digest != video.digest


def lose_a_weight(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


BROKEN = {
    "another": (
        lambda f: (f / "config.json").write_text('{"model_type": "sam3"}'),
        "is of the architecture 'sam3', but must be one of sam, sam2",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "no weights in safetensors",
    ),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes(b"x" * 100),
        "cannot be loaded: SafetensorError",
    ),
    "lost": (lose_a_weight, "lacks 1 weights of a SamModel, such as mask_decoder.iou_token"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused(tiny_sam, tmp_path, case):
    spoil, message = BROKEN[case]
    folder = shutil.copytree(tiny_sam, tmp_path / "broken")
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        load_sam(str(folder))


def test_a_name_that_is_no_model_is_refused(tiny_sam):
    with pytest.raises(ConfigError, match=r"pseudo_labels\.sam\.model=nothing is neither a folder"):
        load_sam("nothing")


def test_what_the_hub_does_not_give_is_explained(tiny_sam, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*args, **options):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConfigError, match=r"huggingface\.co cannot be reached; go online once, or"):
        load_sam("facebook/sam-vit-huge")


@pytest.mark.parametrize(
    ("kind", "message"),
    [("GatedRepoError", "is gated.*hf auth login"), ("RepositoryNotFoundError", "nor on hugging")],
)
def test_models_that_are_not_given_away_are_explained(tiny_sam, monkeypatch, kind, message):
    import huggingface_hub
    from huggingface_hub import errors

    failure = getattr(errors, kind)

    def refused(*args, **options):
        raise failure.__new__(failure)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(ConfigError, match=message):
        load_sam("facebook/sam-vit-huge")


def test_transformers_must_be_there(monkeypatch):
    monkeypatch.setattr(sam_files, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'sfseg\[clouds\]'"):
        load_sam("anything")
