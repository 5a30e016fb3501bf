"""How many images of a step are of which domain, where they are not as many of both."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from sfseg.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """The place of one domain in steps whose images are of two: the target's, or the rest.

    Of all steps together the target has exactly its share, of each that number rounded down or up.
    Every process has as many images in each step.

    Args:
        target: share of the images that are of the target, in (0, 1).
        is_rest: whether this is the other domain.
        of_one: share of the target's images if each came once where one of the source does.
    """

    target: Fraction
    is_rest: bool
    of_one: Fraction = Fraction(1, 2)

    @classmethod
    def repeated(cls, factor: float, *, source: int, target: int, is_rest: bool) -> Self:
        """The share that images of the target have, if each comes ``factor`` times in every pass.

        Args:
            factor: the expected number, for one of each image of the source.
            source: number of images of the source.
            target: the same of the target.
            is_rest: see above.

        Raises:
            ValueError: a factor that is not positive.
        """
        require_factor(factor)
        shown = Fraction(factor).limit_denominator(10**6) * target
        return cls(shown / (source + shown), is_rest, Fraction(target, source + target))

    def positions(self, number: int, *, batch_size: int, rank: int, world_size: int) -> range:
        """Where a process's images of a step lie in the endless sequence of the domain.

        Args:
            number: of the step's batch, from 0.
            batch_size: images of both domains on each process.
            rank: of the process.
            world_size: number of processes.
        """
        images = batch_size * world_size
        begin, end = (math.floor(images * step * self.target) for step in (number, number + 1))
        first, last = ((end - begin) * part // world_size for part in (rank, rank + 1))
        if not self.is_rest:
            return range(begin + first, begin + last)
        start = images * number - begin + batch_size * rank - first
        return range(start, start + batch_size - (last - first))

    def expected(self, images: int, processes: int) -> float:
        """Images of this domain in a step, on average.

        Args:
            images: of both domains, of all processes.
            processes: their number.

        Raises:
            ConfigError: a process would have no image of one of the domains in some step.
        """
        target = images * self.target
        if images < 2 * processes:
            raise ConfigError(
                "data.adaptation.batch_size must be at least 2 for method.plan.repeat_factor, "
                f"since each process needs one of both kinds, got {images // processes}; raise it, "
                "or set method.plan.repeat_factor=null"
            )
        if math.floor(target) < processes or images - math.ceil(target) < processes:
            once = self.of_one / (1 - self.of_one)
            least, most = (odds / once for odds in self._odds(images, processes))
            raise ConfigError(
                f"method.plan.repeat_factor makes {float(target):.3g} of the {images} images of a "
                f"step generated, but each of {processes} processes needs one of both kinds: set "
                f"it to {math.ceil(100 * least) / 100:g} up to {math.floor(100 * most) / 100:g}, "
                "raise data.adaptation.batch_size, or set method.plan.repeat_factor=null for as "
                "many of both"
            )
        return float(images - target if self.is_rest else target)

    def _odds(self, images: int, processes: int) -> tuple[Fraction, Fraction]:
        """Least and most images of the target for one of the source."""
        least = Fraction(processes, images - processes)
        return least, 1 / least


def require_factor(factor: float) -> None:
    """Refuse what is no positive number.

    Raises:
        ValueError: names the setting.
    """
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not is_number or not 0 < factor < math.inf:
        raise ValueError(f"method.plan.repeat_factor must be a positive number, got {factor!r}")
