"""The dashboard of runs as data: sections of panels, by phase, domain and class.

It follows from the names that runs have logged, so that it fits any method, evaluation sets by
name, and runs without labels. W&B's view and the page of ``sfseg-dashboard`` are drawn from it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sfseg.metrics import MEAN

Kind = Literal["lines", "bars", "pictures", "system"]
SCORE = re.compile(r"(val|source_only)/([^/]+)/(IoU/)?(.+)")
"""Phase, domain, whether it is of a class, and the mean or the class."""
OF_CLASSES = re.compile(r"early_learning/([^/]+)/(.+)")
SHARE = re.compile(r"(val|source_only)/|early_learning/IoU/|label_free/(agreement|combined)$")
BOOKKEEPING = {"epoch", "step", "trainer/global_step"}
"""Counted, not measured; so is what W&B logs by itself, whose names begin with ``_``."""
GROUPS = {
    "ground, nature, sky": (
        "road", "sidewalk", "pavement", "vegetation", "tree", "terrain", "sky",
    ),
    "buildings and objects": (
        "building", "wall", "fence", "pole", "traffic light", "traffic sign", "sign",
    ),
    "people and two-wheelers": (
        "person", "pedestrian", "rider", "bicyclist", "motorcycle", "bicycle",
    ),
    "large vehicles": ("car", "truck", "bus", "train"),
}  # fmt: skip
"""Classes of streets that a person looks at together."""
MOST = 6
"""Classes in a group of others: more lines in one panel cannot be told apart."""
SYSTEM = (
    (r"gpu\.\d+\.gpu", "GPU use, %"),
    (r"gpu\.\d+\.memoryAllocated", "GPU memory, %"),
    (r"gpu\.\d+\.memoryAllocatedBytes", "GPU memory, bytes"),
    (r"gpu\.\d+\.(powerWatts|temp)", "GPU power and temperature"),
    (r"cpu", "CPU of the run, %"),
    (r"proc\.memory\.rssMB", "memory of the run, MB"),
    (r"memory_percent", "memory of the machine, %"),
    (r"disk\..*\.usagePercent", "disk, % full"),
)
"""What of W&B's measurements of the machine is shown, and its title."""


@dataclass(frozen=True)
class Panel:
    """What is drawn in one frame.

    Args:
        title: above it.
        names: of metrics; of pictures or of measurements of the machine where it is of that kind.
        kind: ``lines`` over training steps, ``bars`` of last values, ``pictures``, or ``system``:
            lines over time.
    """

    title: str
    names: tuple[str, ...]
    kind: Kind = "lines"

    @property
    def is_share(self) -> bool:
        """Whether all of it lies in [0, 1] and is shown as percent."""
        return self.kind in ("lines", "bars") and all(map(SHARE.match, self.names))


@dataclass(frozen=True)
class Section:
    """Panels under a title; ``is_open``: whether they are seen before someone asks for them."""

    title: str
    panels: tuple[Panel, ...]
    is_open: bool = False


def layout(
    names: Iterable[str],
    *,
    pictures: Iterable[str] = (),
    system: Iterable[str] = (),
    compares: bool = False,
) -> list[Section]:
    """The sections for what was logged; nothing of it is left out, no section is empty.

    Args:
        names: of metrics, in any order.
        pictures: their names.
        system: names of measurements of the machine.
        compares: the lines of a panel are runs, so that there is a panel for each metric; else
            they may be the metrics of one run, such as a group of classes.
    """
    rest = sorted({name for name in names if not name.startswith("_")} - BOOKKEEPING)
    scores = {name: match.groups() for name in rest if (match := SCORE.fullmatch(name))}
    domains = sorted({domain for _, domain, _, _ in scores.values()}, key=_rank)
    found = [
        Section("Headline", tuple(_headline(rest, domains)), is_open=True),
        *_of_sets(rest, domains),
    ]
    for domain in domains:
        found += _of_domain(scores, domain, compares=compares)
    found += [
        Section("Training", _each(_training(rest)), is_open=True),
        Section("Without labels", _each(_of("label_free/", rest))),
        Section("Pseudo-labels", tuple(_pseudo_labels(rest, compares=compares))),
        Section("Before adaptation", tuple(_before(scores, domains))),
        Section("Pictures", _each(sorted(set(pictures)), "pictures"), is_open=True),
        Section("System", tuple(_system(sorted(set(system)), compares=compares))),
    ]
    shown = {name for section in found for panel in section.panels for name in panel.names}
    found.append(Section("Other", _each(name for name in rest if name not in shown)))
    return [section for section in found if section.panels]


def _rank(domain: str) -> tuple[int, str]:
    """What a run is judged by comes first, evaluation sets by name last."""
    first = (MEAN, "target", "source")
    return (first.index(domain) if domain in first else len(first), domain)


def _is_set(domain: str) -> bool:
    return domain not in (MEAN, "target", "source")


def _name(domain: str) -> str:
    return "mean over sets" if domain == MEAN else domain


