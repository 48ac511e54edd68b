"""L-BFGS with both engines: its minima, how it ends, and the weights it leaves."""

import math
import time
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
from parameters import assert_same_parameters
from scipy.optimize import minimize as scipy_minimize
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info, threadpool_limits

from fastnn import Callback, DivergenceError, MLPClassifier, Network
from fastnn.data.rows import Data
from fastnn.model.optimizers import get_optimizer
from fastnn.training.early_stopping import EarlyStopping
from fastnn.training.lbfgs import _shaped, _single_threaded_blas
from fastnn.training.plan import Plan
from fastnn.training.preparation import prepare


@pytest.fixture
def data(rng):
    """Return classes that overlap, so that the loss has a minimum above 0."""
    labels = rng.integers(0, 3, 120)
    x = rng.normal(size=(120, 4)) + np.eye(3, 4)[labels]
    return x.astype(np.float32), labels.astype(np.int32)


# ---- minima ----------------------------------------------------------------------------------


def exact_regression(flat, x, labels, l2):
    """Return the loss and gradient of softmax regression in float64, by the formula."""
    w, b = flat[:12].reshape(4, 3), flat[12:]
    z = x.astype(np.float64) @ w + b
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(x)), labels]).mean() + l2 / 2 * (w**2).sum()
    p[np.arange(len(x)), labels] -= 1
    return loss, np.append(x.T @ p / len(x) + l2 * w, p.mean(axis=0))


def test_finds_the_minimum_of_a_convex_problem(engine, data):
    l2 = 0.01
    network = Network([4, 3])
    history = network.fit(*data, epochs=200, optimizer="lbfgs", l2=l2, engine=engine)
    exact = scipy_minimize(
        exact_regression, np.zeros(15), (*data, l2), jac=True, method="BFGS", options={"gtol": 1e-9}
    )
    assert history["loss"][-1] == pytest.approx(exact.fun, rel=1e-6)
    assert len(history["loss"]) < 100
    # The loss is minimal up to a relative error of 1e-7. Its curvature along the weights is at
    # least l2, so their error is at most √(2e-7 / 0.01) = 4e-3.
    ((w, b),) = network.parameters
    assert np.abs(w.ravel() - exact.x[:12]).max() <= 4e-3
    # The loss does not depend on the mean of the biases.
    b_exact = exact.x[12:] - exact.x[12:].mean()
    assert np.abs(b - b.mean() - b_exact).max() <= 4e-3


@pytest.mark.parametrize(
    ("activation", "loss"),
    [("tanh", "cross_entropy"), ("relu", "squared_error"), ("gelu", "logistic")],
)
def test_reaches_a_much_lower_loss_than_gradient_descent(engine, rng, activation, loss):
    x = rng.uniform(-1, 1, (200, 2)).astype(np.float32)
    above = np.sin(3 * x[:, 0]) > x[:, 1]
    y = above.astype(int) if loss != "squared_error" else np.sin(3 * x[:, :1]) * x[:, 1:]
    losses = {}
    for optimizer in ("sgd", "lbfgs"):
        outputs = 2 if loss == "cross_entropy" else 1
        network = Network([2, 16, outputs], activation=activation, loss=loss, seed=3)
        history = network.fit(
            x, y, epochs=150, batch_size="full", optimizer=optimizer, engine=engine
        )
        losses[optimizer] = history["loss"][-1]
        assert network.evaluate(x, y)[0] <= history["loss"][0]
    assert losses["lbfgs"] < losses["sgd"] / 5


def test_first_iterations_of_the_engines_agree(data):
    losses = []
    for engine in ("numba", "numpy"):
        network = Network([4, 8, 3], activation="tanh", seed=1)
        losses.append(network.fit(*data, epochs=8, optimizer="lbfgs", engine=engine)["loss"])
    # Rounding may change a step of the line search, but does not in the first eight iterations.
    np.testing.assert_allclose(*losses, rtol=1e-4)


# ---- history and weights ---------------------------------------------------------------------


