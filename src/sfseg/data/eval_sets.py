"""Evaluation sets by name: one run is judged on each of them, and on their mean.

That is how domain generalisation is measured: training sees none of the domains that it is for, so
that there is not one target but several. With them a task needs no target of its own.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sfseg.data.files import pairing_hint
from sfseg.data.folder import WHOLE, Scenes, ScenesFactory
from sfseg.data.geometry import EvalView
from sfseg.data.left_out import LeftOut
from sfseg.data.opening import opened
from sfseg.errors import ConfigError, DataError
from sfseg.labels import LabelSpace

RESERVED = ("source", "target", "mean")
"""Names that scores have already."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class EvalSet:
    """A set that a run is judged on.

    Args:
        scenes: opens it.
        view: sizes of its images and labels; None: those of all the task's evaluation sets.
    """

    scenes: ScenesFactory
    view: EvalView | None = None


class Judged:
    """On what a run is judged: its target, or evaluation sets by name in place of that.

    Args:
        sets: by their names, in the order of their columns; None: the target.
        view: sizes of images and labels in evaluation, where a set says nothing else.

    Raises:
        ConfigError: no sets, what is none, or a name that scores cannot have.
    """

    def __init__(self, sets: Mapping[str, EvalSet] | None = None, view: EvalView = WHOLE) -> None:
        self.sets = {} if sets is None else _required(sets)
        self.view = view

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of what a run is judged on."""
        return tuple(self.sets) or ("target",)

    @property
    def factories(self) -> dict[str, ScenesFactory]:
        """What opens each set of its own, by its name among those of the data."""
        return {f"{name}_eval": one.scenes for name, one in self.sets.items()}

    def view_of(self, domain: str) -> EvalView:
        """Sizes of images and labels of a domain in evaluation."""
        one = self.sets.get(domain)
        return self.view if one is None or one.view is None else one.view

    def opened(self, labels: LabelSpace, but: Collection[str] = ()) -> dict[str, Scenes]:
        """The scenes of all sets by name of their own, listed: no image has been looked at yet.

        Args:
            labels: of the task.
            but: sets that are open already.

        Raises:
            ConfigError: a set of other classes than the task's, or without labels; a setting that
                its reader refuses.
            DataError: files of a set are not there.
        """
        names = [name for name in self.sets if f"{name}_eval" not in but]
        return {f"{name}_eval": self.opened_set(name, labels) for name in names}

    def opened_set(self, name: str, labels: LabelSpace) -> Scenes:
        """The scenes of one of the sets; see :meth:`opened`."""
        setting = f"data.eval_sets.{name}"
        try:
            scenes = opened(f"{name}_eval", self.sets[name].scenes, setting=f"{setting}.scenes")
        except DataError as error:
            raise DataError(f"{setting}: {error}") from error
        if scenes.labels.classes != labels.classes:
            raise ConfigError(
                f"{setting} has the {scenes.labels.num_classes} classes of {scenes.labels.name}, "
                f"the task {labels.num_classes} of {labels.name}; set classes={labels.name} in "
                f"{setting}.scenes where its masks hold these, or take the set out"
            )
        if not scenes.has_labels:
            hint = pairing_hint(scenes)
            raise ConfigError(
                f"{setting} has no labels, and a run is judged on every evaluation set"
                f"{f'; {hint}' if hint else ''}; give its labels, or take the set out"
            )
        return scenes

    def protocol(self, labels: LabelSpace, left_out: Iterable[LeftOut]) -> str:
        """What scores stand for: classes, sizes of input and labels, sets, and images.

        Args:
            labels: of the task.
            left_out: of each evaluation set that is open.
        """
        classes = f"{labels.num_classes} classes of {labels.name}"
        lost = [f"{some.title}: {some.text}" for some in left_out if some.indices]
        return ", ".join([classes, *self._sizes(), *lost])

    def _sizes(self) -> list[str]:
        """Sizes in evaluation, and what the mean is of."""
        views = {name: self.view_of(name) for name in self.sets}
        own = [f"{name}: {view}" for name, view in views.items() if view != self.view]
        mean = [f"mean of ({', '.join(self.sets)})"] if self.sets else []
        return [str(self.view), *own, *mean]


def _required(sets: Mapping[str, EvalSet]) -> dict[str, EvalSet]:
    if not isinstance(sets, Mapping) or not sets:
        raise ConfigError(
            f"data.eval_sets must be sets by their names, got {sets}; null evaluates the target"
        )
    for name, one in sets.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
            raise ConfigError(
                f"data.eval_sets must have names of letters, digits, - and _, none of them "
                f"{', '.join(RESERVED)}, got {name!r}; rename it"
                f"{'' if isinstance(name, str) else ', or put it in quotes'}"
            )
        setting = f"data.eval_sets.{name}"
        if not isinstance(one, EvalSet):
            raise ConfigError(
                f"{setting} must be a set, _target_: sfseg.data.eval_sets.EvalSet with scenes and, "
                f"where it has sizes of its own, view; got {one}"
            )
        if not callable(one.scenes):
            raise ConfigError(
                f"{setting}.scenes must be what opens them, got {type(one.scenes).__name__}; give "
                "it _partial_: true"
            )
    return {str(name): one for name, one in sets.items()}
