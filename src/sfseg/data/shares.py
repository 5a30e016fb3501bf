"""How many images of a step are of which domain, where they are not as many of both."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from sfseg.checks import require_positive
from sfseg.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """The place of one domain in steps whose images are of two: the target's, or the rest.

    Of all steps together the target has exactly its share, of each that number rounded down or up.
    Every process has as many images in each step.

    Args:
        target: share of the images that are of the target, in (0, 1).
        is_rest: whether this is the other domain.
    """

    target: Fraction
    is_rest: bool

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
        require_positive(repeat_factor=factor)
        shown = Fraction(factor).limit_denominator(10**6) * target
        return cls(shown / (source + shown), is_rest)

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
        if math.floor(target) < processes or images - math.ceil(target) < processes:
            raise ConfigError(
                f"method.plan.repeat_factor makes {float(target):.3g} of the {images} images of a "
                f"step generated, but each process, of {processes}, needs one of both kinds; "
                "change it, or raise data.adaptation.batch_size"
            )
        return float(images - target if self.is_rest else target)
