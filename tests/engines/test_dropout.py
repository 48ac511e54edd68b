"""Dropout: random numbers, masks, and their use in both engines."""

import hashlib
from functools import partial
from itertools import combinations

import numba
import numpy as np
import pytest
from formulas import flat_arrays, gradient, mean_loss
from tolerances import U

from fastnn import Network
from fastnn.data.rows import Data
from fastnn.engine import get_engine
from fastnn.epoch import CHUNK_ROWS, Epoch, Progress
from fastnn.model.initializers import he_normal, initial_parameters
from fastnn.model.layers import ACTIVATIONS, dense_layers
from fastnn.model.losses import LOSSES
from fastnn.model.randomness import keep_factor, keep_level, keep_mask, philox

LONG = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="takes too long uncompiled")


# ---- numbers and masks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (4 * [0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (
            4 * [0xFFFFFFFF],
            2 * [0xFFFFFFFF],
            [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        ),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, words):
    """The lines `philox4x32 10` of the file kat_vectors in Random123."""
    seed = key[0] | key[1] << 32
    for shape in ((), (2, 3)):
        got = philox([np.full(shape, word, np.uint64) for word in counter], seed)
        assert [np.unique(word).tolist() for word in got] == [[word] for word in words]


POSITIONS = np.arange(3000)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.8])
def test_share_of_kept_inputs(dropout):
    mask = keep_mask(3, 5, 1, POSITIONS, 150, dropout)
    assert mask.shape == (3000, 150) and mask.dtype == bool
    # Means of independent bits: one in 5e8 is off by more than 6 standard deviations.
    deviation = np.sqrt(dropout * (1 - dropout))
    for axis, count in ((None, 450_000), (0, 3000), (1, 150)):
        off = np.abs(mask.mean(axis=axis) - (1 - dropout)).max()
        assert off <= 6 * deviation / np.sqrt(count) + 2.0**-17  # rounding of the level


@pytest.mark.parametrize("dropout", [0.001, 0.25, 0.3, 0.5, 0.9, 1 - 2.0**-16, 1 - 2.0**-30])
def test_factor_preserves_the_mean(dropout):
    """Of 65,536 ones, `keep_level` are kept and multiplied by `keep_factor`: the mean stays 1."""
    assert 1 <= keep_level(dropout) <= 65_536
    assert keep_level(dropout) * float(keep_factor(dropout)) == pytest.approx(65_536, rel=U)
    assert abs(keep_level(dropout) / 65_536 - (1 - dropout)) <= 2.0**-16


def test_dropout_of_a_half_and_three_quarters_is_exact():
    assert [float(keep_factor(p)) for p in (0.5, 0.75)] == [2.0, 4.0]
    assert keep_level(0.5) == 32_768


def test_masks_of_different_seeds_epochs_layers_and_rows_are_independent():
    drawn = {
        "first": keep_mask(1, 2, 3, POSITIONS[:500], 200, 0.5),
        "seed": keep_mask(4, 2, 3, POSITIONS[:500], 200, 0.5),
        "high word of the seed": keep_mask(1 + 2**32, 2, 3, POSITIONS[:500], 200, 0.5),
        "epoch": keep_mask(1, 4, 3, POSITIONS[:500], 200, 0.5),
        "layer": keep_mask(1, 2, 4, POSITIONS[:500], 200, 0.5),
        "epoch and layer exchanged": keep_mask(1, 3, 2, POSITIONS[:500], 200, 0.5),
        "rows": keep_mask(1, 2, 3, POSITIONS[500:1000], 200, 0.5),
    }
    # Two masks agree in half of 100,000 elements, with a standard deviation of 158.
    for one, other in combinations(drawn, 2):
        assert abs((drawn[one] == drawn[other]).sum() - 50_000) < 6 * 158, (one, other)
    columns = drawn["first"].T
    for shift in (1, 8, 64):  # in the same number of a counter, in a block, in the next block
        agree = (columns[:-shift] == columns[shift:]).mean()
        assert abs(agree - 0.5) < 6 * 0.5 / np.sqrt(500 * (200 - shift))


def test_mask_of_a_part_is_a_part_of_the_mask():
    mask = keep_mask(9, 0, 1, POSITIONS, 130, 0.4)
    parts = [keep_mask(9, 0, 1, part, 130, 0.4) for part in np.split(POSITIONS, [1, 7, 520, 2000])]
    np.testing.assert_array_equal(np.concatenate(parts), mask)
    np.testing.assert_array_equal(keep_mask(9, 0, 1, POSITIONS[[70, 3]], 130, 0.4), mask[[70, 3]])
    for width in (1, 63, 64, 65, 128):
        narrow = keep_mask(9, 0, 1, POSITIONS[:50], width, 0.4)
        np.testing.assert_array_equal(narrow, mask[:50, :width])
    assert not (
        mask & ~keep_mask(9, 0, 1, POSITIONS, 130, 0.3)
    ).any()  # with a lower dropout, the same inputs are kept and more


