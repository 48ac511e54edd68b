"""Random numbers as pure functions of (seed, purpose, place).

Nothing in fastnn carries a generator's state from one place to the next: whoever knows the seed
and the place draws the same numbers, in either engine, on any number of threads, after any stop
and resume. NumPy's Philox is counter-based, which makes this exact: the seed is its key, purpose
and place are the high words of its counter. Dropout, whose masks the compiled kernels draw as
well, has the smaller Philox-4x32-10 below.
"""

from collections.abc import Sequence
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


# ---- dropout --------------------------------------------------------------------------------

# Philox-4x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): from a counter
# of four 32-bit words and a key of two to four words as good as random.
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
WORD = 0xFFFFFFFF

LEVELS = 1 << 16  # of a number that decides whether something is kept: half a word
GROUP = 8  # numbers of a counter, and counters side by side
BLOCK = GROUP * GROUP  # columns that those decide on


def philox(counter: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Return the four words of each counter, whose key is the seed; uint64 that hold 32 bits."""
    x0, x1, x2, x3 = counter
    word, half = np.uint64(WORD), np.uint64(32)
    for turn in range(ROUNDS):
        key = [((seed >> 32 * i) + turn * KEY_STEPS[i]) & WORD for i in range(2)]
        first, second = x0 * np.uint64(MULTIPLIERS[0]), x2 * np.uint64(MULTIPLIERS[1])
        x0, x1 = (second >> half) ^ x1 ^ np.uint64(key[0]), second & word
        x2, x3 = (first >> half) ^ x3 ^ np.uint64(key[1]), first & word
    return [x0, x1, x2, x3]


def keep_level(dropout: float) -> int:
    """Return below what a number, of `LEVELS`, must be for its place to be kept."""
    return max(1, round((1 - dropout) * LEVELS))


def keep_mask(
    seed: int, epoch: int, layer: int, positions: np.ndarray, width: int, dropout: float
) -> np.ndarray:
    """Return which inputs of a layer are kept, (rows, width) bool, a row a position.

    The counter is (group of columns, position of the sample in the epoch, epoch, layer). A word
    is two numbers of 16 bits, so that a counter has eight, and eight counters decide on a block
    of 64 columns: number h of counter 8 · block + i on column 64 · block + 8 · h + i.

    Parameters
    ----------
    positions : ndarray (rows,) int64
        Of the samples in the epoch's order.
    """
    blocks = -(-width // BLOCK)
    counters = np.arange(blocks * GROUP, dtype=np.uint64)
    shape = len(positions), len(counters)
    columns = np.broadcast_to(counters, shape)
    rows = np.broadcast_to(positions.astype(np.uint64)[:, None] & np.uint64(WORD), shape)
    words = philox(
        [columns, rows, np.full(shape, epoch, np.uint64), np.full(shape, layer, np.uint64)], seed
    )
    numbers = np.stack([half for word in words for half in (word & 0xFFFF, word >> 16)], axis=1)
    # (rows, 8 numbers, blocks · 8 counters) to (rows, blocks, 8 numbers, 8 counters): columns
    numbers = numbers.reshape(len(positions), 8, blocks, GROUP).swapaxes(1, 2)
    return numbers.reshape(len(positions), blocks * BLOCK)[:, :width] < keep_level(dropout)


def keep_factor(dropout: float) -> np.float32:
    """Return the factor of what is kept, by which the mean stays what it was."""
    return np.float32(LEVELS / keep_level(dropout))
