"""All randomness of the data is a pure function of (run seed, pass, sample index, purpose).

No stream is shared between workers or carried from sample to sample, so a run is equal for
any number of workers, differs from pass to pass, and resumes from a position alone.
"""

import zlib

import numpy as np

Key = tuple[int, int, int, int]


def key(seed: int, pass_number: int, index: int, purpose: str) -> Key:
    """Four words that seed one generator; ``purpose`` keeps crops apart from colours."""
    return (seed, pass_number, index, zlib.crc32(purpose.encode()))


def generator(seed: int, pass_number: int, index: int, purpose: str) -> np.random.Generator:
    """A NumPy generator of its own for this sample, pass and purpose."""
    return np.random.default_rng(key(seed, pass_number, index, purpose))


def seed32(seed: int, pass_number: int, index: int, purpose: str) -> int:
    """One 32-bit seed of the same key, for libraries that keep a generator of their own."""
    state = np.random.SeedSequence(key(seed, pass_number, index, purpose)).generate_state(1)
    return int(state[0])