def _title(domain: str) -> str:
    return f"Set {domain}" if _is_set(domain) else _name(domain).capitalize()


def _headline(names: Sequence[str], domains: Sequence[str]) -> Iterator[Panel]:
    own = [domain for domain in domains if not _is_set(domain)]
    means = [f"{phase}/{d}/mIoU" for d in own for phase in ("source_only", "val")]
    if known := tuple(name for name in means if name in names):
        yield Panel("mIoU, before adaptation and last", known, "bars")
    for domain in own:
        if f"val/{domain}/mIoU" in names:
            yield Panel(f"mIoU, {_name(domain)}", (f"val/{domain}/mIoU",))
    if "label_free/combined" in names:
        yield Panel("score without labels", ("label_free/combined",))


def _of_sets(names: Sequence[str], domains: Sequence[str]) -> Iterator[Section]:
    sets = [d for d in domains if _is_set(d) and f"val/{d}/mIoU" in names]
    yield Section(
        "Evaluation sets",
        tuple(Panel(f"mIoU, {d}", (f"val/{d}/mIoU",)) for d in sets),
        is_open=True,
    )


def _of_domain(
    scores: dict[str, tuple[str, ...]], domain: str, *, compares: bool
) -> Iterator[Section]:
    """Sections on a domain's classes and on its other means."""
    own = {n: s for n, s in scores.items() if s[0] == "val" and s[1] == domain}
    classes = {last: name for name, (_, _, of_class, last) in own.items() if of_class}
    panels = tuple(_by_class(classes, "IoU", compares=compares))
    yield Section(f"{_title(domain)}: classes", panels, is_open=domain == "target")
    means = {last: name for name, (_, _, of_class, last) in own.items() if not of_class}
    others = [(last, name) for last, name in sorted(means.items()) if last != "mIoU"]
    yield Section(
        f"{_title(domain)}: other means", tuple(Panel(last, (name,)) for last, name in others)
    )


def _by_class(classes: dict[str, str], what: str, *, compares: bool) -> Iterator[Panel]:
    """Panels of metrics by class: of a class, or of a group where lines need not be runs."""
    for title, members in groups(classes):
        if compares:
            for one in members:
                yield Panel(f"{what}, {one}", (classes[one],))
        else:
            yield Panel(f"{what}: {title}", tuple(classes[one] for one in members))


def groups(classes: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Titles and members of groups of classes: those of streets, then others by the alphabet."""
    rest = sorted(set(classes))
    for title, members in GROUPS.items():
        if own := [name for name in members if name in rest]:
            yield title, own
    known = {name for members in GROUPS.values() for name in members}
    others = [name for name in rest if name not in known]
    number = -(-len(others) // MOST)
    for k in range(number):
        part = others[k * len(others) // number : (k + 1) * len(others) // number]
        yield (part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}"), part


def _of(prefix: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(prefix)]


def _each(names: Iterable[str], kind: Kind = "lines") -> tuple[Panel, ...]:
    return tuple(Panel(name, (name,), kind) for name in names)


def _training(names: Sequence[str]) -> list[str]:
    """The loss, its terms, and the learning rate last."""
    last = {"train/loss": -1, "train/lr": 1}
    return sorted(_of("train/", names), key=lambda name: (last.get(name, 0), name))


def _pseudo_labels(names: Sequence[str], *, compares: bool) -> Iterator[Panel]:
    """Early learning by class, then whatever the correction and selection of labels log."""
    of_classes: dict[str, dict[str, str]] = {}
    for name in names:
        if match := OF_CLASSES.fullmatch(name):
            of_classes.setdefault(match[1], {})[match[2]] = name
    for what, classes in of_classes.items():
        yield from _by_class(classes, f"early learning, {what}", compares=compares)
    for prefix in ("label_correction/", "correction/", "certainty/", "pseudo_labels/"):
        yield from _each(_of(prefix, names))


def _before(scores: dict[str, tuple[str, ...]], domains: Sequence[str]) -> Iterator[Panel]:
    """What the model that a run started from scored, domain by domain."""
    for domain in domains:
        own = {n: s for n, s in scores.items() if s[0] == "source_only" and s[1] == domain}
        if means := tuple(name for name, score in own.items() if not score[2]):
            yield Panel(f"means, {_name(domain)}", means, "bars")
        classes = {score[3]: name for name, score in own.items() if score[2]}
        for title, members in groups(classes):
            yield Panel(
                f"IoU, {_name(domain)}: {title}", tuple(classes[m] for m in members), "bars"
            )


def _system(names: Sequence[str], *, compares: bool) -> Iterator[Panel]:
    for pattern, title in SYSTEM:
        own = [name for name in names if re.fullmatch(pattern, name)]
        if own and not compares:
            yield Panel(title, tuple(own), "system")
        elif compares:
            yield from (Panel(title if len(own) == 1 else f"{title}: {name}", (name,), "system")
                        for name in own)  # fmt: skip
