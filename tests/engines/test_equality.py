"""Agreement of the two engines, and buffers and compilation of the Numba engine.

`tolerances` gives the reason for each bound. Results that must have the same bits are compared with
``==``.
"""

import numba
import numpy as np
import pytest
from numba.core import event
from numba.core.runtime import _nrt_python, rtsys
from tolerances import BATCH_GD_20_EPOCHS, FIRST_EPOCH, FIRST_STEPS, THREE_EPOCHS, U

from fastnn.data.rows import Data
from fastnn.engine import get_engine
from fastnn.epoch import CHUNK_ROWS, Epoch, Progress
from fastnn.model.initializers import he_normal
from fastnn.model.layers import dense_layers
from fastnn.model.randomness import permutation

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="takes too long uncompiled")

TO_THE_END = 10**9


def engine_for(name, sizes, *, input_scale=1.0, threads=None):
    """Return an engine with He's initial parameters."""
    layers = dense_layers(sizes)
    engine = get_engine(name, layers, input_scale=input_scale, threads=threads)
    engine.set_parameters(he_normal(layers, seed=0))
    return engine


def both(sizes, **options):
    return engine_for("numba", sizes, **options), engine_for("numpy", sizes, **options)


def blobs(rng, rows, sizes, dtype=np.float32):
    """Return features of separable classes, as bytes or as floats up to 1, and their labels."""
    labels = rng.integers(0, sizes[-1], rows).astype(np.int32)
    centres = rng.uniform(0, 200, (sizes[-1], sizes[0]))
    x = np.clip(centres[labels] + rng.normal(0, 30, (rows, sizes[0])), 0, 255)
    return (x.astype(np.uint8) if dtype == np.uint8 else (x / 255).astype(np.float32)), labels


def epoch_of(x, labels, batch_size, number=0, learning_rate=0.1):
    return Epoch(Data(x, labels), permutation(0, number, len(x)), batch_size, learning_rate)


def same_bits(left, right):
    return all(
        np.array_equal(a, b, equal_nan=True)
        for pair in zip(left, right, strict=True)
        for a, b in zip(*pair, strict=True)
    )


def relative(got, expected):
    return abs(got - expected) / abs(expected)


def assert_close_parameters(got, expected, steps):
    """Check parameters after a few updates, relative to the largest of each array."""
    for (w, b), (want_w, want_b) in zip(got, expected, strict=True):
        scale = max(abs(want_w).max(), abs(want_b).max())
        assert abs(w - want_w).max() <= 64 * steps * U * scale
        assert abs(b - want_b).max() <= 64 * steps * U * scale


SIZES = [
    [1, 2],
    [3, 1],
    [1, 1, 1, 2],
    [5, 16, 3],
    [17, 33, 15, 7],
    [2, 3, 4, 5, 6, 7, 8],
    [300, 50, 48],
    [4096, 3],
    [3, 700, 2],
]
BATCHES = [
    (1, 1),
    (2, 1),
    (7, 3),
    (9, 8),
    (64, 64),
    (65, 64),
    (130, 129),
    (1030, 1030),
    (1600, 513),
]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_engines_agree_for_any_shape(rng, sizes, dtype):
    """Loss, gradient, predictions and evaluation."""
    x, labels = blobs(rng, 37, sizes, dtype)
    scale = 1 / 255 if dtype == np.uint8 else 1.0
    fast, plain = both(sizes, input_scale=scale)
    loss, gradient = fast.loss_and_grad(Data(x, labels))
    expected_loss, expected_gradient = plain.loss_and_grad(Data(x, labels))
    assert abs(loss - expected_loss) <= 64 * U * max(1, expected_loss)
    for got, expected in zip(gradient, expected_gradient, strict=True):
        for a, b in zip(got, expected, strict=True):
            assert abs(a - b).max() <= 64 * U * max(1, sizes[0] ** 0.5) * max(abs(b).max(), 1e-3)
    assert abs(fast.predict(x) - plain.predict(x)).max() <= 64 * U * sizes[0] ** 0.5
    assert fast.evaluate(Data(x, labels))[1] == plain.evaluate(Data(x, labels))[1]
    assert abs(fast.evaluate(Data(x, labels))[0] - expected_loss) <= 64 * U * max(1, expected_loss)


