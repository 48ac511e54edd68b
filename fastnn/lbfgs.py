"""L-BFGS, by SciPy, over an engine's `loss_and_grad`."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn.batches import Data
from fastnn.engine import Engine
from fastnn.errors import DivergenceError
from fastnn.layers import Parameters

# SciPy's word for a search that was cut short. Any other end is one: no further descent found, as
# it mostly calls it, is what a minimum in float32 looks like to it.
_LIMIT_REACHED = 1


@dataclass(frozen=True)
class Limits:
    """When to end.

    Attributes
    ----------
    iterations, evaluations : int
        How many steps, and how often the loss may be asked for in all.
    tolerance : float
        Done where no component of the gradient is larger.
    """

    iterations: int
    evaluations: int = 15_000
    tolerance: float = 1e-5


def minimize(
    engine: Engine,
    data: Data,
    l2: float,
    limits: Limits,
    on_iteration: Callable[[float, float], bool],
    first_epoch: int = 0,
) -> bool:
    """Bring the mean loss over all rows to a minimum; return whether it was found.

    Parameters
    ----------
    on_iteration : callable
        Gets the loss that an iteration came to and the seconds it took, while the engine has
        its weights; returns whether to go on.
    first_epoch : int
        The number, from 0, of the first iteration.

    Raises
    ------
    DivergenceError
        If the loss stops being finite; the engine then has the weights of the last iteration.
    """
    from scipy.optimize import minimize as scipy_minimize

    start = engine.get_parameters()
    best, count, since = _flat(start), first_epoch, time.perf_counter()

    def loss_and_grad(flat: np.ndarray) -> tuple[float, np.ndarray]:
        engine.set_parameters(_shaped(flat, start))
        loss, gradient = engine.loss_and_grad(data, l2=l2)
        if not math.isfinite(loss):
            engine.set_parameters(_shaped(best, start))
            raise DivergenceError(
                f"the loss is not finite in epoch {count + 1}: training stopped with the last "
                "finite weights; check the scale of the features",
                epoch=count + 1,
                step=1,
            )
        return loss, _flat(gradient)

    def after_iteration(intermediate_result: "object") -> None:
        nonlocal best, count, since
        best = intermediate_result.x.copy()  # type: ignore[attr-defined]
        count += 1
        engine.set_parameters(_shaped(best, start))
        seconds = time.perf_counter() - since
        go_on = on_iteration(float(intermediate_result.fun), seconds)  # type: ignore[attr-defined]
        since = time.perf_counter()
        if not go_on:
            raise StopIteration

    options = {
        "maxiter": limits.iterations,
        "maxfun": limits.evaluations,
        "gtol": limits.tolerance,
    }
    try:
        result = scipy_minimize(
            loss_and_grad,
            best,
            method="L-BFGS-B",
            jac=True,
            callback=after_iteration,
            options=options,
        )
        return result.status != _LIMIT_REACHED
    finally:  # the line search may have tried other weights since
        engine.set_parameters(_shaped(best, start))


def _quiet_blas(engine: Engine) -> AbstractContextManager[Any]:
    """Keep SciPy's BLAS from starting threads beside an engine that has its own.

    They spin for a while after every call, on the cores that the kernels need: a fit took 1.85
    times as long.
    """
    from threadpoolctl import threadpool_limits

    return nullcontext() if engine.threads is None else threadpool_limits(1, user_api="blas")


def _flat(parameters: Parameters) -> np.ndarray:
    """Return all weights and biases one behind the other, float64."""
    return np.concatenate([array.ravel() for pair in parameters for array in pair], dtype="f8")


def _shaped(flat: np.ndarray, like: Parameters) -> Parameters:
    """Cut a flat vector into weights and biases, float32; what is too large becomes infinite."""
    parameters, at = [], 0
    with np.errstate(over="ignore"):
        flat = flat.astype(np.float32)
    for w, b in like:
        middle, end = at + w.size, at + w.size + b.size
        parameters.append((flat[at:middle].reshape(w.shape), flat[middle:end]))
        at = end
    return parameters
