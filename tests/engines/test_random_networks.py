"""Random networks, data and settings: each step of both engines is compared with float64.

`exact_epoch` computes the settings of an update and `exact_step` its results with error bounds: the
loss, the number of correct rows, all parameters and the state of the optimizer, with dropout. Each
step starts from the engine's own parameters, so the bounds do not depend on the steps before.
"""

import ast
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import exact_epoch
import exact_step
import numba
import numpy as np
import pytest
from scipy.sparse import csr_array, random_array
from tolerances import U

from fastnn.data.conversion import as_features
from fastnn.data.features import select_rows
from fastnn.data.rows import Data
from fastnn.engine import ENGINES, get_engine
from fastnn.epoch import Epoch, Progress
from fastnn.model.initializers import initial_parameters
from fastnn.model.layers import ACTIVATIONS, dense_layers
from fastnn.model.losses import LOSSES
from fastnn.model.optimizers import OPTIMIZERS
from fastnn.model.randomness import permutation
from fastnn.model.schedules import SCHEDULES, Schedule

LONG = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="takes too long uncompiled")
REST = pytest.mark.process  # these tests take seconds
SOME, STEPS = 200, 2
SUPPORT = Path(__file__).parents[1] / "support"
LARGE = 1e30  # losses above this may stop training
FIRST, MANY = (int(n) for n in os.environ.get("FASTNN_NETWORKS", "200:20200").split(":"))


class Fit(NamedTuple):
    """The settings that determine the learning rates of an epoch."""

    learning_rate: float
    schedule: Schedule
    epoch: int
    epochs: int
    samples_seen: int


class Case(NamedTuple):
    """A network, an epoch and the settings of its fit; `x` is the features as an array."""

    layers: Any
    loss: Any
    scale: float
    parameters: Any
    epoch: Epoch
    fit: Fit
    x: np.ndarray


def width(rng, most=300) -> int:
    """Return a random width: small ones and those next to block sizes are more frequent."""
    if rng.random() < 0.2:
        return int(min(most, rng.choice([1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129])))
    return int(np.exp(rng.uniform(0, np.log(most + 0.99))))


def features(rng, rows, inputs):
    """Return features in a random form, their scale, and the same features as an array."""
    form = rng.choice(["dense", "zeros", "bytes", "sparse"])
    if form == "bytes":
        x, scale = (
            rng.integers(0, 256, (rows, inputs)) * (rng.random((rows, inputs)) < 0.4),
            1 / 255,
        )
        x = x.astype(np.uint8)
    elif form == "sparse":
        x = random_array((rows, inputs), density=rng.uniform(0, 0.5), rng=rng, format="csr")
        x, scale = x.astype(np.float32), 1.0
    else:
        x, scale = rng.standard_normal((rows, inputs), dtype=np.float32), 0.5
        if form == "zeros":
            x *= rng.random((rows, inputs)) < rng.random()
    array = x.toarray() if form == "sparse" else x
    x = as_features(x, inputs)
    if rng.random() < 0.3:
        chosen = rng.integers(0, rows, rows)
        return select_rows(x, chosen), scale, array[chosen]
    return x, scale, array


def targets_for(rng, loss, rows, outputs):
    if loss.takes_labels:
        return rng.integers(0, outputs, rows, np.int32)
    values = {
        "logistic": lambda: rng.integers(0, 2, (rows, outputs)),
        "poisson": lambda: rng.poisson(1.5, (rows, outputs)),
    }.get(loss.name, lambda: 2 * rng.standard_normal((rows, outputs)))()
    return values.astype(np.float32)


def settings_of(rng, updates) -> tuple[dict[str, Any], Fit]:
    """Return random settings of an epoch, and those of its learning rates."""
    names = [name for name in OPTIMIZERS if name != "lbfgs"]
    optimizer = OPTIMIZERS[rng.choice(names)]
    if rng.random() < 0.3:
        optimizer = replace(optimizer, weight_decay=0.1)
    schedule = Schedule(str(rng.choice(SCHEDULES)), warmup_epochs=float(rng.choice([0, 0.7, 2.5])))
    rate = optimizer.learning_rate * 10 ** rng.uniform(-2, 0.5)
    fit = Fit(rate, schedule, int(rng.integers(3)), 3, 7)
    return {
        "learning_rate": schedule.rates(
            rate, epoch=fit.epoch, epochs=3, updates=updates, samples_seen=7
        ),
        "optimizer": optimizer,
        "l2": float(rng.choice([0, 0.01])),
        "l2_is_shared": bool(rng.random() < 0.3),
        "clip_norm": float(rng.choice([0, 0, 0.1, 3])),
        "updates_before": int(rng.choice([0, 0, 5])),
        "seed": int(rng.integers(2**63)),
        "number": int(rng.integers(3)),
    }, fit


