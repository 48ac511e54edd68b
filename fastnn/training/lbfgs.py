"""L-BFGS: SciPy's minimizer over the loss and gradient of an engine."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from fastnn.data.rows import Data
from fastnn.engine import Engine
from fastnn.errors import DivergenceError
from fastnn.model.layers import Parameters
from fastnn.system.forks import fork_safe_lock, setup_lock
from fastnn.training.plan import Plan

# SciPy's status of a search that reached a limit. Every other search ends when the loss no longer
# falls. In float32 that is a minimum only if the gradient is a small part of the initial one.
_LIMIT_REACHED, _SMALL = 1, 1e-3


def minimize(
    engine: Engine,
    data: Data,
    plan: Plan,
    on_iteration: Callable[[float, float], bool],
    first_epoch: int = 0,
) -> str:
    """Minimize the mean loss over all rows; return how the search ended.

    Return "converged"; "stalled" if the loss no longer fell although the gradient was above the
    tolerance and above 1e-3 of the initial one; or "" if a limit or a callback ended the search.

    Parameters
    ----------
    plan : Plan
        The search ends after `epochs` iterations or `max_evaluations` evaluations of the loss. It
        has converged when no component of the gradient is larger than `tolerance`.
    on_iteration : callable
        Called with the loss after each iteration and its seconds, when the engine has the weights
        of that iteration; returns whether to continue.
    first_epoch : int
        Number of the first iteration, counted from 0.

    Raises
    ------
    DivergenceError
        If the initial loss or gradient is not finite.
    """
    with setup_lock:  # fork() waits for the import: a child could not finish it
        from scipy.optimize import minimize as scipy_minimize

    l2 = plan.l2 / data.total_weight if plan.l2_is_shared else plan.l2
    start = engine.get_parameters()
    best, count, since = _flat(start), first_epoch, time.perf_counter()
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
                f"the loss is not finite in epoch {first_epoch + 1}: training stopped before its "
                "first step; check the scale of the features",
                epoch=first_epoch + 1,
                step=1,
            )
        # The line search went too far: a higher loss makes it try a smaller step.
        return 10 * abs(last[0]) + 1, -last[1]

    def after_iteration(intermediate_result: "object") -> None:
        nonlocal best, count, since
        best = intermediate_result.x.copy()  # type: ignore[attr-defined]
        count += 1
        engine.set_parameters(_shaped(best, start))
        seconds = time.perf_counter() - since
        try:
            continues = on_iteration(float(intermediate_result.fun), seconds)  # type: ignore[attr-defined]
        except StopIteration as error:  # SciPy would take it for the end of the search
            raise RuntimeError("a callback raised StopIteration") from error
        since = time.perf_counter()
        if not continues:
            raise StopIteration

    options = {"maxiter": plan.epochs, "maxfun": plan.max_evaluations, "gtol": plan.tolerance}
    try:
        with nullcontext() if engine.threads is None else _quiet_blas:
            result = scipy_minimize(
                loss_and_grad,
                best,
                method="L-BFGS-B",
                jac=True,
                callback=after_iteration,
                options=options,
            )
        if count == first_epoch:  # the initial weights are optimal: report one iteration
            on_iteration(float(result.fun), time.perf_counter() - since)
        if result.status == _LIMIT_REACHED:
            return ""
        small = max(plan.tolerance, _SMALL * steepest)
        return "converged" if np.abs(result.jac).max() <= small else "stalled"
    finally:  # the line search may have left other weights
        engine.set_parameters(_shaped(best, start))


class _QuietBlas:
    """Context that limits SciPy's BLAS to one thread beside an engine with threads of its own.

    Threads of BLAS spin after each call, on the cores that the kernels need: a fit took 1.85 times
    as long. Of several simultaneous fits, the first sets the limit and the last removes it.
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


_quiet_blas = _QuietBlas()


def _flat(parameters: Parameters) -> np.ndarray:
    """Return all weights and biases in one float64 vector."""
    return np.concatenate([array.ravel() for pair in parameters for array in pair], dtype="f8")


def _shaped(flat: np.ndarray, like: Parameters) -> Parameters:
    """Return a vector's float32 weights and biases; numbers above float32's range become inf."""
    parameters, at = [], 0
    with np.errstate(over="ignore"):
        flat = flat.astype(np.float32)
    for w, b in like:
        middle, end = at + w.size, at + w.size + b.size
        parameters.append((flat[at:middle].reshape(w.shape), flat[middle:end]))
        at = end
    return parameters