@pytest.mark.parametrize(("rows", "batch_size"), BATCHES)
def test_engines_agree_for_any_batch_size(rng, rows, batch_size):
    """With a short last batch, with batches of several chunks, and with one row."""
    sizes = [6, 19, 4]
    x, labels = blobs(rng, rows, sizes)
    fast, plain = both(sizes)
    epoch = epoch_of(x, labels, batch_size)
    got = fast.run_chunk(epoch, Progress(), TO_THE_END)
    expected = plain.run_chunk(epoch, Progress(), TO_THE_END)
    assert (got.position, got.correct) == (rows, expected.correct)
    assert relative(got.loss_sum, expected.loss_sum) <= FIRST_STEPS
    assert_close_parameters(fast.get_parameters(), plain.get_parameters(), epoch.updates)


def test_engines_agree_in_the_first_hundred_steps(rng):
    sizes = [784, 128, 64, 10]
    x, labels = blobs(rng, 3200, sizes, np.uint8)
    fast, plain = both(sizes, input_scale=1 / 255)
    epoch = epoch_of(x, labels, 32)
    got = expected = Progress()
    for step in range(100):
        before = got.loss_sum, expected.loss_sum
        got, expected = (e.run_chunk(epoch, p, 1) for e, p in ((fast, got), (plain, expected)))
        assert got.position == expected.position == 32 * (step + 1)
        loss, expected_loss = got.loss_sum - before[0], expected.loss_sum - before[1]
        assert relative(loss, expected_loss) <= FIRST_STEPS * max(1, 1 / expected_loss), step


def test_engines_agree_in_three_epochs(digits_or_mnist):
    images = digits_or_mnist
    fast, plain = both([images.x_train.shape[1], 128, 64, 10], input_scale=images.scale)
    for number, bound in enumerate([FIRST_EPOCH, THREE_EPOCHS, THREE_EPOCHS]):
        epoch = epoch_of(images.x_train, images.y_train, 128, number)
        got = fast.run_chunk(epoch, Progress(), TO_THE_END)
        expected = plain.run_chunk(epoch, Progress(), TO_THE_END)
        assert relative(got.loss_sum, expected.loss_sum) <= bound


def test_engines_agree_in_twenty_epochs_of_batch_gradient_descent(digits_or_mnist):
    images = digits_or_mnist
    x, labels = images.x_train[:12_000], images.y_train[:12_000]
    fast, plain = both([x.shape[1], 128, 64, 10], input_scale=images.scale)
    for number in range(20):
        epoch = epoch_of(x, labels, len(x), number)
        got = fast.run_chunk(epoch, Progress(), TO_THE_END)
        expected = plain.run_chunk(epoch, Progress(), TO_THE_END)
        assert relative(got.loss_sum, expected.loss_sum) <= BATCH_GD_20_EPOCHS


@pytest.mark.parametrize("rows", [20, CHUNK_ROWS + 88])
def test_gradient_is_that_of_training(rng, rows):
    """An update of a full batch is w - learning_rate · dw, with dw of `loss_and_grad`."""
    sizes = [9, 21, 5]
    x, labels = blobs(rng, rows, sizes)
    fast = engine_for("numba", sizes)
    before = fast.get_parameters()
    _, gradient = fast.loss_and_grad(Data(x, labels))
    assert same_bits(fast.get_parameters(), before)
    epoch = Epoch(Data(x, labels), np.arange(rows), rows, 0.5)  # 0.5 · dw is exact
    fast.run_chunk(epoch, Progress(), TO_THE_END)
    stepped = [(w - dw / 2, b - db / 2) for (w, b), (dw, db) in zip(before, gradient, strict=True)]
    assert same_bits(fast.get_parameters(), stepped)


