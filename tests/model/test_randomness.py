"""Random streams: reproducible, without overlap, and with fixed values.

A checkpoint stores no generator state. If a value below changes, old checkpoints no longer resume
exactly and old results are no longer reproducible: the change log must say so.
"""

import hashlib
import math
import tracemalloc
from decimal import Context, Decimal
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kstest, norm

from fastnn.model.initializers import he_normal
from fastnn.model.layers import dense_layers
from fastnn.model.randomness import (
    SEED_LIMIT,
    Purpose,
    block_rows,
    generator,
    natural_log,
    permutation,
    standard_normal,
    window_rows,
)

LAYERS = dense_layers([784, 128, 64, 10])


def raw(seed: int, purpose: Purpose, index: int, count: int) -> list[int]:
    """Return the first words of a stream."""
    return generator(seed, purpose, index).bit_generator.random_raw(count).tolist()


# ---- streams --------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", Purpose)
def test_stream_does_not_depend_on_earlier_draws(purpose):
    generator(5, purpose, 3).standard_normal(1000)
    assert raw(5, purpose, 3, 100) == raw(5, purpose, 3, 100)


def test_streams_do_not_overlap():
    # All combinations, so that exchanging purpose and index is found. Two of 9,600 words of 64 bits
    # are the same by chance with a probability of 9600² / 2⁶⁵ < 1e-11.
    keys = [(seed, purpose, index) for seed in (0, 1, 2) for purpose in Purpose for index in (0, 1)]
    words = {key: set(raw(*key, 800)) for key in keys}
    for one, other in combinations(keys, 2):
        assert words[one].isdisjoint(words[other]), (one, other)


@pytest.mark.parametrize(("purpose", "index"), [(Purpose.SHUFFLE, 7), (Purpose.INITIAL_WEIGHTS, 2)])
def test_drawing_changes_only_the_low_words_of_the_counter(purpose, index):
    # Streams with different high words never overlap.
    stream = generator(1, purpose, index)
    stream.permutation(100_000)
    stream.standard_normal(100_000, dtype=np.float32)
    counter = stream.bit_generator.state["state"]["counter"].tolist()
    assert counter[0] > 0
    assert counter[1:] == [0, index, int(purpose)]


def test_numbers_of_purposes():
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "INITIAL_WEIGHTS": 0,
        "SHUFFLE": 1,
    }


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ((0, Purpose.INITIAL_WEIGHTS, 0), [0x02F4BA6408E4D89B, 0x3DD62B0B9CA8C5B2]),
        ((0, Purpose.SHUFFLE, 0), [0x57994A7DB8F816C6, 0x93967384228B3028]),
        ((0, Purpose.SHUFFLE, 1), [0x73F20F23694FF64A, 0xB0D63C3CFF1F89C9]),
        ((7, Purpose.INITIAL_WEIGHTS, 1), [0x1A52389B25876B0C, 0x9673C1ACF8BF8D93]),
    ],
)
def test_words_of_fixed_seeds(key, words):
    assert raw(*key, 2) == words


# ---- shuffles -------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 10, 511, 60_000])
def test_shuffle_contains_each_row_once(rows):
    order = permutation(3, 2, rows)
    assert order.dtype == np.int64 and order.shape == (rows,)
    np.testing.assert_array_equal(np.sort(order), np.arange(rows))


def test_shuffle_depends_on_seed_and_epoch_alone():
    first = permutation(3, 2, 1000)
    permutation(3, 3, 1000)
    np.testing.assert_array_equal(permutation(3, 2, 1000), first)


