"""Random numbers as pure functions of (seed, purpose, place).

Nothing in fastnn carries a generator's state from one place to the next: whoever knows the seed
and the place draws the same numbers, in either engine, on any number of threads, after any stop
and resume. NumPy's Philox is counter-based, which makes this exact: the seed is its key, purpose
and place are the high words of its counter. Dropout, whose masks the compiled kernels draw as
well, has the smaller Philox-4x32-10 below.
"""

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np

SEED_LIMIT = 2**64  # a seed is one word of the key

# How rows are shuffled, which is a promise like the streams themselves: see `permutation`.
WHOLE_BYTES, BLOCK_BYTES, WINDOW_BYTES = 2**30, 2**20, 2**26


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


def permutation(seed: int, epoch: int, rows: int, row_bytes: int = 0) -> np.ndarray:
    """Return the order in which an epoch visits its rows.

    Rows that take up to 1 GiB in all are shuffled as one. More of them are cut into blocks of
    neighbours, of about 1 MiB; the blocks are laid one behind the other in random order; and what
    lies there then is shuffled window by window, each of about 64 MiB. So a window needs few
    places of a file, and yet has rows from all over it: with data sorted by class, windows of 64
    blocks trained as well as one shuffle of all, windows of 16 did not. Nothing but the arguments
    decides: rows have the same order in memory and in a file.

    Parameters
    ----------
    seed : int
        0 to 2**64 - 1.
    epoch : int
        Counted from 0.
    rows : int
    row_bytes : int, default 0
        What a row of features takes; by default so little that all are shuffled as one.

    Returns
    -------
    ndarray (rows,) int64
    """
    random = generator(seed, Purpose.SHUFFLE, epoch)
    if rows * row_bytes <= WHOLE_BYTES:
        return random.permutation(rows)
    block, window = block_rows(row_bytes), window_rows(rows, row_bytes)
    order, end = np.empty(rows, np.int64), 0
    for number in random.permutation(-(-rows // block)):
        neighbours = np.arange(number * block, min(rows, (number + 1) * block))
        order[end : end + len(neighbours)] = neighbours
        end += len(neighbours)
    for start in range(0, rows, window):
        random.shuffle(order[start : start + window])
    return order


def block_rows(row_bytes: int) -> int:
    """Return how many rows make a block: those of about 1 MiB, and at least one."""
    return max(1, BLOCK_BYTES // max(1, row_bytes))


def window_rows(rows: int, row_bytes: int) -> int:
    """Return how many rows make a window: up to 64 MiB, cut so that the last is not a short one."""
    return -(-rows // max(1, -(-rows * row_bytes // WINDOW_BYTES)))


# ---- normal numbers --------------------------------------------------------------------------

_PAIRS = 4096  # computed at a time: their arrays stay in the cache
_LN_2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476


def standard_normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from the normal distribution with mean 0 and variance 1.

    Each word of the stream gives a point of the square (-1, 1) x (-1, 1), with 32 bits for each
    coordinate. A point (u, v) with s = u² + v² < 1 gives the two numbers u·f and v·f with
    f = √(-2 ln s / s); other points are rejected.

    NumPy's own normal numbers are not used, because some of them are computed by the C library's
    `log1pf` and `expf`, which differ between platforms, and because NumPy may change its method
    (NEP 19). The operations here (+, -, ·, /, √) are correctly rounded everywhere.

    Returns
    -------
    ndarray (shape), float32
        In the order of the stream: fewer numbers are the first of more.

    References
    ----------
    Marsaglia and Bray 1964, "A convenient method for generating normal variables".
    """
    values = np.empty(math.prod(shape), np.float32)
    filled = 0
    while filled < len(values):
        missing = len(values) - filled
        words = random.bit_generator.random_raw(min(_PAIRS, missing))
        points = (words.astype("<u8").view("<i4") + 0.5) * 2.0**-31
        u, v = points[::2], points[1::2]
        s = u * u + v * v
        inside = s < 1
        s = s[inside]
        factor = np.sqrt(-2 * natural_log(s) / s)
        drawn = (points.reshape(-1, 2)[inside] * factor[:, None]).ravel()[:missing]
        values[filled : filled + len(drawn)] = drawn
        filled += len(drawn)
    return values.reshape(shape)


def natural_log(x: np.ndarray) -> np.ndarray:
    """Return ln x with a relative error below 1e-15, the same bits on every platform.

    With x = m · 2ᵉ, √½ ≤ m < √2 and t = (m - 1) / (m + 1), ln x = e · ln 2 + 2 · artanh t. The
    first 11 terms of artanh's series suffice, because t² < 0.0295.

    Parameters
    ----------
    x : ndarray, float64
        Positive, finite.
    """
    m, e = np.frexp(x)  # m from 1/2 to below 1
    low = m < _SQRT_HALF
    m[low] *= 2
    t = (m - 1) / (m + 1)
    square = t * t
    series = np.full_like(t, 1 / 21)
    for divisor in range(19, 0, -2):
        series *= square
        series += 1 / divisor
    return (e - low) * _LN_2 + 2 * t * series


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