@pytest.mark.parametrize("skip_zeros", [False, True])
@pytest.mark.parametrize("sizes", [[5, 3], [17, 33, 15, 7], [16, 16, 16, 16]], ids=str)
def test_old_contents_of_buffers_do_not_change_results(rng, sizes, skip_zeros):
    """A step writes all elements of a buffer before it reads them, with padding."""
    x, labels = blobs(rng, 700, sizes)
    x[rng.random(x.shape) < 0.7] = 0
    results = []
    for filling in (0x00, 0xFF, "nan"):
        fast = engine_for("numba", sizes)
        fast.skip_zeros = skip_zeros
        buffers = fast._buffers
        progress = Progress()
        while progress.position < len(x):
            for array in (
                buffers.scratch,
                buffers.blocks,
                buffers.losses,
                buffers.hits,
                buffers.row_labels,
                buffers.masks,
                buffers.lists,
            ):
                if filling == "nan":
                    array.fill(np.nan if array.dtype == np.float32 else 1)
                else:
                    array.view(np.uint8).fill(filling)
            if progress.position % 600 == 0:  # between batches, the gradients are not used
                buffers.gradients.fill(np.nan)
            progress = fast.run_chunk(epoch_of(x, labels, 600), progress, 1)
        results.append((fast.get_parameters(), progress, fast.predict(x)))
    for parameters, progress, probabilities in results[1:]:
        assert same_bits(parameters, results[0][0])
        assert progress == results[0][1]
        assert (probabilities == results[0][2]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("sizes", [[5, 3], [33, 20, 4], [785, 50, 70, 10], [1, 2]], ids=str)
def test_skipping_zeros_does_not_change_bits(rng, sizes, zeros, dtype):
    x, labels = blobs(rng, 650, sizes, dtype)
    x[rng.random(x.shape) < zeros] = 0
    x[:, rng.random(sizes[0]) < zeros / 2] = 0  # features that are 0 in all rows
    results = []
    for skip_zeros in (False, True):
        fast = engine_for("numba", sizes, input_scale=1 / 255)
        fast.skip_zeros = skip_zeros
        progress = [
            fast.run_chunk(epoch_of(x, labels, batch_size), Progress(), TO_THE_END)
            for batch_size in (1, 13, 600)
        ]
        results.append((fast.get_parameters(), progress, fast.predict(x), fast.predict(x[:3])))
    (parameters, progress, *predicted), (others, other_progress, *other_predicted) = results
    assert same_bits(parameters, others)
    assert progress == other_progress
    for got, expected in zip(predicted, other_predicted, strict=True):
        assert (got == expected).all()


def test_zeros_are_skipped_only_if_there_are_enough(rng, digits_or_mnist):
    images = digits_or_mnist
    inputs = images.x_train.shape[1]
    fast = engine_for("numba", [inputs, 4, 10])

    def skips(x):
        rows = len(x)
        data = Data(x, np.zeros(rows, np.int32))
        fast.run_chunk(Epoch(data, np.arange(rows), 64, 0.1), Progress(), 1)
        return fast._group_work is not None

    assert skips(images.x_train) == (images.name == "mnist")
    assert not skips(rng.standard_normal((100, inputs)).astype(np.float32))
    assert skips(np.eye(inputs, dtype=np.float32))


def test_padding_of_panels_stays_zero(rng):
    sizes = [5, 18, 3]
    x, labels = blobs(rng, 200, sizes)
    fast = engine_for("numba", sizes)
    for number in range(5):
        fast.run_chunk(epoch_of(x, labels, 16, number), Progress(), TO_THE_END)
    used = sum(w.size + b.size for w, b in fast.get_parameters())
    assert np.count_nonzero(fast._buffers.parameters) <= used
    fast._layout.write(clean := np.zeros_like(fast._buffers.parameters), fast.get_parameters())
    assert (clean == fast._buffers.parameters).all()


def test_transposed_weights_are_updated(rng):
    sizes = [5, 40, 18, 3]
    x, labels = blobs(rng, 1100, sizes)
    fast = engine_for("numba", sizes)
    for batch_size in (16, 1100):
        fast.run_chunk(epoch_of(x, labels, batch_size), Progress(), TO_THE_END)
        expected = np.zeros_like(fast._buffers.transposed)
        fast._layout.write_transposed(expected, fast.get_parameters())
        assert (fast._buffers.transposed == expected).all()


def test_nan_in_the_weights_reaches_the_loss(rng):
    """ReLU must not hide it."""
    sizes = [5, 8, 8, 3]
    x, labels = blobs(rng, 20, sizes)
    fast = engine_for("numba", sizes)
    for layer in range(3):
        parameters = he_normal(dense_layers(sizes), seed=0)
        parameters[layer][0][:] = np.nan
        fast.set_parameters(parameters)
        assert np.isnan(fast.loss_and_grad(Data(x, labels))[0])
        assert np.isnan(fast.predict(x)).all()


def test_steps_do_not_allocate_and_new_shapes_do_not_compile(rng):
    sizes = [30, 20, 4]
    x, labels = blobs(rng, 600, sizes)
    engine_for("numba", sizes).run_chunk(epoch_of(x, labels, 32), Progress(), TO_THE_END)
    _nrt_python.memsys_enable_stats()
    with event.install_recorder("numba:compile") as compiled:
        for other in ([7, 3], [30, 100, 50, 25, 4]):
            for dtype in (np.float32, np.uint8):
                x, labels = blobs(rng, 600, other, dtype)
                x.flags.writeable = False
                fast = engine_for("numba", other)
                epoch = epoch_of(x, labels, 50)
                before = rtsys.get_allocation_stats()
                fast.run_chunk(epoch, Progress(), TO_THE_END)
                fast.loss_and_grad(Data(x, labels))
                fast.evaluate(Data(x, labels))
                fast.predict(x)
                assert rtsys.get_allocation_stats() == before
    assert not compiled.buffer