def test_shuffles_of_different_epochs_and_seeds_differ():
    # The number of positions in which two independent permutations agree has a Poisson distribution
    # with mean 1. It exceeds 20 with a probability of about 1 / 21!.
    orders = [permutation(seed, epoch, 1000) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    orders.append(np.arange(1000))
    for one, other in combinations(orders, 2):
        assert np.sum(one == other) <= 20


def test_largest_seed():
    assert permutation(SEED_LIMIT - 1, 0, 100).tolist() != permutation(0, 0, 100).tolist()


@pytest.mark.parametrize(
    ("seed", "epoch", "order"),
    [
        (0, 0, [3, 2, 9, 7, 1, 5, 0, 4, 8, 6]),
        (0, 1, [6, 8, 5, 1, 0, 9, 2, 4, 7, 3]),
        (1, 0, [5, 4, 1, 6, 0, 3, 9, 2, 8, 7]),
        (2**64 - 1, 3, [2, 6, 5, 4, 9, 0, 1, 7, 3, 8]),
    ],
)
def test_shuffles_of_fixed_seeds(seed, epoch, order):
    assert permutation(seed, epoch, 10).tolist() == order


def test_shuffle_of_mnist():
    order = permutation(0, 0, 60_000).astype("<i8").tobytes()
    assert hashlib.sha256(order).hexdigest().startswith("1413c7a834fb656b")


# ---- shuffles by blocks ---------------------------------------------------------------------

LARGE = 1_400_001, 784  # rows and their bytes: 1.02 GiB


@pytest.fixture(scope="module")
def large():
    return permutation(3, 2, *LARGE)


@pytest.mark.parametrize("row_bytes", [0, 1, 784, 2**20])
def test_up_to_1_gib_is_shuffled_at_once(row_bytes):
    rows = min(300_000, 2**30 // max(1, row_bytes))
    expected = generator(3, Purpose.SHUFFLE, 2).permutation(rows)
    np.testing.assert_array_equal(permutation(3, 2, rows, row_bytes), expected)


def test_more_than_1_gib_is_shuffled_by_blocks():
    assert permutation(0, 0, 2**10, 2**20).tolist() != permutation(0, 0, 2**10, 2**20 + 1).tolist()


@pytest.mark.parametrize(
    ("rows", "row_bytes"), [LARGE, (1025, 2**20), (3, 2**30), (1_100_000, 1000), (1, 2**40)]
)
def test_shuffle_by_blocks_contains_each_row_once(rows, row_bytes):
    order = permutation(3, 2, rows, row_bytes)
    assert order.dtype == np.int64 and order.flags.c_contiguous
    np.testing.assert_array_equal(np.sort(order), np.arange(rows))


def test_window_contains_whole_blocks_in_random_order(large):
    rows, row_bytes = LARGE
    block, window = block_rows(row_bytes), window_rows(*LARGE)
    assert 2**20 - row_bytes < block * row_bytes <= 2**20
    counts, neighbours = [], 0
    for start in range(0, rows, window):
        part = large[start : start + window]
        assert 0.9 * 2**26 < len(part) * row_bytes <= 2**26 + row_bytes
        blocks, sizes = np.unique(part // block, return_counts=True)
        # All blocks are complete except the two at its ends and the last of the data.
        assert np.sum(sizes < block) <= 3
        counts.append(len(blocks))
        neighbours += np.sum(np.diff(blocks) == 1)
        assert abs(np.corrcoef(part, np.arange(len(part)))[0, 1]) < 5 / math.sqrt(len(part))
    assert max(counts) <= 2**26 // (block * row_bytes) + 3
    # Of 66 random blocks of 1,048, the next one is there too with a probability of 1/16.
    assert neighbours / sum(counts) < 0.1


def test_shuffle_by_blocks_depends_on_its_arguments_alone(large):
    np.testing.assert_array_equal(permutation(3, 2, *LARGE), large)
    for other in (permutation(3, 3, *LARGE), permutation(4, 2, *LARGE)):
        assert np.sum(large == other) < 100  # 1 on average by chance


def test_shuffle_needs_little_memory_besides_its_result():
    tracemalloc.start()
    try:
        order = permutation(3, 2, *LARGE)
        assert tracemalloc.get_traced_memory()[1] < 1.05 * order.nbytes
    finally:
        tracemalloc.stop()


def test_shuffle_by_blocks_of_a_fixed_seed(large):
    digest = hashlib.sha256(large.astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("7d366b2a28aee836")


# ---- normal numbers -------------------------------------------------------------------------


def normals(count: int, seed: int = 0) -> np.ndarray:
    return standard_normal(generator(seed, Purpose.INITIAL_WEIGHTS, 0), (count,))


def exact_normals(words: list[int]) -> list[float]:
    """Compute the polar method for words of 64 bits with 40 decimal digits."""
    exact, numbers = Context(prec=40), []
    for word in words:
        halves = word & 0xFFFFFFFF, word >> 32
        signed = [half - 2**32 if half >= 2**31 else half for half in halves]
        u, v = (exact.divide(2 * half + 1, 2**32) for half in signed)
        s = exact.fma(u, u, exact.multiply(v, v))
        if s < 1:
            factor = exact.sqrt(exact.divide(exact.multiply(-2, exact.ln(s)), s))
            numbers += [float(exact.multiply(u, factor)), float(exact.multiply(v, factor))]
    return numbers


@pytest.mark.parametrize("seed", [0, 7])
def test_normal_numbers_agree_with_exact_arithmetic(seed):
    expected = np.float32(exact_normals(raw(seed, Purpose.INITIAL_WEIGHTS, 0, 500)))
    assert len(expected) > 700
    np.testing.assert_array_equal(normals(len(expected), seed), expected)


def test_fewer_normal_numbers_are_the_first_of_more():
    many = normals(20_000)
    for count in (0, 1, 2, 3, 63, 6433, 6434, 6435, 19_999):
        np.testing.assert_array_equal(normals(count), many[:count])


def test_normal_numbers_have_the_normal_distribution():
    z = normals(200_000).astype(np.float64)
    for values in (z, z[::2], z[1::2]):
        assert kstest(values, "norm").pvalue > 0.01
    # The sum and the difference of a pair are independent normal numbers with variance 2.
    for values in (z[::2] + z[1::2], z[::2] - z[1::2]):
        assert kstest(values / math.sqrt(2), "norm").pvalue > 0.01
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(z**power) - mean) <= 4 * math.sqrt(variance / z.size), power
    for limit in (2, 3, 4):
        for tail in (z > limit, z < -limit):
            expected = norm.sf(limit) * z.size
            assert abs(tail.sum() - expected) <= 4 * math.sqrt(expected), limit


def test_natural_log_is_accurate():
    random = np.random.default_rng(0)
    near_one = 1 - random.random(2000) * 2.0 ** -random.integers(0, 52, 2000)
    powers = 2.0 ** -np.arange(1, 64)
    boundary = math.sqrt(0.5) * (1 + np.arange(-20, 21) * 2.0**-53)
    x = np.concatenate([random.random(2000), near_one, powers, np.nextafter(powers, 0), boundary])
    x = x[x < 1]
    for value, log in zip(x.tolist(), natural_log(x).tolist(), strict=True):
        assert abs(Decimal(log) / Decimal(value).ln() - 1) < Decimal("1e-15"), value


# ---- initial weights ------------------------------------------------------------------------


def test_he_normal_returns_float32_weights_and_zero_biases():
    parameters = he_normal(LAYERS, 0)
    assert len(parameters) == len(LAYERS)
    for layer, (w, b) in zip(LAYERS, parameters, strict=True):
        assert w.shape == (layer.inputs, layer.outputs) and w.dtype == np.float32
        assert b.shape == (layer.outputs,) and b.dtype == np.float32
        assert not b.any()


def test_he_normal_depends_on_the_seed_alone():
    for (w, _), (again, _) in zip(he_normal(LAYERS, 9), he_normal(LAYERS, 9), strict=True):
        np.testing.assert_array_equal(w, again)
    for (w, _), (other, _) in zip(he_normal(LAYERS, 9), he_normal(LAYERS, 10), strict=True):
        assert not np.any(w == other)


@pytest.mark.parametrize(("inputs", "outputs"), [(784, 128), (2, 5000), (3, 4000)])
def test_he_normal_has_the_moments_of_its_distribution(inputs, outputs):
    # For n independent z from N(0, 1), the means of z, z² and z⁴ have the variances 1/n, 2/n and
    # 96/n. The fourth moment, 3, would be 1.8 for a uniform distribution of the same variance.
    ((w, _),) = he_normal(dense_layers([inputs, outputs]), 0)
    z = w.astype(np.float64) / math.sqrt(2 / inputs)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        assert abs(np.mean(z**power) - mean) <= 5 * math.sqrt(variance / z.size), power


def test_layers_of_the_same_shape_have_different_weights():
    (first, _), (second, _), _ = he_normal(dense_layers([20, 20, 20, 2]), 0)
    assert not np.any(first == second)


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        (0, ["0x1.3d6cb20000000p-3", "0x1.a5fe960000000p-5", "-0x1.a4e5380000000p-6"]),
        (1, ["-0x1.46ec5e0000000p-5", "-0x1.7a22fc0000000p-5", "-0x1.2c3b500000000p-4"]),
        (2, ["-0x1.b89e5c0000000p-2", "-0x1.53c9e20000000p-3", "-0x1.4197400000000p-9"]),
    ],
)
def test_weights_of_a_fixed_seed(layer, weights):
    w, _ = he_normal(LAYERS, 0)[layer]
    assert [float(value).hex() for value in w[0, :3]] == weights
