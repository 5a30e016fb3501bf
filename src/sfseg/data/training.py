"""What training adds to views and colours: which image comes when, in which style."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch import Trainer

from sfseg.data.crops import sampled_sizes
from sfseg.data.folder import Read, Restyle, Scenes, ScenesFactory
from sfseg.data.geometry import View
from sfseg.data.left_out import LeftOut
from sfseg.data.needs import NO_GENERATED
from sfseg.data.opening import FEW, opened
from sfseg.data.replacement import Replacement
from sfseg.data.sampling import Contents, ImageSampler, Order, Passes, Uniform, end_of_part
from sfseg.data.shares import Share, require_factor
from sfseg.data.shots import Shots
from sfseg.data.statistics import class_counts
from sfseg.data.translation import FourierStyle, FourierTranslation
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace

UNIFORM = Uniform()
ALL = Shots()
OWN = Replacement()
Focus = tuple[int, ...]


class Training:
    """How images are chosen, how the source's are shown, and what a training is divided into.

    Args:
        sampler: chooses the images.
        translation: shows them in the style of the target's; None does not.
        translated: folder of translated images that stand for the source's own; None: there is
            none.
        shots: the training images of the target that are seen.
        replacement: images that stand for the training images of the target.
        parts: of the training, as several numbers to be added up; all are of equal length, and
            what is decided at the end of one holds for exactly the next batch.
        repeat_factor: how often an image of the target comes while each of the source comes once;
            steps then have as many images in all as else of each domain. None: as many of both.
        seed: run seed.

    Raises:
        ConfigError: both kinds of translation.
        ValueError: no part, or a number of them that is none; a factor that is not positive.
    """

    def __init__(
        self,
        *,
        sampler: ImageSampler = UNIFORM,
        translation: FourierTranslation | None = None,
        translated: str | None = None,
        shots: Shots = ALL,
        replacement: Replacement = OWN,
        parts: Sequence[int] = (1,),
        repeat_factor: float | None = None,
        seed: int = 0,
    ) -> None:
        if translation is not None and translated is not None:
            raise ConfigError(
                f"data.translated={translated} and data/translation=fda would translate images "
                "twice; set data.translated=null or data/translation=none"
            )
        if not parts or any(not isinstance(n, int) or n < 0 for n in parts) or not sum(parts):
            raise ValueError(f"parts must be whole numbers, not all 0, got {list(parts)}")
        if repeat_factor is not None:
            require_factor(repeat_factor)
        self.sampler = sampler
        self.translation = translation
        self.translated = translated
        self.shots = shots
        self.replacement = replacement
        self.parts = sum(parts)
        self.repeat_factor = repeat_factor
        self.seed = seed
        self.focused: Focus | None = None
        """Ids of the classes to look for, the most wanted first; None: nothing is said."""
        self.restyle: Restyle | None = None
        """Shows the source in the style of the target."""
        self.is_open = False
        self._contents = Contents(0)
        self._orders: dict[Focus | None, Order] = {}

    def opened(
        self, name: str, factory: ScenesFactory, labels: LabelSpace, needs: Sequence[str]
    ) -> Scenes:
        """The scenes of a set, see :func:`sfseg.data.opening.opened`.

        Raises:
            ConfigError: the method needs generated images of the target, and none are given.
        """
        if name == FEW and "generated" in needs and self.replacement.generated is None:
            raise ConfigError(
                f"{NO_GENERATED}, or take method=daformer, which trains on the target's own"
            )
        return opened(name, factory, labels, self.translated, self.shots, self.replacement)

    def open(
        self,
        scenes: Mapping[str, Scenes],
        left_out: Mapping[str, LeftOut],
        views: Mapping[str, View],
        reads: Mapping[str, Read],
        folder: str | Path | None,
    ) -> None:
        """Look at the source, and at the target where its style is asked for.

        Args:
            scenes: sets by name, among them ``source_train``.
            left_out: of each.
            views: how training crops of each domain are drawn.
            reads: sets that are not to be decoded each time.
            folder: where counts of classes are kept.

        Raises:
            ConfigError: no image could be chosen, or a translation that changes next to nothing.
            DataError: a label cannot be read.
        """
        source, unusable = scenes["source_train"], left_out["source_train"].indices
        contents = Contents(len(source), source.labels.classes, left_out=frozenset(unusable))
        if self.sampler.counts_classes:
            counts = class_counts(source, folder, contents.left_out)
            contents = Contents(len(source), contents.classes, counts, contents.left_out)
        self._contents, self.is_open = contents, True
        self.order("source", contents.length)
        if self.translation is not None:
            sizes = sampled_sizes(source, unusable)
            self.translation.require_change(views["source"], sizes)
            name = "target_train"
            self.restyle = FourierStyle(
                self.translation,
                scenes[name],
                views["target"],
                seed=self.seed,
                read=reads.get(name),
                left_out=left_out[name].indices,
            )

    def order(self, domain: str, length: int) -> Order:
        """The sequence of a domain's training images as it is to be now.

        Args:
            domain: the source, which the sampler is for, or the target.
            length: number of its images.
        """
        if domain != "source":
            return Passes(length, seed=self.seed, purpose=domain)
        if self.focused not in self._orders:
            self._orders[self.focused] = self.sampler.order(
                self._contents, seed=self.seed, purpose=domain, focus=self.focused
            )
        return self._orders[self.focused]

    def share(self, domain: str, scenes: Mapping[str, Scenes]) -> Share | None:
        """A domain's share of the images of a step; None: each has a batch of its own.

        Args:
            domain: of a training batch.
            scenes: sets by name.
        """
        if self.repeat_factor is None:
            return None
        return Share.repeated(
            self.repeat_factor,
            source=len(scenes["source_train"]),
            target=len(scenes["target_train"]),
            is_rest=domain == "source",
        )

    def batch_images(
        self, domain: str, scenes: Mapping[str, Scenes], *, batch_size: int, processes: int
    ) -> float:
        """Expected number of a domain's images in the batches of all processes.

        Args:
            domain: of a training batch.
            scenes: sets by name.
            batch_size: images of a batch.
            processes: their number.

        Raises:
            ConfigError: some process would have none of one domain.
        """
        images, share = batch_size * processes, self.share(domain, scenes)
        return images if share is None else share.expected(images, processes)

    def focus(self, classes: Sequence[int]) -> None:
        """Prefer images of some classes from the next part of the training on.

        Args:
            classes: ids, the most wanted first, of which the sampler takes its ``k``; those that
                no image contains do not count.

        Raises:
            ConfigError: the sampler cannot do that.
        """
        if not self.sampler.follows_focus:
            raise ConfigError(
                f"{type(self.sampler).__name__} prefers no classes that a method names; choose "
                "data/sampler=soft_balance"
            )
        self.focused = tuple(int(k) for k in classes)

    def end_of_part(self, trainer: Trainer | None, start: int) -> int | None:
        """The batch before which the next part begins; None in the last one.

        Args:
            trainer: of the run; None knows of no parts.
            start: batches that are over.
        """
        if trainer is None or self.parts == 1:
            return None
        adds_up = trainer.accumulate_grad_batches
        return end_of_part(start, parts=self.parts, steps=trainer.max_steps, adds_up=adds_up)
