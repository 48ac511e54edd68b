"""The division of an epoch into batches, and of batches into chunks."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastnn.data.rows import Data
from fastnn.epoch import CHUNK_ROWS, Chunk, Epoch, Progress, next_chunk


def chunks(rows: int, batch_size: int) -> list[Chunk]:
    """Return all chunks of an epoch."""
    found, position = [], 0
    while position < rows:
        found.append(next_chunk(position, rows, batch_size))
        assert found[-1].stop > position  # else the loop would not end
        position = found[-1].stop
    return found


def epoch(rows: int, batch_size: int) -> Epoch:
    x, labels = np.zeros((rows, 1), np.float32), np.zeros(rows, np.int32)
    return Epoch(Data(x, labels), np.arange(rows), batch_size, 0.1)


def test_chunks_hold_at_most_512_rows():
    assert CHUNK_ROWS == 512  # the bits of results depend on it: each chunk starts a new sum


sizes = given(rows=st.integers(1, 5000), batch_size=st.integers(1, 5000))
no_deadline = settings(deadline=None)  # the machine may be busy


@sizes
@example(rows=1, batch_size=1)
@example(rows=512, batch_size=512)
@example(rows=513, batch_size=513)
@example(rows=1024, batch_size=1024)
@example(rows=1025, batch_size=512)
@example(rows=2000, batch_size=1)
@no_deadline
def test_chunks_cover_every_row_once_and_end_with_their_batch(rows, batch_size):
    batch_size = min(batch_size, rows)
    expected_start = 0
    for chunk in chunks(rows, batch_size):
        assert chunk.start == expected_start
        assert 1 <= chunk.stop - chunk.start <= CHUNK_ROWS
        batch_start = chunk.start // batch_size * batch_size
        batch_stop = min(rows, batch_start + batch_size)
        assert chunk.stop <= batch_stop
        assert chunk.first == (chunk.start == batch_start)
        assert chunk.last == (chunk.stop == batch_stop)
        # Only the last chunk of a batch may be short.
        assert chunk.last or chunk.stop - chunk.start == CHUNK_ROWS
        expected_start = chunk.stop
    assert expected_start == rows


@pytest.mark.parametrize(
    ("rows", "batch_size", "expected"),
    [
        (1, 1, [Chunk(0, 1, True, True)]),
        (
            5,
            2,
            [Chunk(0, 2, True, True), Chunk(2, 4, True, True), Chunk(4, 5, True, True)],
        ),
        (512, 512, [Chunk(0, 512, True, True)]),
        (513, 513, [Chunk(0, 512, True, False), Chunk(512, 513, False, True)]),
        (
            1500,
            1200,
            [
                Chunk(0, 512, True, False),
                Chunk(512, 1024, False, False),
                Chunk(1024, 1200, False, True),
                Chunk(1200, 1500, True, True),
            ],
        ),
    ],
)
def test_chunks_worked_by_hand(rows, batch_size, expected):
    assert chunks(rows, batch_size) == expected


@sizes
@no_deadline
def test_epoch_has_one_update_per_batch(rows, batch_size):
    batch_size = min(batch_size, rows)
    last = [chunk.last for chunk in chunks(rows, batch_size)]
    assert epoch(rows, batch_size).updates == sum(last)


def test_progress_starts_at_zero():
    assert Progress() == (0, 0.0, 0)
