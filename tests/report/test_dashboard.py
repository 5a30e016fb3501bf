"""The dashboard as data: all that was logged is shown once, whatever the method and the sets."""

import random

import pytest

from sfseg.labels import CAMVID, CITYSCAPES
from sfseg.report.dashboard import GROUPS, MOST, Panel, groups, layout

BOOKKEEPING = ["epoch", "step", "trainer/global_step", "_step", "_runtime", "_timestamp"]


def scores(phase, domain, classes):
    means = ["mIoU", "mIoU13", "pixel_accuracy"]
    return [f"{phase}/{domain}/{name}" for name in [*means, *(f"IoU/{c}" for c in classes)]]


UNIUVPT = [
    *scores("source_only", "target", CITYSCAPES.classes),
    *scores("val", "target", CITYSCAPES.classes),
    *scores("val", "source", CITYSCAPES.classes),
    *(f"label_free/{name}" for name in ("agreement", "combined", "entropy", "snd")),
    *("train/lr", "train/loss", "train/lovasz", "train/discriminator/hard"),
    *(f"early_learning/{what}/{c}" for what in ("IoU", "slowdown") for c in ("road", "bus")),
    "mine/new",
]
SETS = [
    *(name for d in ("mean", "fog", "night") for name in scores("val", d, ["a", "b/c"])),
    *("train/loss", "train/lr"),
]
UNLABELLED = ["train/loss", "train/lr", "label_free/combined", "label_free/entropy"]
RUNS = {"uniuvpt": UNIUVPT, "sets": SETS, "unlabelled": UNLABELLED, "own": ["x", "y/z"]}


def shown(sections):
    return [name for section in sections for panel in section.panels for name in panel.names]


@pytest.mark.parametrize("compares", [False, True])
@pytest.mark.parametrize("names", RUNS.values(), ids=RUNS)
def test_all_that_was_logged_is_shown(names, compares):
    sections = layout([*names, *BOOKKEEPING], compares=compares)
    rest = [s for s in sections if s.title != "Headline"]
    # The headline shows again what stands in other sections, but for the means.
    assert set(shown(sections)) == set(names)
    assert len(shown(rest)) == len(set(shown(rest)))
    assert all(section.panels for section in sections)
    assert len({section.title for section in sections}) == len(sections)
    shuffled = random.Random(0).sample(names, len(names))
    assert layout(shuffled * 2, compares=compares) == sections


def test_a_run_is_told_in_the_order_in_which_one_asks():
    titles = [section.title for section in layout(UNIUVPT)]
    assert titles == [
        "Headline", "Target: classes", "Target: other means", "Source: classes",
        "Source: other means", "Training", "Without labels", "Pseudo-labels", "Before adaptation",
        "Other",
    ]  # fmt: skip
    headline, *_ = layout(UNIUVPT)
    assert [panel.names for panel in headline.panels] == [
        ("source_only/target/mIoU", "val/target/mIoU", "val/source/mIoU"),
        ("val/target/mIoU",), ("val/source/mIoU",), ("label_free/combined",),
    ]  # fmt: skip
    assert headline.panels[0].kind == "bars" and headline.is_open
    training = next(s for s in layout(UNIUVPT) if s.title == "Training")
    assert shown([training]) == [
        "train/loss", "train/discriminator/hard", "train/lovasz", "train/lr",
    ]  # fmt: skip


def test_evaluation_sets_have_sections_of_their_own():
    found = {section.title: section for section in layout(SETS)}
    assert list(found) == [
        "Headline", "Evaluation sets", "Mean over sets: classes", "Mean over sets: other means",
        "Set fog: classes", "Set fog: other means", "Set night: classes", "Set night: other means",
        "Training",
    ]  # fmt: skip
    assert shown([found["Headline"]]) == ["val/mean/mIoU", "val/mean/mIoU"]
    assert shown([found["Evaluation sets"]]) == ["val/fog/mIoU", "val/night/mIoU"]
    assert shown([found["Set fog: classes"]]) == ["val/fog/IoU/a", "val/fog/IoU/b/c"]


def test_lines_are_classes_or_runs():
    def classes(*, compares):
        sections = layout(UNIUVPT, compares=compares)
        return next(s for s in sections if s.title == "Target: classes").panels

    assert [len(panel.names) for panel in classes(compares=False)] == [5, 6, 4, 4]
    assert [len(panel.names) for panel in classes(compares=True)] == [1] * 19
    assert shown([type("S", (), {"panels": classes(compares=True)})]) == shown(
        [type("S", (), {"panels": classes(compares=False)})]
    )


@pytest.mark.parametrize(
    "classes",
    [CITYSCAPES.classes, CAMVID.classes, [f"c{k}" for k in range(20)], ["only"], []],
    ids=["cityscapes", "camvid", "many", "one", "none"],
)
def test_groups_hold_each_class_once_and_stay_readable(classes):
    found = list(groups(classes))
    members = [name for _, group in found for name in group]
    assert sorted(members) == sorted(classes)
    assert all(0 < len(group) <= max(MOST, *map(len, GROUPS.values())) for _, group in found)
    assert len({title for title, _ in found}) == len(found)
    if classes is CITYSCAPES.classes:
        assert {title for title, _ in found} == set(GROUPS)


def test_the_machine_and_pictures_come_last():
    system = ["cpu", "gpu.0.memoryAllocated", "gpu.1.memoryAllocated", "network.sent"]
    arguments = {"pictures": ["panels/target", "fakes"], "system": system}
    of_one = layout(UNLABELLED, **arguments)[-2:]
    assert [section.title for section in of_one] == ["Pictures", "System"]
    assert [panel.names for panel in of_one[0].panels] == [("fakes",), ("panels/target",)]
    assert [panel.names for panel in of_one[1].panels] == [tuple(system[1:3]), ("cpu",)]
    of_several = layout(UNLABELLED, **arguments, compares=True)[-1]
    assert [panel.names for panel in of_several.panels] == [(system[1],), (system[2],), ("cpu",)]
    assert len({panel.title for panel in of_several.panels}) == 3


def test_shares_are_known_by_their_names():
    shares = ["val/target/mIoU", "source_only/fog/IoU/road", "label_free/combined",
              "early_learning/IoU/road", "val/target/pixel_accuracy"]  # fmt: skip
    others = ["train/loss", "label_free/entropy", "label_free/snd", "early_learning/slowdown/road"]
    assert all(Panel("", (name,)).is_share for name in shares)
    assert not any(Panel("", (name,)).is_share for name in others)
    assert not Panel("", (shares[0], others[0])).is_share
    assert not Panel("", ("val/x",), "system").is_share


def test_nothing_was_logged():
    assert layout([]) == [] and layout(BOOKKEEPING) == []
