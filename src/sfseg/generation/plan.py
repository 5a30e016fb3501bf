"""Which images a set has, and which of them a process makes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sfseg.errors import ConfigError
from sfseg.generation.settings import require_whole

WHOLE = (0, 1)
"""Of one share in all, the first."""


@dataclass(frozen=True)
class Plan:
    """The images of a set; what image j shows follows from j alone.

    Images come in batches of consecutive numbers, which depend neither on what is there already nor
    on how many processes share them. So a resumed or a shared set has the bits of one that was made
    in one go: the arithmetic of a batch may round an image otherwise than that of another batch.

    Args:
        prompts: image j has prompt j modulo their number.
        n_images: of the whole set.
        seed: image j starts from noise of seed + j.
        batch_size: images that are made at once.
        shard: which share this process makes, and how many there are.

    Raises:
        ConfigError: a number that cannot be.
    """

    prompts: Sequence[str]
    n_images: int
    seed: int = 0
    batch_size: int = 1
    shard: tuple[int, int] = WHOLE

    def __post_init__(self) -> None:
        require_whole("n_images", self.n_images)
        require_whole("batch_size", self.batch_size)
        require_whole("seed", self.seed, least=0)
        if self.seed >= 2**63 - self.n_images:
            raise ConfigError(f"seed must be below 2^63 - n_images, got {self.seed}")
        index, shares = self.shard
        if not 0 <= index < shares:
            raise ConfigError(
                f"shard={index}/{shares} must be <share>/<number of shares>, the first being "
                f"0/{max(shares, 1)}"
            )

    def prompt(self, number: int) -> str:
        """Of an image."""
        return self.prompts[number % len(self.prompts)]

    def name(self, number: int) -> str:
        """File of an image, as in the releases of DATUM and CLOUDS."""
        return f"im_{number}_p{number % len(self.prompts)}.png"

    def batches(self) -> Iterator[range]:
        """Numbers of the images of each batch of this process's share."""
        index, shares = self.shard
        step = self.batch_size
        for start in range(index * step, self.n_images, shares * step):
            yield range(start, min(start + step, self.n_images))


def shard_of(setting: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Which share of a set a process makes.

    Args:
        setting: such as ``0/2``, the first of two; None takes what torchrun and its like set.
        environment: variables, of which ``RANK`` and ``WORLD_SIZE`` are read.

    Raises:
        ConfigError: no such pair of whole numbers.
    """
    given = setting
    if given is None:
        given = f"{environment.get('RANK', 0)}/{environment.get('WORLD_SIZE', 1)}"
    index, _, shares = str(given).partition("/")
    if not (index.isdecimal() and shares.isdecimal()):
        raise ConfigError(
            f"shard={given} must be <share>/<number of shares>, such as shard=0/2 and shard=1/2 "
            "for two processes"
        )
    return int(index), int(shares)