def random_case(number: int) -> Case:
    """Return the case with a number, which is the seed."""
    rng = np.random.default_rng(number)
    loss = list(LOSSES.values())[rng.integers(len(LOSSES))]
    hidden = [width(rng) for _ in range(rng.integers(5))]
    sizes = [width(rng), *hidden, width(rng, 40)]
    dropout = rng.choice([0, 0.2, 0.5], len(hidden) + 1).tolist() if rng.random() < 0.4 else 0.0
    layers = dense_layers(sizes, [str(rng.choice(ACTIVATIONS)) for _ in hidden], dropout)
    batch = int(rng.choice([1, 2, 7, 8, 9, 63, 64, 65, 511, 512, 513, int(rng.integers(1, 514))]))
    rows = int(batch * rng.uniform(1, STEPS)) + 1
    x, scale, array = features(rng, rows, sizes[0])
    weights = None
    if rng.random() < 0.4:
        weights = np.where(rng.random(rows) < 0.3, 0, rng.uniform(0.1, 3, rows)).astype(np.float32)
    data = Data(x, targets_for(rng, loss, rows, sizes[-1]), weights)
    order = permutation(number, 0, rows)
    settings, fit = settings_of(rng, -(-rows // batch))
    epoch = Epoch(data, order, batch, **settings)
    parameters = [
        (w, (0.2 * rng.standard_normal(b.shape)).astype(np.float32))
        for w, b in initial_parameters(layers, number)
    ]
    return Case(layers, loss, scale, parameters, epoch, fit, array)


def assert_within(got, bounded, what, case):
    exact, error = bounded
    excess = np.abs(np.asarray(got, np.float64) - exact) - error
    assert np.max(excess) <= 0, (
        f"the error of {what} exceeds its bound by {np.max(excess):.3g}: {case}"
    )


def rows_of(case, rows):
    """Return some rows with features as an array."""
    _, targets, weights = case.epoch.data
    return Data(case.x[rows], targets[rows], None if weights is None else weights[rows])


def masks_of(case, positions):
    """Return the dropout masks of positions, with the factor of kept inputs."""
    return [
        exact_epoch.mask(case.epoch, i, positions, layer.inputs, layer.dropout)
        if layer.dropout
        else None
        for i, layer in enumerate(case.layers)
    ]


@np.errstate(over="ignore", invalid="ignore")
def assert_exact_epoch(name, case, number):
    """Train an epoch; compare each update, its loss and the number of correct rows."""
    epoch = case.epoch
    engine = get_engine(name, case.layers, case.loss, input_scale=case.scale)
    engine.set_parameters(case.parameters)
    slots, progress = epoch.optimizer.slots, Progress()
    for update in range(epoch.updates):
        place = f"{name}, update {update} of case {number}"
        before, state = engine.get_parameters(), engine.get_state(slots)
        start, done = progress.position, progress
        stop = min(start + epoch.batch_size, len(epoch.order))
        while progress.position < stop and np.isfinite(progress.loss_sum):
            progress = engine.run_chunk(epoch, progress, 1)  # one chunk
        settings = exact_epoch.update_of(epoch, case.fit, update)
        exact = exact_step.step(
            case.layers, case.loss, case.scale, before, rows_of(case, epoch.order[start:stop]),
            norm=settings.norm, l2=settings.l2, masks=masks_of(case, np.arange(start, stop)),
        )  # fmt: skip
        loss, loss_error = exact.loss
        if progress.position < stop or not loss + loss_error <= LARGE:
            assert not loss + loss_error <= LARGE, f"stopped without reason: {place}"
            return  # divergence: numbers beyond float32 have no bounds
        loss_error += 2.0**-50 * progress.loss_sum  # rounding of the difference of sums
        assert_within(progress.loss_sum - done.loss_sum, (loss, loss_error), "the loss", place)
        low, high = exact.correct
        right = progress.correct - done.correct
        assert low * (1 - 4 * U) - 1e-6 <= right <= high * (1 + 4 * U) + 1e-6, place
        if is_beyond_clipping(exact.gradients, epoch) and not all_finite(engine.get_parameters()):
            return
        assert_updated(engine, before, state, exact.gradients, epoch, settings, place)


def is_beyond_clipping(gradients, epoch):
    """Return whether the square of a gradient that is clipped may overflow in float32.

    Both engines treat this as divergence: the weights become NaN.
    """
    return epoch.clip_norm > 0 and max(np.abs(g).max() for g, _ in gradients) > 1e17


def all_finite(parameters):
    return all(np.isfinite(array).all() for pair in parameters for array in pair)


def assert_updated(engine, before, state, gradients, epoch, settings, place):
    if epoch.clip_norm:
        gradients = exact_step.clip(gradients, epoch.clip_norm)
    after, after_state = engine.get_parameters(), engine.get_state(len(state))
    for i, pair in enumerate(before):
        for j, array in enumerate(pair):
            slots = [slot[i][j] for slot in state]
            decay = settings.decay if j == 0 else 0.0
            new = exact_step.update(
                array, slots, gradients[2 * i + j], settings.rate, decay, epoch.optimizer
            )
            got = [after[i][j], *(slot[i][j] for slot in after_state)]
            for what, one, bounded in zip(("a parameter", "m", "v"), got, new, strict=False):
                assert_within(one, bounded, what, f"layer {i}, {place}")


def assert_exact_passes(case, number):
    """Compare gradients, evaluation and predictions of both engines."""
    data, layers = case.epoch.data, case.layers
    total = len(case.x) if data.weights is None else data.weights.astype(np.float64).sum()
    if total == 0:
        return
    rows = rows_of(case, slice(None))
    exact = exact_step.step(layers, case.loss, case.scale, case.parameters, rows, norm=total)
    labels = []
    for name in ENGINES:
        place = f"{name}, case {number}"
        engine = get_engine(name, layers, case.loss, input_scale=case.scale)
        engine.set_parameters(case.parameters)
        loss, gradients = engine.loss_and_grad(data)
        assert_within(loss * total, exact.loss, "the loss", place)
        flat = [array for pair in gradients for array in pair]
        for got, bounded in zip(flat, exact.gradients, strict=True):
            assert_within(got, bounded, "a gradient", place)
        loss, accuracy = engine.evaluate(data)
        assert_within(loss * total, exact.loss, "the evaluated loss", place)
        low, high = exact.correct
        assert low - 1e-6 * total <= accuracy * total <= high + 1e-6 * total, place
        labels.append(engine.predict(data.x))
    p, bound = exact_step.predict(layers, case.loss, case.scale, case.parameters, rows.x)
    for name, got in zip(ENGINES, labels, strict=True):
        assert_within(got, (p, bound), "a prediction", f"{name}, case {number}")


def check(numbers):
    for number in numbers:
        case = random_case(number)
        assert_exact_passes(case, number)
        for name in ENGINES:
            assert_exact_epoch(name, case, number)


@LONG
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=REST) for part in range(1, 8))])
def test_engines_agree_with_float64(part):
    check(range(part * SOME // 8, (part + 1) * SOME // 8))


def test_exact_computations_do_not_use_fastnn():
    for name in ("exact_step", "exact_epoch", "formulas", "predictions", "tolerances"):
        tree = ast.parse((SUPPORT / f"{name}.py").read_text("utf-8"))
        imported = {
            each.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for each in ([node.module] if isinstance(node, ast.ImportFrom) else
                         [alias.name for alias in node.names])
        }  # fmt: skip
        assert "fastnn" not in imported, name


def test_buffers_are_large_enough_for_repeated_rows():
    """One row of a thousand is full, and a chunk may repeat it."""
    x = np.zeros((1000, 50), np.float32)
    x[3], x[:, 7] = 1, 2
    rows = select_rows(as_features(csr_array(x), 50), np.full(600, 3))
    assert rows.max_entries(512) == 512 * 50
    assert rows.max_entries(10_000) == 600 * 50
    assert select_rows(rows, np.array([1])).max_entries(512) == 50
    layers = dense_layers([50, 3])
    engine = get_engine("numba", layers, input_scale=1.0)
    engine.set_parameters(initial_parameters(layers, 0))
    np.testing.assert_array_equal(engine.predict(rows), engine.predict(x[np.full(600, 3)]))


@LONG
@pytest.mark.long
def test_engines_agree_with_float64_for_many_networks():
    check(range(FIRST, MANY))
