import numpy as np
import pytest
import torch

from sfseg.ops import lovasz
from sfseg.ops.lovasz import lovasz_softmax
from sfseg.types import IGNORE


def case(num_classes=5, shape=(2, 6, 7), void=0.3, seed=0, present=None):
    rng = np.random.default_rng(seed)
    label = rng.choice(present or num_classes, size=shape).astype(np.uint8)
    label[rng.random(shape) < void] = IGNORE
    logits = torch.as_tensor(rng.normal(0, 3, (shape[0], num_classes, *shape[1:])))
    return logits.float().requires_grad_(), torch.as_tensor(label)


def jaccard_loss(wrong, truth):
    """1 - IoU of a class when the pixels ``wrong`` are predicted wrongly, as sets."""
    missed, invented = wrong & truth, wrong - truth
    return 1 - len(truth - missed) / len(truth | invented)


def by_hand(logits, label):
    """The Lovasz extension from its definition: telescoping sums of the set function."""
    scores = logits.detach().double().softmax(1).numpy()
    pixels = [p for p in np.ndindex(*label.shape) if int(label[p]) != IGNORE]
    losses = []
    for k in sorted({int(label[p]) for p in pixels}):
        truth = {p for p in pixels if int(label[p]) == k}
        chance = {(b, y, x): scores[b, k, y, x] for b, y, x in pixels}
        error = {p: 1 - chance[p] if p in truth else chance[p] for p in pixels}
        wrong, before, loss = set(), 0.0, 0.0
        for p in sorted(pixels, key=lambda p: -error[p]):
            wrong.add(p)
            after = jaccard_loss(wrong, truth)
            loss += error[p] * (after - before)
            before = after
        losses.append(loss)
    return sum(losses) / len(losses)


CASES = {
    "several": (5, (2, 6, 7), 0.3, None),
    "no void": (3, (1, 4, 5), 0, None),
    "two classes": (2, (1, 5, 5), 0.2, None),
    "absent classes": (19, (2, 5, 4), 0.3, [3, 7, 18]),
    "one class": (4, (1, 3, 3), 0.2, [2]),
    "one pixel": (3, (1, 1, 1), 0, None),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("num_classes", "shape", "void", "present"), CASES.values(), ids=CASES.keys()
)
@pytest.mark.parametrize("all_classes", [False, True])
def test_values_by_hand(num_classes, shape, void, present, all_classes, monkeypatch):
    if all_classes:  # as on a GPU
        monkeypatch.setattr(
            lovasz, "_classes", lambda ids, valid, num_classes: torch.arange(num_classes)
        )
    logits, label = case(num_classes, shape, void, present=present)
    assert lovasz_softmax(logits, label).item() == pytest.approx(by_hand(logits, label), rel=1e-9)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("all_classes", [False, True])
def test_gradient_is_that_of_finite_differences(all_classes, monkeypatch):
    if all_classes:
        monkeypatch.setattr(
            lovasz, "_classes", lambda ids, valid, num_classes: torch.arange(num_classes)
        )
    logits, label = case(4, (1, 3, 4), present=[0, 1, 3])
    assert torch.autograd.gradcheck(lambda z: lovasz_softmax(z, label), logits)


@pytest.mark.usefixtures("double")
def test_one_labelled_pixel_among_ignored_ones():
    logits, _ = case(4, (1, 3, 3))
    label = torch.full((1, 3, 3), IGNORE, dtype=torch.uint8)
    label[0, 1, 2] = 2
    loss = lovasz_softmax(logits, label)
    loss.backward()
    assert loss.item() == pytest.approx(1 - logits.softmax(1)[0, 2, 1, 2].item(), rel=1e-9)
    assert (logits.grad.abs().sum(1) > 0).sum() == 1


def test_nothing_labelled_is_zero_with_a_zero_gradient():
    logits, label = case(void=1)
    assert (label == IGNORE).all()
    loss = lovasz_softmax(logits, label)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.usefixtures("double")
def test_pixels_may_come_in_any_order():
    logits, label = case(4, (2, 8, 9))
    order = torch.randperm(8 * 9, generator=torch.Generator().manual_seed(1))
    shuffled = logits.flatten(2)[..., order].unflatten(2, (8, 9))
    moved = label.flatten(1)[:, order].unflatten(1, (8, 9))
    torch.testing.assert_close(lovasz_softmax(shuffled, moved), lovasz_softmax(logits, label))


@pytest.mark.usefixtures("double")
def test_classes_may_come_in_any_order():
    logits, label = case(4)
    order = torch.tensor([2, 0, 3, 1])
    renamed = torch.full((256,), IGNORE, dtype=torch.uint8)
    renamed[order] = torch.arange(4, dtype=torch.uint8)
    torch.testing.assert_close(
        lovasz_softmax(logits[:, order], renamed[label.long()]), lovasz_softmax(logits, label)
    )


@pytest.mark.usefixtures("double")
def test_ignored_pixels_change_nothing_and_learn_nothing():
    logits, label = case(void=0.5)
    lovasz_softmax(logits, label).backward()
    assert (logits.grad.abs().sum(1)[label == IGNORE] == 0).all()
    assert (logits.grad.abs().sum(1)[label != IGNORE] > 0).all()
    wide = torch.nn.functional.pad(logits, (0, 9), value=5)
    void = torch.nn.functional.pad(label, (0, 9), value=IGNORE)
    torch.testing.assert_close(lovasz_softmax(wide, void), lovasz_softmax(logits, label))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("right", [True, False])
def test_hard_predictions_cost_one_minus_their_iou(right):
    _, label = case(3, (1, 6, 6), void=0.2)
    guess = torch.where(label == IGNORE, 0, label).long()
    if not right:
        guess[:, :2] = (guess[:, :2] + 1) % 3
    logits = 1e4 * torch.nn.functional.one_hot(guess, 3).permute(0, 3, 1, 2).float()
    valid = label != IGNORE
    iou = [
        int(((guess == k) & (label == k) & valid).sum())
        / int((((guess == k) | (label == k)) & valid).sum())
        for k in range(3)
    ]
    expected = 1 - sum(iou) / 3
    assert lovasz_softmax(logits, label).item() == pytest.approx(expected, rel=1e-9)


def test_many_pixels_lose_no_digits():
    rng = np.random.default_rng(0)
    chance = np.sort(rng.random(1 << 18))[::-1].copy()
    truth = rng.random(1 << 18) < 0.5
    error = np.where(truth, 1 - chance, chance)
    order = np.argsort(-error)
    t = truth[order].astype(np.float64)
    jaccard = 1 - (t.sum() - t.cumsum()) / (t.sum() + (1 - t).cumsum())
    first = error[order] @ np.diff(jaccard, prepend=0)
    t = 1 - t
    jaccard = 1 - (t.sum() - t.cumsum()) / (t.sum() + (1 - t).cumsum())
    second = error[order] @ np.diff(jaccard, prepend=0)
    z = torch.as_tensor(np.log(chance / (1 - chance))).float().reshape(1, 1, 512, 512)
    logits = torch.cat([z, torch.zeros_like(z)], dim=1)
    label = torch.as_tensor(np.where(truth, 0, 1).astype(np.uint8).reshape(1, 512, 512))
    assert lovasz_softmax(logits, label).item() == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_single(dtype):
    logits, label = case(shape=(2, 60, 60))
    half = logits.detach().to(dtype)
    loss = lovasz_softmax(half, label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, lovasz_softmax(half.float(), label))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type(dtype):
    logits, label = case()
    assert torch.equal(lovasz_softmax(logits, label.to(dtype)), lovasz_softmax(logits, label))