def test_each_iteration_is_an_epoch_with_the_figures_of_its_weights(engine, data):
    epochs = []

    class CheckFigures(Callback):
        def on_epoch_end(self, epoch, metrics):
            loss, accuracy = running.evaluate(Data(*data))
            epochs.append(epoch)
            assert metrics["loss"] == pytest.approx(loss, rel=1e-6)
            assert metrics["accuracy"] == accuracy

    network = Network([4, 8, 3])
    running = network.use_engine(engine)
    history = network.fit(
        *data, epochs=7, optimizer="lbfgs", engine=engine, validation_data=data,
        callbacks=[CheckFigures()],
    )  # fmt: skip
    assert epochs == list(range(1, 8))
    assert history.keys() == {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"}
    assert all(len(values) == 7 for values in history.values())
    assert (np.diff(history["loss"]) < 0).all()
    assert history["val_loss"] == pytest.approx(history["loss"], rel=1e-6)
    assert all(seconds > 0 for seconds in history["seconds"])
    assert network.epochs_trained == 7


def test_final_weights_are_those_of_the_last_iteration(engine, data):
    """The line search may have tried others afterwards."""
    for epochs in range(1, 25, 2):
        network = Network([4, 8, 3], seed=1)
        history = network.fit(
            *data, epochs=epochs, optimizer="lbfgs", engine=engine, validation_data=data
        )
        assert network.evaluate(*data) == (history["val_loss"][-1], history["val_accuracy"][-1])


def test_loss_includes_row_weights_and_the_penalty(engine, data, rng):
    x, labels = data
    weights = rng.integers(0, 4, 120)
    repeated = np.repeat(np.arange(120), weights)
    networks = Network([4, 3]), Network([4, 3])
    settings = {"epochs": 100, "optimizer": "lbfgs", "l2": 0.05, "engine": engine}
    history = networks[0].fit(x, labels, sample_weight=weights, **settings)
    other = networks[1].fit(x[repeated], labels[repeated], **settings)
    assert history["loss"][-1] == pytest.approx(other["loss"][-1], rel=1e-6)
    squares = (networks[0].parameters[0][0].astype(np.float64) ** 2).sum()
    unpenalised, _ = networks[0].evaluate(x, labels, weights)
    assert history["loss"][-1] == pytest.approx(unpenalised + 0.025 * squares, rel=1e-6)


# ---- the end ---------------------------------------------------------------------------------


def trained(network, data, **settings):
    """Return a finished fit."""
    plan = Plan(batch_size="full", optimizer=get_optimizer("lbfgs"), **settings)
    return network._train(prepare(network, plan, *data))


def test_converges_when_the_gradient_is_small(engine, data):
    network = Network([4, 3])
    running = network.use_engine(engine)
    fit = trained(network, data, epochs=500, l2=0.01, tolerance=1e-3)
    assert fit.position.stopped == "converged" and len(fit.history["loss"]) < 50
    _, ((dw, db),) = running.loss_and_grad(Data(*data), l2=0.01)
    assert max(np.abs(dw).max(), np.abs(db).max()) <= 1e-3


def test_stops_at_the_limit_of_iterations_or_evaluations(engine, data):
    network = Network([4, 8, 3])
    network.use_engine(engine)
    assert trained(network, data, epochs=3).position.stopped == ""
    fit = trained(network, data, epochs=500, max_evaluations=6)
    assert fit.position.stopped == "" and len(fit.history["loss"]) <= 6


def test_stalls_if_the_loss_does_not_fall_although_the_gradient_is_large(engine, rng):
    """A first step of length 1 changes a loss of 1e17 by less than float32 can represent."""
    x = rng.normal(size=(150, 6)).astype(np.float32)
    for size, stopped in ((1.0, "converged"), (1e9, "stalled")):
        network = Network([6, 1], loss="squared_error")
        running = network.use_engine(engine)
        data = x, size * x[:, :1]
        first = np.abs(running.loss_and_grad(Data(*data))[1][0][0]).max()
        with nullcontext() if stopped == "converged" else pytest.warns(ConvergenceWarning):
            assert trained(network, data, epochs=500).position.stopped == stopped
        last = np.abs(running.loss_and_grad(Data(*data))[1][0][0]).max()
        assert (last <= max(1e-5, 1e-3 * first)) == (stopped == "converged")


def test_early_stopping_restores_the_best_weights(engine, rng):
    x, labels = rng.normal(size=(60, 10)).astype(np.float32), rng.integers(0, 3, 60)
    network = Network([10, 16, 3])
    history = network.fit(
        x[:40], labels[:40], epochs=200, optimizer="lbfgs", engine=engine,
        validation_data=(x[40:], labels[40:]), early_stopping=EarlyStopping(patience=3),
    )  # fmt: skip
    assert 4 <= len(history["val_loss"]) < 50
    assert network.evaluate(x[40:], labels[40:])[0] == min(history["val_loss"])
    assert min(history["val_loss"]) < history["val_loss"][-1]


def test_takes_no_step_from_weights_that_are_optimal(engine, data):
    network = Network([4, 3])
    network.use_engine(engine)
    trained(network, data, epochs=500, l2=0.01)
    before = network.parameters
    fit = trained(network, data, epochs=500, l2=0.01, tolerance=1.0)
    assert len(fit.history["loss"]) == 1 and fit.position.stopped == "converged"
    assert_same_parameters(network.parameters, before)


# ---- divergence ------------------------------------------------------------------------------


def test_infinite_initial_loss_changes_nothing(engine):
    network = Network([1, 2])
    network.parameters = [([[1e30, -1e30]], [0, 0])]
    before = network.parameters
    with pytest.raises(
        DivergenceError, match="^the loss is not finite in epoch 1: training stop"
    ) as caught:
        network.fit([[1e30]], [0], optimizer="lbfgs", engine=engine)
    assert (caught.value.epoch, caught.value.step) == (1, 1)
    assert network.epochs_trained == 0
    assert_same_parameters(network.parameters, before)


class FailingEngine:
    """Reference engine whose loss is infinite or raises an error after some evaluations."""

    def __init__(self, engine, evaluations, error=None):
        self._engine, self._left, self._error = engine, evaluations, error

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def loss_and_grad(self, data, *, l2):
        self._left -= 1
        loss, gradient = self._engine.loss_and_grad(data, l2=l2)
        if self._left < 0 and self._error:
            raise self._error
        return (loss if self._left >= 0 else math.inf), gradient


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
@pytest.mark.parametrize("evaluations", [4, 6, 9])
def test_interrupted_search_leaves_the_weights_of_the_last_iteration(data, evaluations, error):
    iterates = []

    class RecordWeights(Callback):
        def on_epoch_end(self, epoch, metrics):
            iterates.append(self.fit.weights())

    network = Network([4, 3])
    network._engine = FailingEngine(network.use_engine("numpy"), evaluations, error)
    settings = {"optimizer": "lbfgs", "engine": "numpy", "callbacks": [RecordWeights()]}
    with pytest.raises(KeyboardInterrupt) if error else pytest.warns(ConvergenceWarning):
        network.fit(*data, epochs=100, **settings)
    assert len(iterates) >= 2
    assert_same_parameters(network.parameters, iterates[-1])


def test_line_search_recovers_from_an_infinite_loss(engine, rng):
    """In the first steps, e^z overflows."""
    x = 3 * rng.standard_normal((200, 8)).astype(np.float32)
    y = rng.poisson(np.exp(np.clip(x[:, 0], -3, 5)))
    network = Network([8, 32, 1], loss="poisson", seed=0)
    history = network.fit(x, y, epochs=60, optimizer="lbfgs", engine=engine)
    assert history["loss"][-1] < history["loss"][0] / 10


def test_step_that_overflows_float32_is_infinite_without_a_warning():
    """SciPy searches in float64. The loss of infinite weights is not finite."""
    like = [(np.zeros((1, 2), np.float32), np.zeros(1, np.float32))]
    ((w, b),) = _shaped(np.array([1e39, -2.0, -1e300]), like)
    assert (w.tolist(), b.tolist()) == ([[math.inf, -2.0]], [-math.inf])
    assert w.dtype == b.dtype == np.float32


# ---- BLAS threads and time -------------------------------------------------------------------


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_threads_of_blas_are_restored_after_the_last_of_several_fits():
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with _single_threaded_blas:
            with _single_threaded_blas:  # as by another Python thread
                assert blas_threads() == {1}
            assert blas_threads() == {1}
        assert blas_threads() == before


def test_blas_has_one_thread_beside_the_kernels_only(engine, data):
    threads = []

    class RecordThreads(Callback):
        def on_epoch_end(self, epoch, metrics):
            threads.append(blas_threads())

    settings = {"epochs": 2, "optimizer": "lbfgs", "engine": engine}
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        Network([4, 3]).fit(*data, callbacks=[RecordThreads()], **settings)
    assert threads == 2 * [{1} if engine == "numba" else before]


def test_seconds_of_iterations_exclude_callbacks(engine, data):

    class Pause(Callback):
        def on_epoch_end(self, epoch, metrics):
            time.sleep(0.002)

    start = time.perf_counter()
    settings = {"epochs": 10, "optimizer": "lbfgs", "engine": engine}
    history = Network([4, 3]).fit(*data, callbacks=[Pause()], **settings)
    assert len(history["seconds"]) == 10
    assert sum(history["seconds"]) <= time.perf_counter() - start - 10 * 0.002
    assert min(history["seconds"]) > 0


@pytest.mark.parametrize("weighted", [False, True])
def test_penalty_of_an_estimator_is_divided_by_the_weight_of_the_rows(engine, data, weighted):
    """As in scikit-learn, it is alpha / 2 · Σ w², divided by the number or weight of the rows."""
    x, y = data
    weights = np.linspace(0.5, 3, len(x)) if weighted else np.ones(len(x))
    model = MLPClassifier((5,), solver="lbfgs", alpha=30.0, max_iter=4, random_state=0)
    model.set_params(engine=engine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about convergence
        model.fit(x, y, sample_weight=weights if weighted else None)
    own = -np.log(model.predict_proba(x)[np.arange(len(x)), y])
    penalty = 30 / 2 * sum((w.astype("f8") ** 2).sum() for w in model.coefs_) / weights.sum()
    assert penalty > 0.01
    assert model.loss_ == pytest.approx(np.average(own, weights=weights) + penalty, rel=1e-5)
