"""L-BFGS: SciPy's minimizer over the loss and gradient of an engine."""

import math
import time
from contextlib import nullcontext
from typing import Any

import numpy as np

from fastnn.errors import DivergenceError
from fastnn.model.layers import Parameters
from fastnn.system.forks import fork_safe_lock, setup_lock
from fastnn.training.fit import Fit

# SciPy's status of a search that reached `epochs` or `max_evaluations`. Any other search ends at a
# small gradient, or because the loss no longer falls. In float32 the latter is a minimum only if
# the gradient is at most `_SMALL` times the initial one.
_LIMIT_REACHED, _SMALL = 1, 1e-3


def minimize(fit: Fit) -> None:
    """Minimize the mean loss over all rows with L-BFGS. Each iteration counts as an epoch.

    The search ends after `epochs` iterations or `max_evaluations` evaluations of the loss, or when
    no component of the gradient is larger than `tolerance` (see `Plan`). Afterwards
    ``fit.position.stopped`` is "converged"; "stalled" if the loss no longer fell although the
    gradient was above the tolerance and above 1e-3 of the initial one; "callback", or "" if the
    search reached a limit.

    Raises
    ------
    DivergenceError
        If the initial loss or gradient is not finite.
    """
    with setup_lock:  # fork() waits for the import: a child could not finish it
        from scipy.optimize import minimize as scipy_minimize

    engine, data, plan = fit.engine, fit.data, fit.plan
    l2 = plan.l2 / data.total_weight if plan.l2_is_shared else plan.l2
    start = engine.get_parameters()
    best, since = _flat(start), time.perf_counter()
    last: tuple[float, np.ndarray] | None = None  # finite loss and gradient
    steepest = 0.0

    def loss_and_grad(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal last, steepest
        engine.set_parameters(_shaped(flat, start))
        loss, parts = engine.loss_and_grad(data, l2=l2)
        gradient = _flat(parts)
        if math.isfinite(loss) and np.isfinite(gradient).all():
            if last is None:
                steepest = np.abs(gradient).max()
            last = loss, gradient
            return last
        if last is None:
            raise DivergenceError(
                f"the loss is not finite in epoch {fit.epoch}: training stopped before its first "
                "step; check the scale of the features",
                epoch=fit.epoch,
                step=1,
            )
        # The line search went too far. A higher loss makes it try a smaller step.
        return 10 * abs(last[0]) + 1, -last[1]

    def after_iteration(intermediate_result: Any) -> None:
        nonlocal best, since
        best = intermediate_result.x.copy()
        engine.set_parameters(_shaped(best, start))
        try:
            _end_iteration(fit, intermediate_result.fun, time.perf_counter() - since)
        except StopIteration as error:  # SciPy would take it for the end of the search
            raise RuntimeError("a callback raised StopIteration") from error
        since = time.perf_counter()
        if fit.position.stopped:
            raise StopIteration

    options = {"maxiter": plan.epochs, "maxfun": plan.max_evaluations, "gtol": plan.tolerance}
    try:
        with nullcontext() if engine.threads is None else _single_threaded_blas:
            result = scipy_minimize(
                loss_and_grad,
                best,
                method="L-BFGS-B",
                jac=True,
                callback=after_iteration,
                options=options,
            )
        if fit.position.epochs == fit.start.epochs:  # the initial weights are optimal
            _end_iteration(fit, result.fun, time.perf_counter() - since)
        if result.status != _LIMIT_REACHED and not fit.position.stopped:
            is_small = np.abs(result.jac).max() <= max(plan.tolerance, _SMALL * steepest)
            stopped = "converged" if is_small else "stalled"
            fit.position = fit.position._replace(stopped=stopped)
    finally:  # the line search may have tried other weights
        engine.set_parameters(_shaped(best, start))


def _end_iteration(fit: Fit, loss: float, seconds: float) -> None:
    """Record an iteration and run its callbacks. SciPy reports an iteration only when it ended."""
    metrics = {"loss": float(loss)}
    if fit.classifies:
        metrics["accuracy"] = fit.engine.evaluate(fit.data)[1]
    metrics["seconds"] = seconds
    fit.call("on_epoch_begin", fit.epoch)
    fit.call("on_chunk_end", fit.epoch, fit.rows)
    fit.end_epoch(metrics)


class _SingleThreadedBlas:
    """Context that limits SciPy's BLAS to one thread, because the engine has its own threads.

    Idle threads of BLAS spin on the cores that the kernels need: a fit took 1.85 times as long. Of
    several simultaneous fits, the first sets the limit and the last removes it.
    """

    def __init__(self) -> None:
        self._lock, self._fits = fork_safe_lock(), 0
        self._limits: Any = None

    def __enter__(self) -> None:
        from threadpoolctl import threadpool_limits

        with self._lock:
            if self._fits == 0:
                self._limits = threadpool_limits(1, user_api="blas")
            self._fits += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._fits -= 1
            if self._fits == 0:
                self._limits.restore_original_limits()


_single_threaded_blas = _SingleThreadedBlas()


def _flat(parameters: Parameters) -> np.ndarray:
    """Return all weights and biases in one float64 vector."""
    return np.concatenate([array.ravel() for pair in parameters for array in pair], dtype="f8")


def _shaped(flat: np.ndarray, like: Parameters) -> Parameters:
    """Return a vector's float32 weights and biases; numbers above float32's range become inf."""
    parameters, start = [], 0
    with np.errstate(over="ignore"):
        flat = flat.astype(np.float32)
    for w, b in like:  # np.split takes 8 % of a small fit
        middle, stop = start + w.size, start + w.size + b.size
        parameters.append((flat[start:middle].reshape(w.shape), flat[middle:stop]))
        start = stop
    return parameters
