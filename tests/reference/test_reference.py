"""The reference engine: a network worked by hand, derivatives, activations and losses."""

import math
from itertools import pairwise

import numpy as np
import pytest

from fastnn.data.rows import Data
from fastnn.engine import get_engine
from fastnn.epoch import CHUNK_ROWS, Epoch, Progress
from fastnn.model.initializers import he_normal
from fastnn.model.layers import dense_layers
from fastnn.model.losses import LOSSES
from fastnn.reference.activations import relu_backward, relu_forward
from fastnn.reference.dense import dense_backward_input, dense_backward_weights, dense_forward
from fastnn.reference.engine import ReferenceEngine
from fastnn.reference.losses import (
    softmax,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from fastnn.reference.updates import sgd_update

# ---- a 3-2-2 network worked by hand ---------------------------------------------------------
#
# All steps are exact in float32: the logits of a sample are equal, so both classes have p = 1/2.
#
#   x = [1 2 -1]    w1 = [1   -1]   b1 = [1/2 -1]     w2 = [ 2 1]   b2 = [1/2 2]    labels 0, 1
#       [2 0  1]         [1/2  1]                          [-1 1]
#                        [1    4]
#
# Forward. ReLU turns the -4 of the first sample into 0.
#   z1 = x w1 + b1 = [1 + 1 - 1 + 1/2   -1 + 2 - 4 - 1] = [3/2 -4]     a1 = [3/2 0]
#                    [2 + 0 + 1 + 1/2   -2 + 0 + 4 - 1]   [7/2  1]          [7/2 1]
#   z2 = a1 w2 + b2 = [3 - 0 + 1/2   3/2 + 0 + 2] = [7/2  7/2 ]        p = [1/2 1/2]
#                     [7 - 1 + 1/2   7/2 + 1 + 2]   [13/2 13/2]            [1/2 1/2]
#   loss = -log 1/2 = log 2 for both samples
#
# Backward, for the mean of the two samples.
#   dz2 = (p - onehot) / 2 = [-1/4  1/4]
#                            [ 1/4 -1/4]
#   dw2 = a1ᵀ dz2 = [-3/8 + 7/8   3/8 - 7/8] = [1/2 -1/2]      db2 = column sums of dz2 = [0 0]
#                   [   0 + 1/4     0 - 1/4]   [1/4 -1/4]
#   da1 = dz2 w2ᵀ = [-1/2 + 1/4   1/4 + 1/4] = [-1/4  1/2]     dz1 = [-1/4    0]
#                   [ 1/2 - 1/4  -1/4 - 1/4]   [ 1/4 -1/2]           [ 1/4 -1/2]
#   dw1 = xᵀ dz1 = [-1/4 + 1/2   0 - 1] = [ 1/4 -1  ]          db1 = [0 -1/2]
#                  [-1/2 + 0     0 + 0]   [-1/2  0  ]
#                  [ 1/4 + 1/4   0 - 1/2] [ 1/2 -1/2]

X = np.array([[1, 2, -1], [2, 0, 1]], np.float32)
LABELS = np.array([0, 1], np.int32)
W1, B1 = [[1, -1], [0.5, 1], [1, 4]], [0.5, -1]
W2, B2 = [[2, 1], [-1, 1]], [0.5, 2]
PARAMETERS = [(np.array(w, np.float32), np.array(b, np.float32)) for w, b in ((W1, B1), (W2, B2))]

Z1, A1 = [[1.5, -4], [3.5, 1]], [[1.5, 0], [3.5, 1]]
Z2, P = [[3.5, 3.5], [6.5, 6.5]], [[0.5, 0.5], [0.5, 0.5]]
DZ2, DA1 = [[-0.25, 0.25], [0.25, -0.25]], [[-0.25, 0.5], [0.25, -0.5]]
DZ1 = [[-0.25, 0], [0.25, -0.5]]
GRADIENTS = [
    ([[0.25, -1], [-0.5, 0], [0.5, -0.5]], [0, -0.5]),
    ([[0.5, -0.5], [0.25, -0.25]], [0, 0]),
]
# One step at the learning rate 1/2: w - dw / 2.
UPDATED = [
    ([[0.875, -0.5], [0.75, 1], [0.75, 4.25]], [0.5, -0.75]),
    ([[1.75, 1.25], [-1.125, 1.125]], [0.5, 2]),
]


def assert_parameters(got, expected):
    for got_pair, expected_pair in zip(got, expected, strict=True):
        for array, exact in zip(got_pair, expected_pair, strict=True):
            np.testing.assert_array_equal(array, exact)


def test_worked_example_forward():
    z, probs, losses = np.empty((3, 2, 2), np.float32), np.empty((2, 2)), np.empty(2)
    dense_forward(z[0], X, *PARAMETERS[0])
    np.testing.assert_array_equal(z[0], Z1)
    relu_forward(z[1], z[0])
    np.testing.assert_array_equal(z[1], A1)
    dense_forward(z[2], z[1], *PARAMETERS[1])
    np.testing.assert_array_equal(z[2], Z2)
    softmax_cross_entropy_forward(losses, probs, z[2].astype(np.float64), LABELS)
    np.testing.assert_array_equal(probs, P)
    np.testing.assert_array_max_ulp(losses, np.full(2, math.log(2)), maxulp=1)


def test_worked_example_backward():
    dz2, da1, dz1 = np.empty((3, 2, 2), np.float32)
    softmax_cross_entropy_backward(dz2, np.array(P, np.float32), LABELS)
    dz2 /= 2  # for the mean
    np.testing.assert_array_equal(dz2, DZ2)
    dense_backward_input(da1, dz2, PARAMETERS[1][0])
    np.testing.assert_array_equal(da1, DA1)
    relu_backward(dz1, da1, np.array(A1, np.float32))
    np.testing.assert_array_equal(dz1, DZ1)
    gradients = [(np.empty_like(w), np.empty_like(b)) for w, b in PARAMETERS]
    dense_backward_weights(*gradients[0], dz1, X)
    dense_backward_weights(*gradients[1], dz2, np.array(A1, np.float32))
    assert_parameters(gradients, GRADIENTS)


def test_worked_example_in_both_engines(engine):
    running = get_engine(engine, dense_layers([3, 2, 2]), input_scale=1.0)
    running.set_parameters(PARAMETERS)
    loss, gradients = running.loss_and_grad(Data(X, LABELS))
    np.testing.assert_array_max_ulp(np.float32(loss), np.float32(math.log(2)), maxulp=1)
    assert_parameters(gradients, GRADIENTS)
    assert_parameters(running.get_parameters(), PARAMETERS)  # not changed

    order = np.array([1, 0])
    done = running.run_chunk(Epoch(Data(X, LABELS), order, 2, 0.5), Progress(), 1)
    # Of equal logits the first is the prediction: it is correct for one of the two samples.
    assert done == Progress(position=2, loss_sum=2 * loss, correct=1)
    assert_parameters(running.get_parameters(), UPDATED)


def test_sgd_update_works_in_place():
    w = np.array([1.0, -2.0, 0.5], np.float32)
    sgd_update(w, np.array([4.0, -8.0, 0.0], np.float32), 0.25)
    assert w.tolist() == [0.0, 0.0, 0.5]


# ---- gradients against central differences --------------------------------------------------


def forward(parameters, x, labels):
    """Return losses, probabilities and activations in the dtype of x, by the reference."""
    a = [x]
    for i, (w, b) in enumerate(parameters):
        z = np.empty((len(x), len(b)), x.dtype)
        dense_forward(z, a[-1], w, b)
        if i < len(parameters) - 1:
            relu_forward(z, z)
        a.append(z)
    probs, losses = np.empty_like(a[-1]), np.empty(len(x), x.dtype)
    softmax_cross_entropy_forward(losses, probs, a[-1], labels)
    return losses, probs, a


def backward(parameters, probs, a, labels, batch_rows):
    """Return the gradients in the dtype of the parameters, by the reference."""
    dz = np.empty_like(probs)
    softmax_cross_entropy_backward(dz, probs, labels)
    dz /= batch_rows
    gradients = []
    for i in reversed(range(len(parameters))):
        w, b = parameters[i]
        dw, db = np.empty_like(w), np.empty_like(b)
        dense_backward_weights(dw, db, dz, a[i])
        gradients.insert(0, (dw, db))
        if i > 0:
            da = np.empty_like(a[i])
            dense_backward_input(da, dz, w)
            dz = np.empty_like(da)
            relu_backward(dz, da, a[i])
    return gradients


def test_gradients_agree_with_central_differences(rng):
    sizes = (4, 6, 5, 3)
    parameters = [
        (rng.normal(size=shape), rng.normal(size=shape[1]) / 4) for shape in pairwise(sizes)
    ]
    x, labels = rng.normal(size=(7, 4)), rng.integers(0, 3, 7)
    losses, probs, a = forward(parameters, x, labels)
    gradients = backward(parameters, probs, a, labels, batch_rows=len(x))

    # The derivative of a logit with respect to a parameter θ is at most s = max|a| · Π max_j
    # Σ|w_jk| over the following layers. If no ReLU changes its side, the logits are linear in
    # θ, and the third derivative of the loss is the third central moment of their derivatives
    # under p: at most (2s)³. So the truncation error is at most h²/6 · (2s)³. The error of a
    # loss is at most twice that of a logit, a sum of at most 7 terms in 3 layers: two of them,
    # divided by 2h, add 2 · 3 · 7 · u · (size of the logits) / h with u = 2⁻⁵³. Rounding a
    # loss, in some 10 operations, adds 10 · u · loss / h.
    h, u = 2.0**-17, 2.0**-53
    stretch = [np.abs(w).sum(axis=1).max() for w, _ in parameters]
    logit_size = np.abs(x).sum(axis=1).max() + 1
    for w, b in parameters:
        logit_size = logit_size * np.abs(w).max() * len(w) + np.abs(b).max()
    for layer, (pair, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        slope = max(1, np.abs(a[layer]).max()) * math.prod(stretch[layer + 1 :])
        bound = h**2 / 6 * (2 * slope) ** 3 + (42 * logit_size + 10 * losses.max()) * u / h
        for theta, exact in zip(pair, gradient, strict=True):
            assert bound < 0.001 * np.abs(exact).max()  # a meaningful comparison
            for at in np.ndindex(theta.shape):
                theta[at] += h
                above, _, a_above = forward(parameters, x, labels)
                theta[at] -= 2 * h
                below, _, a_below = forward(parameters, x, labels)
                theta[at] += h
                for one, other in zip(a_above[1:-1], a_below[1:-1], strict=True):
                    assert np.array_equal(one > 0, other > 0)  # no ReLU changed its side
                slope_here = (above.mean() - below.mean()) / (2 * h)
                assert abs(slope_here - exact[at]) <= bound, (layer, at)


# ---- activations and losses -----------------------------------------------------------------


def test_relu_propagates_nan_and_has_the_derivative_0_at_0():
    z = np.array([-2, -0.0, 0, 3, np.nan, np.inf, -np.inf], np.float32)
    a, dz = np.empty_like(z), np.full_like(z, np.nan)
    relu_forward(a, z)
    np.testing.assert_array_equal(a, [0, 0, 0, 3, np.nan, np.inf, 0])
    relu_backward(dz, np.full_like(z, 5), a)
    np.testing.assert_array_equal(dz[[0, 1, 2, 3, 5, 6]], [0, 0, 0, 5, 5, 0])


def test_relu_works_in_place():
    z = np.array([[-1, 2]], np.float32)
    relu_forward(z, z)
    dz = np.array([[3, 4]], np.float32)
    relu_backward(dz, dz, z)
    assert (z.tolist(), dz.tolist()) == ([[0, 2]], [[0, 4]])


def test_softmax_cross_entropy_of_known_probabilities():
    # exp(logits) is proportional to 1, 2 and 5, so p is 1/8, 1/4 and 5/8.
    logits = np.log([[1.0, 2.0, 5.0]] * 3) + np.array([[0.0], [1.0], [-3.0]])
    probs, losses = np.empty((3, 3)), np.empty(3)
    softmax_cross_entropy_forward(losses, probs, logits, np.array([0, 1, 2]))
    # The error of a logit of size 4 is at most 2⁻⁵², that of a difference twice as large. There are
    # ten more roundings, with those of exp and log.
    bound = 12 * 2.0**-52
    np.testing.assert_allclose(probs, [[1 / 8, 1 / 4, 5 / 8]] * 3, rtol=bound, atol=0)
    np.testing.assert_allclose(losses, np.log([8, 4, 8 / 5]), rtol=0, atol=bound * np.log(8))
    again = np.empty_like(probs)
    softmax(again, logits)
    np.testing.assert_array_equal(again, probs)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "logits",
    [[1e4, -1e4], [-1e4, 1e4], [3e38, 0], [0, -3e38], [3e38, 3e37], [-1.5e38, 1.5e38], [1e4, 0]],
    ids=str,
)
def test_softmax_cross_entropy_is_exact_for_large_logits(logits, dtype):
    # The smaller exponential is negligible, so the loss is the difference of the logits.
    logits = np.array([logits, logits], dtype)
    labels = np.array([np.argmax(logits[0]), np.argmin(logits[0])])
    losses, probs, dz = np.empty(2, dtype), np.empty((2, 2), dtype), np.empty((2, 2), dtype)
    softmax_cross_entropy_forward(losses, probs, logits, labels)
    np.testing.assert_array_equal(losses, [0, logits[0].max() - logits[0].min()])
    np.testing.assert_array_equal(probs[:, labels[0]], 1)
    np.testing.assert_array_equal(probs[:, labels[1]], 0)
    softmax_cross_entropy_backward(dz, probs, labels)
    np.testing.assert_array_equal(dz[0], 0)
    np.testing.assert_array_equal(dz[1, labels], [1, -1])


def test_gradients_of_logits_sum_to_zero(rng):
    probs, losses, dz = np.empty((50, 10)), np.empty(50), np.empty((50, 10))
    labels = rng.integers(0, 10, 50)
    softmax_cross_entropy_forward(losses, probs, rng.normal(scale=5, size=(50, 10)), labels)
    softmax_cross_entropy_backward(dz, probs, labels)
    # The sum of p has 10 roundings and one of each quotient, the sum of dz 10 more, all of numbers
    # of at most 1.
    assert np.abs(dz.sum(axis=1)).max() <= 21 * 2.0**-53
    assert (np.sign(dz) < 0).sum() == 50  # only that of the label is negative


# ---- batches of several chunks --------------------------------------------------------------


def test_gradient_of_a_batch_is_the_sum_of_its_chunks_in_order(rng):
    layers, rows = dense_layers([5, 4, 3]), 2 * CHUNK_ROWS + 100
    parameters = he_normal(layers, 0)
    x = rng.normal(size=(rows, 5)).astype(np.float32)
    labels = rng.integers(0, 3, rows, np.int32)
    running = ReferenceEngine(layers, LOSSES["cross_entropy"], input_scale=1.0)
    running.set_parameters(parameters)
    loss, gradients = running.loss_and_grad(Data(x, labels))

    total, loss_sum = None, 0.0
    for start in range(0, rows, CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        losses, probs, a = forward(parameters, x[part], labels[part])
        loss_sum += losses.sum(dtype=np.float64)
        chunk = backward(parameters, probs, a, labels[part], batch_rows=rows)
        if total is not None:
            chunk = [(w + dw, b + db) for (w, b), (dw, db) in zip(total, chunk, strict=True)]
        total = chunk
    assert loss == loss_sum / rows
    assert_parameters(gradients, total)

    epoch = Epoch(Data(x, labels), np.arange(rows), rows, 0.25)
    assert running.run_chunk(epoch, Progress(), 1).position == CHUNK_ROWS
    assert_parameters(running.get_parameters(), parameters)  # the batch is not complete
    done = running.run_chunk(epoch, Progress(), rows)
    assert (done.position, done.loss_sum) == (rows, loss_sum)
    rate = np.float32(0.25)
    updated = [
        (w - rate * dw, b - rate * db) for (w, b), (dw, db) in zip(parameters, total, strict=True)
    ]
    assert_parameters(running.get_parameters(), updated)
