"""Masked images on hosts without a teacher of their own: what is learnt, and when it moves."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from small import QUIET, built, configured, transformer
from two_domains import SIZE, batch, fit, make, reached

from sfseg.data.geometry import Geometry
from sfseg.methods import masked_consistency
from sfseg.methods.adaptsegnet import AdaptSegNet
from sfseg.methods.advent import Advent
from sfseg.methods.advent_minent import AdventMinEnt
from sfseg.methods.dacs import DACS
from sfseg.methods.mixing import Labelled, half_of_source, weighted_loss, window
from sfseg.types import IGNORE

pytestmark = QUIET
HOSTS = [AdaptSegNet, Advent, AdventMinEnt]


def taught(kind, **options):
    """A method whose teacher is not its student."""
    method = make(kind, masked=0.5, **options).double()
    for value in method.teacher.parameters():
        value.data += 0.2 * torch.randn(value.shape, dtype=value.dtype)
    return method


@pytest.fixture
def seen(monkeypatch):
    """In place of blocks that are drawn: pixels that stay visible."""
    visible = torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(3)) < 0.5
    monkeypatch.setattr(masked_consistency, "block_mask", lambda image, **_: visible)
    return visible


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", HOSTS)
@pytest.mark.parametrize("mode", ["target", "both"])
@pytest.mark.parametrize("levels", [1, 2])
def test_the_loss_is_that_of_the_formulas(seen, kind, mode, levels):
    """Of ``both`` the first of two images is the source's, in its own colours."""
    method = taught(
        kind, mask_mode=mode, colour=0.0 if mode == "target" else 0.5, confidence=0.8,
        pseudo_label_crop=(3, 4), levels=levels,
    )  # fmt: skip
    data = batch()
    image = data["target"]["image"]
    with torch.no_grad():
        confidence, label = method.teacher.network.train()(image).softmax(1).max(1)
        method.teacher.eval()
    share = (confidence >= 0.8).double().mean()
    assert 0.05 < share < 0.95
    weight = share.repeat(label.shape)
    weight[:, :3], weight[:, 28:] = 0, 0
    if mode == "both":
        source = data["source"]
        image = torch.stack([source["image"][0], image[1]])
        label = torch.stack([source["label"][0].long(), label[1]])
        weight[0] = 1
    with torch.no_grad():
        logits = method.network(torch.where(seen, image / 255, method.network.mean))
        each = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
        (term,) = method.masked_terms(data).values()
    assert term.item() == pytest.approx(0.5 * float((weight * each).mean()))


