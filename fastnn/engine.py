"""The interface of the two engines, and the functions that create them."""

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
    """The parameters, buffers and arithmetic of one network.

    Methods take data that `fastnn.data.conversion` has checked. Parameters are passed as weights
    (I, O) and biases (O,) in float32, however the engine stores them internally. Shapes use I and
    O for the numbers of inputs and outputs of a layer, or of the network.

    Attributes
    ----------
    name : str
        "numba" or "numpy".
    threads : int or None
        Number of threads; None if NumPy's BLAS library chooses it.
    arithmetic : dict of str to str
        Versions and processor features that determine the bits of results, besides the versions of
        fastnn and NumPy. A checkpoint records them.
    threading_layer : str or None
        Library that runs the threads: "tbb", "omp" or "workqueue"; "none" if the JIT is disabled,
        and None for the NumPy engine.
    compile_seconds : float
        Seconds spent on compiling the kernels or reading them from the cache.
    compiled : bool
        Whether a kernel was compiled when this engine was created. It is false if all kernels
        were read from the cache, or were in use by an earlier engine of this process.
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
        """Set the parameters; the engine copies them."""
        ...

    def get_state(self, slots: int) -> list[Parameters]:
        """Return a copy of the optimizer's state.

        It has `slots` items, each shaped like the parameters: none for SGD, the velocities for
        momentum, the mean gradients and the mean squares for Adam.
        """
        ...

    def set_state(self, state: list[Parameters]) -> None:
        """Set the optimizer's state; the engine copies it, and zeros the slots that are missing."""
        ...

    def run_chunk(self, epoch: Epoch, progress: Progress, min_rows: int) -> Progress:
        """Train on at least `min_rows` more rows, or to the end of the epoch.

        A call ends at the end of a chunk, so it may exceed `min_rows`. It also ends at a loss that
        is not finite: then the returned ``loss_sum`` is not finite, ``position`` is the start of
        that chunk, and the update of its batch is not applied.
        """
        ...

    def loss_and_grad(self, data: Data, *, l2: float = 0.0) -> tuple[float, Parameters]:
        """Return the mean loss of all rows as one batch, and its gradient, without dropout.

        The loss includes ``l2 / 2 · Σ w²`` over all weights, without biases.
        """
        ...

    def evaluate(self, data: Data) -> tuple[float, float]:
        """Return the mean loss and the accuracy, which is 0 for a regression."""
        ...

    def predict(self, x: Features) -> np.ndarray:
        """Return predictions (rows, O) float32: probabilities, or values for a regression.

        Raises
        ------
        DataError
            If a feature is not finite. Only this method checks it; see `fastnn.data.conversion`.
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
    """Create an engine for a network, with all parameters zero.

    Parameters
    ----------
    name : {"numba", "numpy"}
    layers : sequence of Dense
    loss : Loss
    input_scale : float
        Factor that features are multiplied by.
    threads : int, optional
        Number of threads of the Numba engine; by default all that the process may use.

    Raises
    ------
    ValueError
        If there is no such engine, or `threads` is out of range.
    MemoryError
        If the engine does not fit into memory.
    """
    check_engine_memory(layers)
    if name == "numba":
        from fastnn.kernels.engine import NumbaEngine

        return NumbaEngine(layers, loss, input_scale=input_scale, threads=threads)
    if name == "numpy":
        from fastnn.reference.engine import ReferenceEngine

        return ReferenceEngine(layers, loss, input_scale=input_scale)
    raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")


def needs_compiling(name: str) -> bool:
    """Return whether `get_engine` would compile kernels, which takes seconds."""
    if name != "numba":
        return False
    from fastnn.kernels.engine import kernels_are_cached

    return not kernels_are_cached()


def fill_cache(directory: Path | None, report: Callable[[str], None]) -> None:
    """Compile the Numba engine's kernels and store them in the cache, unless they are there.

    Parameters
    ----------
    directory : Path, optional
        Directory for the compiled kernels, readable by all users; by default the user's cache.
    report : callable
        Receives each line of the report.

    Raises
    ------
    OSError
        If the kernels cannot be stored.
    """
    from fastnn.kernels import engine

    engine.fill_cache(directory, report)


@cache
def usable_threads() -> int:
    """Return the number of threads that the Numba engine may use in this process."""
    from fastnn.kernels.jit import threads

    return threads.usable_threads()


def check_engine_memory(layers: Sequence[Dense]) -> None:
    """Raise a MemoryError if an engine for these layers does not fit into memory.

    The weights count three times: in the network, in the engine, and as a temporary or transposed
    copy. The buffers of a chunk hold the input, the output and the output's gradient of each layer.
    """
    size = FLOAT_BYTES * CHUNK_ROWS * sum(layer.inputs + 2 * layer.outputs for layer in layers)
    needs = {"weights": 3 * weight_bytes(layers), f"buffers for {CHUNK_ROWS} rows": size}
    check_memory("the network", needs, "narrower layers need less")


def weight_bytes(layers: Sequence[Dense]) -> int:
    """Return the size of all weights and biases in bytes."""
    return FLOAT_BYTES * sum(layer.parameters for layer in layers)