def test_masks_of_fixed_seeds():
    """The masks of a seed must not change between versions."""
    mask = keep_mask(0, 1, 2, np.arange(3), 20, 0.5)
    assert ["".join("-x"[int(keep)] for keep in row) for row in mask] == [
        "x-x--x-x--x--x-xxxxx",
        "xx---xx-xxxxxx----x-",
        "--x---xx-xx-xxxx---x",
    ]
    digest = hashlib.sha256(np.packbits(keep_mask(7, 0, 0, POSITIONS, 200, 0.3))).hexdigest()
    assert digest[:16] == "241515ec469cbb93"


# ---- in the engines -------------------------------------------------------------------------


def bare_engine(name, sizes, dropout, activation="identity", loss="squared_error", threads=None):
    layers = dense_layers(sizes, activation, dropout)
    return get_engine(name, layers, LOSSES[loss], input_scale=1.0, threads=threads)


@pytest.mark.parametrize("batch_size", [1, 100, 700])
@pytest.mark.parametrize(("layer", "width"), [(0, 1), (0, 70), (1, 16), (1, 70)])
def test_engines_apply_the_mask(engine, layer, width, batch_size):
    """The step of a last layer with inputs of 1 and zero weights shows the masks of all rows.

    Only row j has a target for output j, so dw[i, j] is the mask of input i in row j, divided by
    the size of the batch. The learning rate contains this size, and a factor so small that the
    updates of a batch do not change the gradient of the next.
    """
    rows, dropout, seed, number = 700, 0.3, 2**40 + 5, 6
    dropouts = [0.0] * layer + [dropout]
    running = bare_engine(engine, [1] * layer + [width, rows], dropouts)
    parameters = [(np.zeros((width, rows)), np.zeros(rows))]
    if layer:
        parameters.insert(0, (np.zeros((1, width)), np.ones(width)))
    running.set_parameters(parameters)
    order = np.random.default_rng(0).permutation(rows)
    x = np.ones((rows, 1 if layer else width), np.float32)
    data = Data(x, np.eye(rows, dtype=np.float32)[np.argsort(order)])
    epoch = Epoch(data, order, batch_size, batch_size * 2.0**-60, seed=seed, number=number)
    running.run_chunk(epoch, Progress(), rows)
    expected = keep_mask(seed, number, layer, np.arange(rows), width, dropout) * keep_factor(
        dropout
    )
    w, _ = running.get_parameters()[-1]
    # Two roundings: of the division by the size of the batch and of the product with it.
    np.testing.assert_allclose(w.T * 2.0**60, expected, rtol=4 * U, atol=2.0**-40)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_step_is_the_gradient_with_the_mask(engine, rng, activation, weighted):
    sizes, dropout, rows = [5, 8, 6, 3], [0.1, 0.5, 0.3], 40
    weights = rng.integers(0, 3, rows).astype(np.float32) if weighted else None
    x = rng.standard_normal((rows, 5), dtype=np.float32)
    data = Data(x, rng.integers(0, 3, rows, np.int32), weights)
    running = bare_engine(engine, sizes, dropout, activation, "cross_entropy")
    layers = dense_layers(sizes)
    running.set_parameters(initial_parameters(layers, seed=1))
    before = flat_arrays(running.get_parameters())
    rate = 2.0**12  # so large that dw can be computed from w - rate · dw
    epoch = Epoch(data, np.arange(rows), rows, rate, l2=0.01, seed=3, number=2)
    done = running.run_chunk(epoch, Progress(), rows)
    after = flat_arrays(running.get_parameters())
    masks = [
        keep_mask(3, 2, i, np.arange(rows), layer.inputs, share) * keep_factor(share)
        for i, (layer, share) in enumerate(zip(layers, dropout, strict=True))
    ]
    loss_now = partial(
        mean_loss, before, 2 * [activation], "cross_entropy", data, l2=0.01, masks=masks
    )
    assert done.loss_sum / epoch.total_weight == pytest.approx(loss_now().real, rel=16 * U)
    for w, new_w in zip(before, after, strict=True):
        exact = gradient(w, loss_now)
        got = (w - new_w).real / rate
        # As in `test_gradients`; and of w, a rounding that is divided by the rate.
        assert np.abs(got - exact).max() <= 64 * U * np.abs(exact).max()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@LONG
def test_engines_agree(rng, activation):
    sizes, dropout = [40, 33, 70, 5], [0.2, 0.5, 0.3]
    x = rng.standard_normal((700, 40), dtype=np.float32)
    x[rng.random(x.shape) < 0.6] = 0  # lists of non-zeros and masks at once
    data = Data(x, rng.integers(0, 5, 700, np.int32))
    results = []
    for name in ("numba", "numpy"):
        running = bare_engine(name, sizes, dropout, activation, "cross_entropy")
        running.set_parameters(initial_parameters(dense_layers(sizes, activation), seed=0))
        losses = []
        for number, batch_size in enumerate((32, 600)):
            epoch = Epoch(data, np.arange(700), batch_size, 0.05, seed=11, number=number)
            losses.append(running.run_chunk(epoch, Progress(), 700).loss_sum)
        results.append((losses, running.get_parameters()))
    (losses, parameters), (expected_losses, expected) = results
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)  # as in `tolerances`
    for pair, expected_pair in zip(parameters, expected, strict=True):
        for a, b in zip(pair, expected_pair, strict=True):
            assert np.abs(a - b).max() <= 64 * 24 * U * np.abs(b).max()  # 24 updates


