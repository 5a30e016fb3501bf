"""The refiner, with a model that takes areas of one colour for objects."""

import copy

import pytest
import torch
from small import built, configured, step, transformer

from sfseg.methods.refinement import Refiner, Tally
from sfseg.pseudo.embeddings import Embeddings
from sfseg.types import IGNORE

SIZE = (16, 24)


class Colours:
    """An object is what has the colour of its first point; the more points, the surer."""

    digest = "colours"

    def __init__(self):
        self.embedded, self.asked = 0, []

    def embed(self, image):
        self.embedded += len(image)
        return (image[:, :1].float(),)

    def masks(self, embedding, points, size):
        colour = embedding[0][0, 0]
        assert colour.shape == size
        self.asked.append(points)
        x, y = points[:, 0].long().T
        return colour == colour[y, x][:, None, None], torch.ones(len(points))


def scene(seed=0):
    """An image of two areas, and labels of them whose border lies elsewhere."""
    image = torch.randint(0, 256, (3, *SIZE), generator=torch.Generator().manual_seed(seed))
    image[0, :, :9], image[0, :, 9:] = 10, 200
    label = torch.full(SIZE, 3, dtype=torch.uint8)
    label[:, 6:] = 5
    label[:, 6:9] = IGNORE
    return image.to(torch.uint8)[None], label[None]


def outlined(label):
    """What the refiner is to make of it."""
    made = torch.full_like(label, 5)
    made[..., :9] = 3
    return made


def test_labels_follow_the_objects():
    image, label = scene()
    refiner = Refiner(Colours())
    made = refiner.refine(image, label.long(), [0])
    assert torch.equal(made, outlined(label).long())
    changed = SIZE[0] * 3
    assert refiner.taken() == Tally(1, 0, 2, 2, label.numel(), changed)
    assert refiner.taken() == Tally()


def test_a_small_component_is_dropped():
    image, label = scene()
    label[0, :2, :2] = 8
    small = 4 / label.numel()
    kept = Refiner(Colours(), min_share=0.9 * small, clear_overlaps=False)
    assert 8 in kept.refine(image, label, [0]).unique()
    dropped = Refiner(Colours(), min_share=small)
    assert torch.equal(dropped.refine(image, label, [0]), outlined(label))
    assert dropped.taken().shares()["kept_components"] == pytest.approx(2 / 3)


def test_overlaps_are_cleared_also_between_components_of_one_class():
    image, label = scene()
    label[0, :, 2:4] = IGNORE  # parts the left area in two components of one object
    made = Refiner(Colours()).refine(image, label, [0])
    assert (made[..., :9] == IGNORE).all() and (made[..., 9:] == 5).all()
    united = Refiner(Colours(), clear_overlaps=False).refine(image, label, [0])
    assert torch.equal(united, outlined(label))


def test_without_a_large_component_the_labels_stay_and_nothing_is_computed():
    image, label = scene()
    model = Colours()
    refiner = Refiner(model, min_share=0.9)
    assert torch.equal(refiner.refine(image, label, [0]), label)
    assert model.embedded == 0
    assert refiner.taken().shares() == {
        "refined_pixels": 0.0, "kept_components": 0.0, "unrefined_images": 1.0,
    }  # fmt: skip


def test_points_follow_from_the_seeds_alone():
    image, label = scene()

    def points(run, number):
        model = Colours()
        Refiner(model, seed=run).refine(image, label, [number])
        return torch.cat(model.asked)

    assert torch.equal(points(0, 1), points(0, 1))
    assert not torch.equal(points(0, 1), points(0, 2))
    assert not torch.equal(points(0, 1), points(1, 1))


def test_prompts_of_one_call_have_as_many_points():
    image, label = scene()
    label[0, 0, :3] = 8
    model = Colours()
    Refiner(model, points=5, min_share=0.0).refine(image, label, [0])
    assert sorted(points.shape[:2] for points in model.asked) == [(1, 3), (2, 5)]


def test_an_image_of_a_batch_is_refined_as_alone():
    scenes = [scene(seed) for seed in (0, 1)]
    image, label = (torch.cat(parts) for parts in zip(*scenes, strict=True))
    label[1, :3, :3] = 8
    made = Refiner(Colours()).refine(image, label, [4, 9])
    alone = Refiner(Colours()).refine(image[1:], label[1:], [9])
    assert torch.equal(made[1:], alone)


