"""What an engine is, and where the two are found. The only file that knows both rooms."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from fastnn.data.features import Features
from fastnn.data.rows import Data
from fastnn.epoch import CHUNK_ROWS, Epoch, Progress
from fastnn.model.layers import Dense, Parameters
from fastnn.model.losses import LOSSES, Loss
from fastnn.system.memory import FLOAT_BYTES, check_memory

ENGINES = ("numba", "numpy")


class Engine(Protocol):
    """The arithmetic of one network: its parameters, and the buffers that training needs.

    Data are as `fastnn.data.conversion` leaves them. Parameters cross this border as plain (I, O)
    weights and (O,) biases in float32, whatever the engine keeps inside.

    Attributes
    ----------
    name : str
        "numba" or "numpy".
    threads : int or None
        Threads that the engine computes with; None where a BLAS library decides.
    arithmetic : dict of str to str
        What its bits depend on, besides fastnn and NumPy, by names.
    threading_layer : str or None
        What runs those threads: "tbb", "omp" or "workqueue"; None where nothing of ours does.
    compile_seconds : float
        What it took to have the kernels ready: compiled now, or read from the cache.
    compiled : bool
        Whether anything had to be compiled now.
    """

    name: str
    threads: int | None
    arithmetic: Mapping[str, str]
    threading_layer: str | None
    compile_seconds: float
    compiled: bool

    def get_parameters(self) -> Parameters:
        """Return a copy of the parameters."""
        ...

    def set_parameters(self, parameters: Parameters) -> None:
        """Replace the parameters by a copy of these."""
        ...

    def get_state(self, slots: int) -> list[Parameters]:
        """Return a copy of so many slots of the optimizer's state, each like parameters."""
        ...

    def set_state(self, state: list[Parameters]) -> None:
        """Replace the optimizer's state by a copy of this; slots that are not given are zero."""
        ...

    def run_chunk(self, epoch: Epoch, progress: Progress, budget_rows: int) -> Progress:
        """Train on at least `budget_rows` further rows, or to the end of the epoch.

        Stops at the end of a chunk. A loss that is not finite stops it at once: then the
        returned ``loss_sum`` is not finite, ``position`` is where that chunk starts, and its
        batch's update has not been applied.
        """
        ...

    def loss_and_grad(self, data: Data, *, l2: float = 0.0) -> tuple[float, Parameters]:
        """Return the mean loss over these rows as one batch, and its gradient; no dropout.

        With ``l2 / 2 · Σ w²`` over all weights, but no biases, added to it.
        """
        ...

    def evaluate(self, data: Data) -> tuple[float, float]:
        """Return the mean loss and the accuracy over these rows; 0 for a regression's accuracy."""
        ...

    def predict(self, x: Features) -> np.ndarray:
        """Return predictions (rows, O) float32: probabilities, or the values themselves.

        Raises
        ------
        DataError
            If a feature is not finite: here alone that has not been checked before.
        """
        ...


def get_engine(
    name: str,
    layers: Sequence[Dense],
    loss: Loss = LOSSES["cross_entropy"],
    *,
    input_scale: float,
    threads: int | None = None,
) -> Engine:
    """Build an engine for a network, with parameters zero.

    Parameters
    ----------
    name : {"numba", "numpy"}
    layers : sequence of Dense
    loss : Loss
    input_scale : float
        Features are multiplied by this on their way in.
    threads : int, optional
        For the Numba engine; by default all that the process may use.

    Raises
    ------
    ValueError
        If there is no such engine, or it cannot have that many threads.
    MemoryError
        If there is no room for it.
    """
    check_engine(layers)
    if name == "numba":
        from fastnn.kernels.engine import NumbaEngine

        return NumbaEngine(layers, loss, input_scale=input_scale, threads=threads)
    if name == "numpy":
        from fastnn.reference.engine import ReferenceEngine

        return ReferenceEngine(layers, loss, input_scale=input_scale)
    raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")


def needs_compiling(name: str) -> bool:
    """Return whether building this engine will first compile its kernels, which takes seconds."""
    if name != "numba":
        return False
    from fastnn.kernels.engine import kernels_are_cached

    return not kernels_are_cached()


def fill_cache(directory: Path | None, say: Callable[[str], None]) -> None:
    """Compile the Numba engine's kernels unless they are cached, and report where they are.

    Parameters
    ----------
    directory : Path, optional
        Where to store them, readable by all users; by default the usual cache directory.

    Raises
    ------
    OSError
        If they cannot be stored.
    """
    from fastnn.kernels import engine as step

    step.fill_cache(directory, say)


@cache
def usable_threads() -> int:
    """Return how many threads the Numba engine may have in this process."""
    from fastnn.kernels.jit import threads as _threads

    return _threads.usable()


def check_engine(layers: Sequence[Dense]) -> None:
    """Raise a MemoryError if there is no room for an engine of these layers.

    The network has the weights and so has the engine, which needs them once more on their way in,
    or transposed. Of every layer a chunk of rows has its input, its output and the gradient of
    that.
    """
    rows = sum(layer.inputs + 2 * layer.outputs for layer in layers) * CHUNK_ROWS
    needs = {"weights": 3 * weight_bytes(layers), "rows at work": rows * FLOAT_BYTES}
    check_memory("the network", needs, "narrower layers need less")


def weight_bytes(layers: Sequence[Dense]) -> int:
    """Return the bytes of all weights and biases."""
    return FLOAT_BYTES * sum(layer.parameters for layer in layers)
