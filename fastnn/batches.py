"""How an epoch is cut: rows into batches, batches into chunks. Both engines follow this cut.

A batch is what one update learns from. A chunk is what an engine computes at a time: at most
`CHUNK_ROWS` rows of one batch, so that buffers do not grow with the batch, sums over it stay
accurate (every chunk starts a new float32 sum, and the chunks are added in order), and control
can return to Python in the middle of a full-batch update.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

CHUNK_ROWS = 512


@dataclass(frozen=True)
class Epoch:
    """One pass over the data, as an engine takes it.

    Attributes
    ----------
    x : ndarray (n, I), uint8 or float32, C-contiguous
    labels : ndarray (n,), int32
    order : ndarray (n,), int64
        The row that each position of the epoch visits.
    batch_size : int
        1 to n; the last batch takes what is left.
    learning_rate : float
    """

    x: np.ndarray
    labels: np.ndarray
    order: np.ndarray
    batch_size: int
    learning_rate: float

    @property
    def updates(self) -> int:
        """Number of batches, which is the number of updates."""
        return -(-len(self.order) // self.batch_size)


class Progress(NamedTuple):
    """How far an epoch has come: the value that an engine takes and returns.

    Attributes
    ----------
    position : int
        Rows of the epoch's order that are done.
    loss_sum : float
        Sum of their losses, each measured before the update of its batch.
    correct : int
        How many of them were predicted right.
    """

    position: int = 0
    loss_sum: float = 0.0
    correct: int = 0


class Chunk(NamedTuple):
    """The next piece of work: positions ``start`` to ``stop`` of the epoch's order.

    ``first`` and ``last`` say whether it opens and closes its batch of ``batch_rows`` rows.
    """

    start: int
    stop: int
    batch_rows: int
    first: bool
    last: bool


def next_chunk(position: int, rows: int, batch_size: int) -> Chunk:
    """Return the chunk that starts at a position of an epoch of the given number of rows.

    Examples
    --------
    >>> next_chunk(1512, 3000, 1000)
    Chunk(start=1512, stop=2000, batch_rows=1000, first=False, last=True)
    """
    batch_start = position - position % batch_size
    batch_stop = min(batch_start + batch_size, rows)
    stop = min(position + CHUNK_ROWS, batch_stop)
    return Chunk(
        position, stop, batch_stop - batch_start, position == batch_start, stop == batch_stop
    )
