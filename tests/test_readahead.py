"""Reading ahead: which pages are asked for and when, and that nothing else depends on it."""

import mmap

import numpy as np
import pytest

from fastnn import Network, randomness, readahead
from fastnn.batches import Data
from fastnn.randomness import permutation
from fastnn.readahead import ReadAhead, mapped

ROWS, WIDTH = 3001, 64
SIZES = [WIDTH, 8, 3]
HEADER = 5000  # bytes in front of the rows: more than a page

needs_advice = pytest.mark.skipif(
    not hasattr(mmap, "MADV_WILLNEED"), reason="the system takes no advice on maps"
)


class Recorder(mmap.mmap):
    """A map that writes down which of its bytes are asked for."""

    asked: list[tuple[int, int]]

    def madvise(self, option, start, length):
        assert option == mmap.MADV_WILLNEED and start % mmap.PAGESIZE == 0
        assert 0 < length <= readahead.REQUEST_BYTES and start + length <= len(self)
        super().madvise(option, start, length)
        self.asked.append((start, start + length))

    def pages(self):
        """Return the pages asked for since the last call, and forget them."""
        found = [range(a // mmap.PAGESIZE, -(-b // mmap.PAGESIZE)) for a, b in self.asked]
        self.asked.clear()
        return {page for pages in found for page in pages}


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut small data as large data are: here, 3,001 rows of 64 bytes in 24 blocks, 6 windows."""
    monkeypatch.setattr(randomness, "WHOLE_BYTES", 2**16)
    monkeypatch.setattr(randomness, "BLOCK_BYTES", 2**13)
    monkeypatch.setattr(randomness, "WINDOW_BYTES", 2**15)


@pytest.fixture(params=[np.uint8, np.float32])
def arrays(request, rng):
    """Random rows, and the labels of three classes."""
    return rng.integers(0, 5, (ROWS, WIDTH)).astype(request.param), rng.integers(0, 3, ROWS)


@pytest.fixture
def file(arrays, tmp_path):
    np.save(tmp_path / "x.npy", arrays[0])
    return tmp_path / "x.npy"


@pytest.fixture
def recorded(arrays, tmp_path):
    """The rows behind a header, in a map that writes down what it is asked for."""
    path = tmp_path / "rows"
    path.write_bytes(bytes(HEADER) + arrays[0].tobytes())
    with path.open("rb") as opened:
        recorder = Recorder(opened.fileno(), 0, access=mmap.ACCESS_READ)
    recorder.asked = []
    x = np.frombuffer(recorder, arrays[0].dtype, offset=HEADER).reshape(ROWS, WIDTH)
    np.testing.assert_array_equal(x, arrays[0])
    return x, recorder


def pages_of(rows, x):
    """Return the pages of a file that hold the blocks of some rows."""
    block = randomness.BLOCK_BYTES // x[0].nbytes
    pages = set()
    for number in set((rows // block).tolist()):
        start = HEADER + number * block * x[0].nbytes
        stop = HEADER + min(ROWS, (number + 1) * block) * x[0].nbytes
        pages |= set(range(start // mmap.PAGESIZE, -(-stop // mmap.PAGESIZE)))
    return pages


def trained(x, y, engine, *, epochs=(3,), **settings):
    """Return the weights after fits of so many epochs, and all losses."""
    network = Network(SIZES, seed=4)
    losses = []
    for number in epochs:
        losses += network.fit(x, y, epochs=number, engine=engine, **settings)["loss"]
    return [array.tobytes() for pair in network.parameters for array in pair], losses


# ---- the map behind an array ----------------------------------------------------------------


@needs_advice
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        np.asarray,
        lambda x: x[17:],
        lambda x: np.asarray(x)[5:900][3:],
        lambda x: np.asarray(memoryview(np.asarray(x))),
    ],
    ids=["map", "asarray", "slice", "slices", "memoryview"],
)
def test_the_map_is_found_behind_views(file, arrays, view):
    array = view(np.load(file, mmap_mode="r"))
    owner, start, row_bytes = mapped(array)
    assert isinstance(owner, mmap.mmap) and row_bytes == arrays[0][0].nbytes
    assert owner[start : start + array.nbytes] == array.tobytes()


@needs_advice
def test_a_map_that_begins_in_the_middle_of_a_file(file):
    offset = 1000 * WIDTH + 7  # NumPy maps from a page before it
    array = np.memmap(file, np.uint8, "r", offset, (100, WIDTH))
    owner, start, _ = mapped(array)
    assert owner[start : start + array.nbytes] == file.read_bytes()[offset:][: array.nbytes]


def test_arrays_in_memory_are_not_mapped(file):
    x = np.load(file, mmap_mode="r")
    for array in (np.array(x), x[[1, 2]], np.frombuffer(bytes(64), np.uint8).reshape(1, 64)):
        assert mapped(array) is None


# ---- what is asked for ----------------------------------------------------------------------


@needs_advice
@pytest.mark.parametrize("request_bytes", [mmap.PAGESIZE, 2**17])
def test_each_window_is_asked_for_while_the_one_before_is_trained(
    recorded, small_blocks, monkeypatch, request_bytes
):
    monkeypatch.setattr(readahead, "REQUEST_BYTES", request_bytes)
    x, recorder = recorded
    order = permutation(0, 0, ROWS, x[0].nbytes)
    window = randomness.window_rows(ROWS, x[0].nbytes)
    windows = [order[start : start + window] for start in range(0, ROWS, window)]
    ahead = ReadAhead(Data(x, np.zeros(ROWS, np.int32)), order)
    assert not recorder.asked
    ahead.advance(0)
    assert recorder.pages() == pages_of(windows[0], x)
    block = randomness.BLOCK_BYTES // x[0].nbytes
    for number, following in enumerate(windows[1:], start=1):
        ahead.advance((number - 1) * window + 1)
        # A block that lies in two windows has been asked for with the first.
        new = ~np.isin(following // block, order[: number * window] // block)
        assert recorder.pages() == pages_of(following[new], x)
        ahead.advance(number * window)
        assert not recorder.asked, "once is enough"
    ahead.advance(ROWS)
    assert not recorder.asked
    assert len(windows) > 5 and len(set(windows[0] // block)) < ROWS / block / 3


@needs_advice
def test_a_call_that_takes_several_windows_has_them_all(recorded, small_blocks):
    x, recorder = recorded
    order = permutation(0, 0, ROWS, x[0].nbytes)
    window = randomness.window_rows(ROWS, x[0].nbytes)
    ReadAhead(Data(x, np.zeros(ROWS, np.int32)), order).advance(2 * window)
    assert recorder.pages() == pages_of(order[: 3 * window], x)


@needs_advice
def test_rows_in_their_order_are_read_in_stretches(recorded, small_blocks):
    x, recorder = recorded
    ahead = ReadAhead(Data(x, np.zeros(ROWS, np.int32)), np.arange(ROWS))
    window = randomness.window_rows(ROWS, x[0].nbytes)
    ahead.advance(0)
    first = recorder.pages()
    ahead.advance(1)
    second = recorder.pages()
    assert first == pages_of(np.arange(window), x)
    assert first | second == pages_of(np.arange(2 * window), x)


@needs_advice
def test_rows_that_are_shuffled_as_one_are_all_asked_for_before_the_first(recorded):
    x, recorder = recorded
    ahead = ReadAhead(Data(x, np.zeros(ROWS, np.int32)), permutation(0, 0, ROWS, x[0].nbytes))
    ahead.advance(0)
    assert recorder.pages() == pages_of(np.arange(ROWS), x)
    ahead.advance(ROWS)
    assert not recorder.asked


@needs_advice
def test_targets_in_a_file_are_read_ahead_too(recorded, small_blocks, rng):
    y, recorder = recorded
    x = rng.random((ROWS, WIDTH // 2)).astype(np.float32)  # whose rows decide how it is cut
    order = permutation(0, 0, ROWS, x[0].nbytes)
    window = randomness.window_rows(ROWS, x[0].nbytes)
    ReadAhead(Data(x, y), order).advance(0)
    pages, at = recorder.pages(), HEADER + order[:window] * y[0].nbytes
    assert set((at // mmap.PAGESIZE).tolist()) <= pages < pages_of(order, y)


@needs_advice
def test_an_epoch_asks_for_all_and_the_first_window_comes_first(
    recorded, arrays, small_blocks, engine
):
    x, recorder = recorded
    network = Network(SIZES, seed=4)
    network.fit(x, arrays[1], epochs=1, engine=engine)
    order = permutation(4, 0, ROWS, x[0].nbytes)
    first = pages_of(order[: randomness.window_rows(ROWS, x[0].nbytes)], x)
    assert recorder.asked[0][0] // mmap.PAGESIZE == min(first)
    assert recorder.pages() == pages_of(order, x)
    network.fit(x, arrays[1], epochs=2, engine=engine)
    assert recorder.pages() == pages_of(order, x), "every epoch asks: the system may have forgotten"


# ---- training from a file -------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [32, "full"])
def test_a_map_trains_to_the_bits_of_the_array(
    arrays, file, small_blocks, engine, shuffle, batch_size
):
    x, y = arrays
    settings = {"shuffle": shuffle, "batch_size": batch_size}
    expected = trained(np.array(x), y, engine, **settings)
    file_rows = np.load(file, mmap_mode="r")
    assert trained(file_rows, y, engine, **settings) == expected
    assert trained(file_rows, y, engine, epochs=(1, 2), **settings) == expected
    whole = trained(np.array(x)[:1000], y[:1000], engine, **settings)
    assert trained(file_rows[:1000], y[:1000], engine, **settings) == whole


@pytest.mark.parametrize("shuffle", [True, False])
def test_threads_change_no_bit_of_it(arrays, file, small_blocks, shuffle):
    from fastnn.engine import usable_threads

    x = np.load(file, mmap_mode="r")
    threads = range(1, min(2, usable_threads()) + 1)
    one, *others = (trained(x, arrays[1], "numba", shuffle=shuffle, threads=n) for n in threads)
    assert all(other == one for other in others)


@needs_advice
@pytest.mark.parametrize("error", [OSError(22, "Invalid argument"), ValueError("closed")])
def test_advice_that_is_refused_is_no_error(recorded, arrays, engine, monkeypatch, error):
    x, recorder = recorded
    calls = []

    def refuse(self, *call):
        calls.append(call)
        raise error

    monkeypatch.setattr(Recorder, "madvise", refuse)
    assert trained(x, arrays[1], engine) == trained(np.array(x), arrays[1], engine)
    assert calls


@needs_advice
def test_where_the_system_takes_no_advice_it_gets_none(recorded, arrays, engine, monkeypatch):
    monkeypatch.delattr(mmap, "MADV_WILLNEED")
    x, recorder = recorded
    assert mapped(x) is None
    assert trained(x, arrays[1], engine) == trained(np.array(x), arrays[1], engine)
    assert not recorder.asked


def test_features_that_are_no_array_are_left_alone(rng):
    from fastnn.sparse import SparseRows

    rows = SparseRows(np.arange(5), np.zeros(4, np.int32), np.ones(4, np.float32), 3)
    ReadAhead(Data(rows, np.zeros(4, np.int32)), np.arange(4)).advance(4)
    assert mapped(rows) is None