def weights_after(engine, budget=10**9, threads=None):
    """Return the bits after an epoch of three batches of several chunks, with dropout."""
    rng = np.random.default_rng(5)
    sizes = [9, 70, 20, 4]
    data = Data(
        rng.standard_normal((1400, 9), dtype=np.float32), rng.integers(0, 4, 1400, np.int32)
    )
    running = bare_engine(engine, sizes, [0.1, 0.5, 0.2], "relu", "cross_entropy", threads)
    running.set_parameters(he_normal(dense_layers(sizes), seed=0))
    epoch = Epoch(data, rng.permutation(1400), 600, 0.1, seed=8, number=1)
    progress = Progress()
    while progress.position < 1400:
        progress = running.run_chunk(epoch, progress, budget)
    return b"".join(w.tobytes() + b.tobytes() for w, b in running.get_parameters()), progress


def test_division_into_calls_does_not_change_bits(engine):
    assert 600 > CHUNK_ROWS
    assert weights_after(engine, 1) == weights_after(engine, 700) == weights_after(engine)


@LONG
def test_threads_do_not_change_bits():
    counts = range(1, min(3, numba.config.NUMBA_NUM_THREADS) + 1)
    assert len({weights_after("numba", threads=threads) for threads in counts}) == 1


def test_loss_of_a_row_depends_on_its_position_and_not_on_its_batch(engine, rng):
    """With a tiny learning rate, the sum of losses is the same for all batch sizes."""
    data = Data(rng.standard_normal((600, 6), dtype=np.float32), rng.integers(0, 3, 600, np.int32))
    running = bare_engine(engine, [6, 30, 3], [0.1, 0.5], "relu", "cross_entropy")
    running.set_parameters(he_normal(dense_layers([6, 30, 3]), seed=0))

    def loss(order, batch_size, **place):
        epoch = Epoch(data, order, batch_size, 1e-30, **place)
        return running.run_chunk(epoch, Progress(), 600).loss_sum

    order = rng.permutation(600)
    expected = loss(order, 600)
    for batch_size in (1, 13, 512):
        assert loss(order, batch_size) == pytest.approx(expected, rel=8 * U)
    for other in (
        loss(order[::-1].copy(), 600),
        loss(order, 600, seed=1),
        loss(order, 600, number=1),
    ):
        assert abs(other / expected - 1) > 1e-4


def test_only_training_uses_dropout(engine, rng):
    data = Data(rng.standard_normal((600, 6), dtype=np.float32), rng.integers(0, 3, 600, np.int32))
    dropping, plain = (
        bare_engine(engine, [6, 30, 3], share, "relu", "cross_entropy") for share in (0.5, 0.0)
    )
    for running in (dropping, plain):
        running.set_parameters(he_normal(dense_layers([6, 30, 3]), seed=0))
    dropping.run_chunk(Epoch(data, np.arange(600), 600, 1e-30), Progress(), 600)  # masks are drawn
    assert (dropping.predict(data.x) == plain.predict(data.x)).all()
    assert dropping.evaluate(data) == plain.evaluate(data)
    loss, gradients = dropping.loss_and_grad(data)
    expected_loss, expected = plain.loss_and_grad(data)
    assert loss == expected_loss
    for (dw, db), (plain_dw, plain_db) in zip(gradients, expected, strict=True):
        assert (dw == plain_dw).all() and (db == plain_db).all()


# ---- `Network.fit` --------------------------------------------------------------------------


def test_network_learns_with_dropout_in_one_fit_or_two(engine, rng):
    labels = rng.integers(0, 3, 200)
    x = rng.normal(size=(200, 5)) + 4 * np.eye(3, 5)[labels]
    one, two = (Network([5, 32, 16, 3], dropout=[0.1, 0.4, 0.2], seed=2) for _ in range(2))
    settings = {"batch_size": 20, "learning_rate": 0.1, "engine": engine}
    history = one.fit(x, labels, epochs=12, **settings)
    joined = [two.fit(x, labels, epochs=epochs, **settings)["loss"] for epochs in (5, 7)]
    assert history["loss"] == joined[0] + joined[1]
    for (w, b), (other_w, other_b) in zip(one.parameters, two.parameters, strict=True):
        assert (w == other_w).all() and (b == other_b).all()
    loss, accuracy = one.evaluate(x, labels)
    assert accuracy > 0.95
    assert loss < history["loss"][-1]  # the loss in training includes dropout


def test_masks_depend_on_the_seed(engine, rng):
    x, labels = rng.normal(size=(50, 5)), rng.integers(0, 3, 50)
    start = Network([5, 20, 3]).parameters
    losses = []
    for seed in (1, 1, 2):
        network = Network([5, 20, 3], dropout=0.5, seed=seed)
        network.parameters = start
        history = network.fit(x, labels, epochs=1, batch_size="full", shuffle=False, engine=engine)
        losses.append(history["loss"][0])
    assert losses[0] == losses[1] != losses[2]
