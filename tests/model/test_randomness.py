"""Random streams and what is drawn from them: pure, disjoint, and pinned.

A checkpoint stores no generator state, so these streams are a promise: the golden values below
change only together with a word to the users, whose runs would no longer repeat.
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


def raw(seed: int, purpose: Purpose, place: int, count: int) -> list[int]:
    """Return the first words of a stream."""
    return generator(seed, purpose, place).bit_generator.random_raw(count).tolist()


# ---- streams --------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", Purpose)
def test_a_stream_is_a_pure_function(purpose):
    generator(5, purpose, 3).standard_normal(1000)  # of which the next one knows nothing
    assert raw(5, purpose, 3, 100) == raw(5, purpose, 3, 100)


def test_streams_of_other_seeds_purposes_and_places_share_nothing():
    # Places and purposes are crossed, so that swapping the two would show. Among the 9,600 words
    # of 64 bits, two are the same by chance with a probability of 9600² / 2⁶⁵ < 1e-11.
    keys = [(seed, purpose, place) for seed in (0, 1, 2) for purpose in Purpose for place in (0, 1)]
    words = {key: set(raw(*key, 800)) for key in keys}
    for one, other in combinations(keys, 2):
        assert words[one].isdisjoint(words[other]), (one, other)


@pytest.mark.parametrize(("purpose", "place"), [(Purpose.SHUFFLE, 7), (Purpose.INITIAL_WEIGHTS, 2)])
def test_a_stream_keeps_its_purpose_and_place_however_much_is_drawn(purpose, place):
    # Drawing advances the two low words of the counter; streams can meet only where the high
    # ones are the same.
    stream = generator(1, purpose, place)
    stream.permutation(100_000)
    stream.standard_normal(100_000, dtype=np.float32)
    counter = stream.bit_generator.state["state"]["counter"].tolist()
    assert counter[0] > 0
    assert counter[1:] == [0, place, int(purpose)]


def test_purposes_keep_their_numbers():
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
def test_golden_words(key, words):
    assert raw(*key, 2) == words


# ---- shuffles -------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 10, 511, 60_000])
def test_every_row_once(rows):
    order = permutation(3, 2, rows)
    assert order.dtype == np.int64 and order.shape == (rows,)
    np.testing.assert_array_equal(np.sort(order), np.arange(rows))


def test_a_shuffle_is_a_pure_function_of_seed_and_epoch():
    first = permutation(3, 2, 1000)
    permutation(3, 3, 1000)
    np.testing.assert_array_equal(permutation(3, 2, 1000), first)


def test_epochs_and_seeds_shuffle_differently():
    # Two independent permutations agree in 1 place on average, and in more than 20 of them with
    # a probability of about 1 / 21! (the number of fixed points is Poisson's with mean 1).
    orders = [permutation(seed, epoch, 1000) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    orders.append(np.arange(1000))
    for one, other in combinations(orders, 2):
        assert np.sum(one == other) <= 20


def test_the_largest_seed_has_its_own_stream():
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
def test_golden_shuffles(seed, epoch, order):
    assert permutation(seed, epoch, 10).tolist() == order


def test_the_golden_shuffle_of_mnist():
    order = permutation(0, 0, 60_000).astype("<i8").tobytes()
    assert hashlib.sha256(order).hexdigest().startswith("1413c7a834fb656b")


# ---- shuffles of more than fits in memory ---------------------------------------------------

LARGE = 1_400_001, 784  # rows and their bytes: 1.02 GiB


@pytest.fixture(scope="module")
def large():
    return permutation(3, 2, *LARGE)


@pytest.mark.parametrize("row_bytes", [0, 1, 784, 2**20])
def test_up_to_a_gibibyte_is_shuffled_as_one(row_bytes):
    rows = min(300_000, 2**30 // max(1, row_bytes))
    expected = generator(3, Purpose.SHUFFLE, 2).permutation(rows)
    np.testing.assert_array_equal(permutation(3, 2, rows, row_bytes), expected)


def test_what_is_larger_is_shuffled_by_blocks():
    assert permutation(0, 0, 2**10, 2**20).tolist() != permutation(0, 0, 2**10, 2**20 + 1).tolist()


@pytest.mark.parametrize(
    ("rows", "row_bytes"), [LARGE, (1025, 2**20), (3, 2**30), (1_100_000, 1000), (1, 2**40)]
)
def test_every_row_once_by_blocks_too(rows, row_bytes):
    order = permutation(3, 2, rows, row_bytes)
    assert order.dtype == np.int64 and order.flags.c_contiguous
    np.testing.assert_array_equal(np.sort(order), np.arange(rows))


def test_a_window_visits_the_rows_of_its_blocks(large):
    rows, row_bytes = LARGE
    block, window = block_rows(row_bytes), window_rows(*LARGE)
    assert 2**20 - row_bytes < block * row_bytes <= 2**20
    counts, neighbours = [], 0
    for start in range(0, rows, window):
        part = large[start : start + window]
        assert 0.9 * 2**26 < len(part) * row_bytes <= 2**26 + row_bytes
        blocks, held = np.unique(part // block, return_counts=True)
        # All of its blocks are whole but for the two where it is cut, and the data's last.
        assert np.sum(held < block) <= 3
        counts.append(len(blocks))
        neighbours += np.sum(np.diff(blocks) == 1)
        assert abs(np.corrcoef(part, np.arange(len(part)))[0, 1]) < 5 / math.sqrt(len(part))
    assert max(counts) <= 2**26 // (block * row_bytes) + 3
    # The blocks are from anywhere: of 66 in 1,048, the next is there too with a chance of 1 in 16.
    assert neighbours / sum(counts) < 0.1


def test_a_shuffle_by_blocks_is_a_pure_function_of_what_it_is_given(large):
    np.testing.assert_array_equal(permutation(3, 2, *LARGE), large)
    for other in (permutation(3, 3, *LARGE), permutation(4, 2, *LARGE)):
        assert np.sum(large == other) < 100  # 1 by chance, on average


def test_a_shuffle_takes_the_memory_of_its_result_and_little_more():
    tracemalloc.start()
    try:
        order = permutation(3, 2, *LARGE)
        assert tracemalloc.get_traced_memory()[1] < 1.05 * order.nbytes
    finally:
        tracemalloc.stop()


def test_the_golden_shuffle_by_blocks(large):
    digest = hashlib.sha256(large.astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("7d366b2a28aee836")


# ---- normal numbers -------------------------------------------------------------------------


def normals(count: int, seed: int = 0) -> np.ndarray:
    return standard_normal(generator(seed, Purpose.INITIAL_WEIGHTS, 0), (count,))


def exact_normals(words: list[int]) -> list[float]:
    """Compute the polar method on words of 64 bits with 40 decimal digits."""
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
def test_normal_numbers_are_those_of_exact_arithmetic(seed):
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
    # Of each pair, the sum and the difference are independent normal numbers of variance 2.
    for values in (z[::2] + z[1::2], z[::2] - z[1::2]):
        assert kstest(values / math.sqrt(2), "norm").pvalue > 0.01
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(z**power) - mean) <= 4 * math.sqrt(variance / z.size), power
    for limit in (2, 3, 4):
        for tail in (z > limit, z < -limit):
            expected = norm.sf(limit) * z.size
            assert abs(tail.sum() - expected) <= 4 * math.sqrt(expected), limit


def test_natural_log_is_within_its_bound():
    random = np.random.default_rng(0)
    near_one = 1 - random.random(2000) * 2.0 ** -random.integers(0, 52, 2000)
    powers = 2.0 ** -np.arange(1, 64)
    boundary = math.sqrt(0.5) * (1 + np.arange(-20, 21) * 2.0**-53)
    x = np.concatenate([random.random(2000), near_one, powers, np.nextafter(powers, 0), boundary])
    x = x[x < 1]
    for value, log in zip(x.tolist(), natural_log(x).tolist(), strict=True):
        assert abs(Decimal(log) / Decimal(value).ln() - 1) < Decimal("1e-15"), value


# ---- initial weights ------------------------------------------------------------------------


def test_he_normal_gives_float32_of_the_layers_shapes_and_zero_biases():
    parameters = he_normal(LAYERS, 0)
    assert len(parameters) == len(LAYERS)
    for layer, (w, b) in zip(LAYERS, parameters, strict=True):
        assert w.shape == (layer.inputs, layer.outputs) and w.dtype == np.float32
        assert b.shape == (layer.outputs,) and b.dtype == np.float32
        assert not b.any()


def test_he_normal_is_a_pure_function_of_the_seed():
    for (w, _), (again, _) in zip(he_normal(LAYERS, 9), he_normal(LAYERS, 9), strict=True):
        np.testing.assert_array_equal(w, again)
    for (w, _), (other, _) in zip(he_normal(LAYERS, 9), he_normal(LAYERS, 10), strict=True):
        assert not np.any(w == other)


@pytest.mark.parametrize(("inputs", "outputs"), [(784, 128), (2, 5000), (3, 4000)])
def test_he_normal_has_the_moments_of_its_distribution(inputs, outputs):
    # Of n independent draws z from N(0, 1), the mean of z has the variance 1/n, that of z² 2/n
    # and that of z⁴ 96/n: each within 5 standard deviations. The fourth moment, 3, tells the
    # normal distribution from a uniform one (1.8) of the same variance.
    ((w, _),) = he_normal(dense_layers([inputs, outputs]), 0)
    z = w.astype(np.float64) / math.sqrt(2 / inputs)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        assert abs(np.mean(z**power) - mean) <= 5 * math.sqrt(variance / z.size), power


def test_layers_of_the_same_shape_get_their_own_weights():
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
def test_golden_weights(layer, weights):
    w, _ = he_normal(LAYERS, 0)[layer]
    assert [float(value).hex() for value in w[0, :3]] == weights
