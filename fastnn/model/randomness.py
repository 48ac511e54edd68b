"""Random numbers that depend only on the seed, the purpose, and the layer, epoch or row.

There is no generator state to store. So both engines draw the same numbers, on any number of
threads, even after a fit was stopped and resumed. NumPy's Philox is a counter-based generator: the
seed is its key, and purpose and index are the high words of its counter. Dropout masks, which the
compiled kernels draw too, use the smaller generator Philox-4x32-10.
"""

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np

SEED_LIMIT = 2**64  # a seed is one 64-bit word of the key

# Sizes in `permutation`. The order of rows depends on them: they must not change.
WHOLE_BYTES, BLOCK_BYTES, WINDOW_BYTES = 2**30, 2**20, 2**26


class Purpose(IntEnum):
    """The use of a stream of random numbers. Streams of two purposes do not overlap."""

    INITIAL_WEIGHTS = 0
    SHUFFLE = 1


def generator(seed: int, purpose: Purpose, index: int) -> np.random.Generator:
    """Return a generator at the start of the stream of a seed, purpose and index.

    Parameters
    ----------
    seed : int
        0 to 2**64 - 1.
    purpose : Purpose
    index : int
        Number of the layer for initial weights, of the epoch for shuffles; both from 0.
    """
    counter = np.array([0, 0, index, purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def permutation(seed: int, epoch: int, rows: int, row_bytes: int = 0) -> np.ndarray:
    """Return the shuffled order of an epoch's rows.

    Up to 1 GiB of features is shuffled at once. Larger data are divided into blocks of about 1 MiB
    of consecutive rows. The blocks are put in random order, and then the rows are shuffled within
    windows of about 64 MiB. So a window is read in few large pieces, and yet has rows from the
    entire file. On data sorted by class, windows of 64 blocks trained as well as a full shuffle;
    windows of 16 blocks did not. The order is the same for rows in memory and in a file.

    Parameters
    ----------
    seed : int
        0 to 2**64 - 1.
    epoch : int
        Number of the epoch, from 0.
    rows : int
    row_bytes : int, default 0
        Size of a row of features in bytes; 0 shuffles all rows at once.

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
    """Return the number of rows in a block of about 1 MiB, at least 1."""
    return max(1, BLOCK_BYTES // max(1, row_bytes))


def window_rows(rows: int, row_bytes: int) -> int:
    """Return the number of rows in a window of up to 64 MiB; all windows are about equal."""
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
        In the order of the stream: n numbers are the first n of any longer array.

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
    """Return ln x with a relative error below 1e-15, bit-identical on every platform.

    With x = m · 2ᵉ, √½ ≤ m < √2 and t = (m - 1) / (m + 1), ln x = e · ln 2 + 2 · artanh t. The
    first 11 terms of artanh's series suffice, because t² < 0.0295.

    Parameters
    ----------
    x : ndarray, float64
        Positive, finite.
    """
    m, e = np.frexp(x)  # 1/2 ≤ m < 1
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

# Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") maps a counter
# of four 32-bit words and a key of two words to four random words.
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
WORD = 0xFFFFFFFF

LEVELS = 1 << 16  # values of the 16-bit number that is drawn for each input
GROUP = 8  # 16-bit numbers per counter, and counters per block
BLOCK = GROUP * GROUP  # columns per block


def philox(counter: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Return the four random words of each counter, 32 bits in uint64; the key is the seed."""
    x0, x1, x2, x3 = counter
    word, half = np.uint64(WORD), np.uint64(32)
    for number in range(ROUNDS):
        key = [((seed >> 32 * i) + number * KEY_STEPS[i]) & WORD for i in range(2)]
        first, second = x0 * np.uint64(MULTIPLIERS[0]), x2 * np.uint64(MULTIPLIERS[1])
        x0, x1 = (second >> half) ^ x1 ^ np.uint64(key[0]), second & word
        x2, x3 = (first >> half) ^ x3 ^ np.uint64(key[1]), first & word
    return [x0, x1, x2, x3]


def keep_level(dropout: float) -> int:
    """Return the threshold: dropout keeps an input if its 16-bit random number is below it."""
    return max(1, round((1 - dropout) * LEVELS))


def keep_mask(
    seed: int, epoch: int, layer: int, positions: np.ndarray, width: int, dropout: float
) -> np.ndarray:
    """Return a mask of the inputs of a layer that dropout keeps, (rows, width) bool.

    The counter is (c, position of the sample in the epoch, epoch, layer). Its four words are eight
    16-bit numbers: number h of counter c = 8 · block + i decides column 64 · block + 8 · h + i.

    Parameters
    ----------
    positions : ndarray (rows,) int64
        Positions of the samples in the epoch's order.
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
    """Return the factor of kept inputs, which leaves their mean unchanged."""
    return np.float32(LEVELS / keep_level(dropout))