@pytest.mark.parametrize(("ratio", "shown"), [(0.0, 1.0), (1.0, 0.0)])
def test_all_blocks_or_none_may_be_hidden(ratio, shown):
    method = taught(AdaptSegNet, mask_ratio=ratio, colour=0.0)
    data = batch()
    labelled = method.pseudo_labels(data["target"])
    mean, image = method.network.mean, data["target"]["image"].double() / 255
    view = torch.lerp(mean, image, shown)
    expected = 0.5 * weighted_loss(method.network, view, labelled, None)
    assert method.masked_terms(data)["masked"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("kind", HOSTS)
def test_masked_images_are_one_more_loss_of_the_student(kind):
    plain, method = make(kind), make(kind, masked=1.0, confidence=0.4)
    fit(plain, [batch()])
    fit(method, [batch()])
    own = list(plain.logged)
    assert set(method.logged) - set(own) == {"masked"}
    for name in own:
        if not name.startswith("discriminator"):  # after the segmenter's other forward passes
            assert torch.equal(plain.logged[name], method.logged[name])
    assert reached(method, method.masked_terms(batch())["masked"]) == {"network"}


@pytest.mark.parametrize("kind", HOSTS)
def test_without_masked_images_there_is_no_teacher(kind):
    names = {name.split(".")[0] for name in make(kind).state_dict()}
    assert not names & {"teacher", "moves"}
    assert {"teacher", "moves"} <= {n.split(".")[0] for n in make(kind, masked=1.0).state_dict()}


@pytest.mark.parametrize("kind", HOSTS)
def test_the_teacher_is_quick_at_first(kind):
    method, students, averages = make(kind, masked=1.0, momentum=0.6), [], []

    class Look(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            students.append(module.network.head.classifier.weight.detach().clone())
            averages.append(module.teacher.network.head.classifier.weight.clone())

        on_train_end = on_train_batch_start

    fit(method, [batch(k) for k in range(3)], callbacks=[Look()])
    expected = students[0]
    for momentum, student, found in zip((0.5, 0.6, 0.6), students[1:], averages[1:], strict=True):
        expected = momentum * expected + (1 - momentum) * student
        torch.testing.assert_close(found, expected)


def test_half_of_a_batch_is_the_sources_windows():
    place = torch.arange(40 * 96).view(40, 96)
    source = batch(size=(40, 96))["source"]
    source["image"] = torch.stack([place % 256, place // 256, place * 0]).expand(2, -1, -1, -1)
    source["label"] = (place % 3).expand(2, -1, -1)
    for kind in ("image", "label"):
        source[kind] = source[kind][:1].expand(3, *source[kind].shape[1:])
    source["geometry"] = torch.tensor([Geometry.whole((40, 96))] * 3)
    zeros = torch.zeros(3, *SIZE)
    images, valid = half_of_source(
        source, Labelled(zeros[:, None].expand(-1, 3, -1, -1), zeros.long(), zeros), None
    )
    assert valid is None
    shown = images.image[:, 0] + 256 * images.image[:, 1]
    y, x = divmod(int(shown[0, 0, 0]), 96)
    assert torch.equal(shown[0], place[y : y + 32, x : x + 64].float())
    assert torch.equal(images.label[0], shown[0].long() % 3) and images.weight[0].eq(1).all()
    assert not any(part[1:].any() for part in images)


@pytest.mark.parametrize("seed", range(5))
def test_windows_show_something_of_every_picture(seed):
    """Of two pictures in images of 40x96, one has 36x70 pixels, in another test 20 rows."""
    torch.manual_seed(seed)
    source = batch(size=(40, 96))["source"]
    source["geometry"] = torch.tensor([Geometry.whole((40, 96)), Geometry.whole((36, 70))])
    _, _, shown = window(source, SIZE)
    assert shown.all()
    source["geometry"] = torch.tensor([Geometry.whole((40, 96)), Geometry.whole((20, 70))])
    _, _, shown = window(source, SIZE)
    assert shown[0].all() and shown[1, :20].all() and not shown[1, 20:].any()
    zeros = torch.zeros(2, *SIZE)
    target = Labelled(zeros[:, None].expand(-1, 3, -1, -1), zeros.long(), zeros)
    source["geometry"] = source["geometry"].flip(0)
    _, valid = half_of_source(source, target, None)
    assert not valid[0, 20:].any() and valid[1].all()


@pytest.mark.parametrize("kind", [*HOSTS, DACS])
def test_blocks_larger_than_the_crop_are_refused(kind):
    message = (
        r"method.mask_block must fit into the target's crops of 64x32, got 33; set "
        r"method.mask_block=2, a larger data.target_crop, or method.masked=0"
    )
    with pytest.raises(ValueError, match=message):
        make(kind, masked=1.0, mask_block=33)
    make(kind, masked=1.0, mask_block=32)
    make(kind, mask_block=33)


def test_a_mean_teacher_refuses_them_too():
    cfg = configured("method=mean_teacher", "method.masked=1", "method.mask_block=2000")
    with pytest.raises(ValueError, match=r"method.mask_block must fit into the target's crops of"):
        built(cfg, transformer())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_mode": "source"}, "mask_mode must be one of target, both, got 'source'"),
        ({"masked": float("nan")}, "masked must not be negative"),
        ({"momentum": 1.5}, "momentum must be in"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make(AdventMinEnt, **options)


def test_one_image_cannot_be_of_both_domains():
    cfg = configured(
        "method=advent_minent", "method.masked=1", "method.mask_mode=both",
        "data.adaptation.batch_size=1",
    )  # fmt: skip
    with pytest.raises(Exception, match=r"must be at least 2 .* method.mask_mode=target"):
        built(cfg, transformer())
