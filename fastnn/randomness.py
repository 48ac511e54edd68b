"""Random numbers as pure functions of (seed, purpose, place).

Nothing in fastnn carries a generator's state from one place to the next: whoever knows the seed
and the place draws the same numbers, in either engine, on any number of threads, after any stop
and resume. NumPy's Philox is counter-based, which makes this exact: the seed is its key, purpose
and place are the high words of its counter.
"""

from enum import IntEnum

import numpy as np

SEED_LIMIT = 2**64  # a seed is one word of the key


class Purpose(IntEnum):
    """What random numbers are for. Numbers drawn for two purposes never overlap."""

    INITIAL_WEIGHTS = 0
    SHUFFLE = 1


def generator(seed: int, purpose: Purpose, place: int) -> np.random.Generator:
    """Return a generator at the start of the stream that belongs to this seed, purpose and place.

    Parameters
    ----------
    seed : int
        0 to 2**64 - 1.
    purpose : Purpose
        What the numbers are for.
    place : int
        The layer's index for initial weights, the epoch's for shuffles; both from 0.
    """
    counter = np.array([0, 0, place, purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def permutation(seed: int, epoch: int, rows: int) -> np.ndarray:
    """Return the order (rows,) int64 in which the given epoch, counted from 0, visits its rows."""
    return generator(seed, Purpose.SHUFFLE, epoch).permutation(rows)