def test_a_mirrored_view_gets_the_mirrored_label_of_the_same_embedding(tmp_path):
    image, label = scene()
    label[0, :2, :2] = 8
    model = Colours()
    refiner = Refiner(model, embeddings=Embeddings(tmp_path))
    made = refiner.refine(image, label, [0])
    mirrored = refiner.refine(image.flip(-1), label.flip(-1), [0])
    assert torch.equal(mirrored.flip(-1), made)
    assert model.embedded == 1


def test_kept_embeddings_change_nothing_and_views_that_pass_are_not_kept(tmp_path):
    image, label = scene()
    model = Colours()
    refiner = Refiner(model, embeddings=Embeddings(tmp_path))
    plain = Refiner(model).refine(image, label, [0])
    passing = refiner.refine(image, label, [0], comes_again=False)
    assert not list(tmp_path.rglob("*.safetensors"))
    kept = [refiner.refine(image, label, [0]) for _ in range(3)]
    assert all(torch.equal(made, plain) for made in (passing, *kept))
    assert model.embedded == 3


def test_embeddings_of_another_precision_are_others(tmp_path):
    image, label = scene()
    model = Colours()
    refiner = Refiner(model, embeddings=Embeddings(tmp_path))
    refiner.refine(image, label, [0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        refiner.refine(image, label, [0])
    assert model.embedded == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image, label: (image.float() / 255, label), "must be uint8 .* got torch.float32"),
        (lambda image, label: (image, label[:, 1:]), r"got torch.uint8 of .* and \(1, 15, 24\)"),
    ],
)
def test_other_images_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Refiner(Colours()).refine(*change(*scene()), [0])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"points": 0}, "points must be at least 1"), ({"min_share": 1.5}, r"min_share .*\[0, 1\]")],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Refiner(Colours(), **options)


class Forgetful(Refiner):
    """Takes away all labels, and remembers what it was given."""

    def __init__(self):
        super().__init__(Colours())
        self.given = []

    def refine(self, image, label, seeds, *, comes_again=True):
        self.given.append((tuple(label.shape), list(seeds)))
        return torch.full_like(label, IGNORE)


def online(name, *settings):
    method = built(configured(f"method={name}", "trainer.max_steps=10", *settings), transformer())
    method.refiner = Forgetful()
    method.iteration = 3
    return method


def images(shown=None):
    """Two, of which the second shows as many rows and columns."""
    from small import batch

    data = batch(size=(32, 64))
    if shown is not None:
        data["target"]["geometry"][1, 6:8] = torch.tensor(shown)
    data["source"] = {**batch(size=(32, 64), seed=1)["target"]}
    return data


def test_a_mean_teacher_learns_refined_labels_alone():
    method = online("mean_teacher", "method.mix=none", "method.threshold_share=0")
    assert method.labels_online
    assert float(step(method, images())["loss"].detach()) == 0
    ((shape, seeds),) = method.refiner.given
    assert shape == (2, 32, 64) and len(set(seeds)) == 2
    assert set(method.logged) >= {"refined_pixels", "kept_components", "unrefined_images"}
    again = online("mean_teacher", "method.mix=none", "method.threshold_share=0")
    step(again, images())
    again.iteration = 4
    step(again, images())
    (_, same), (_, other) = again.refiner.given
    assert same == seeds and other != seeds


def test_pictures_are_refined_without_their_padding():
    method = online("mean_teacher", "method.mix=none")
    step(method, images(shown=(20, 40)))
    assert [shape for shape, _ in method.refiner.given] == [(1, 32, 64), (1, 20, 40)]


def test_labels_of_a_teacher_beside_the_source_are_refined():
    method = online("dacs", "data.target_crop=[32,64]")
    assert method.labels_online
    labelled = method.pseudo_labels(images()["target"])
    assert (labelled.label == IGNORE).all() and len(method.refiner.given) == 1


def test_methods_without_a_teacher_make_no_labels():
    assert not online("adaptsegnet", "data.target_crop=[32,64]").labels_online


def test_copies_of_a_method_share_the_refiner():
    refiner = Forgetful()
    assert copy.deepcopy({"refiner": refiner})["refiner"] is refiner


def test_a_tally_says_what_was_done():
    text = str(Tally(4, 1, 2000, 500, 100, 25))
    assert text.startswith("25.0 % of the pixels refined, 25.0 % of 2,000 components kept, 25.0 %")
