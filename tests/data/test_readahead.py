"""Reading ahead: which pages are requested and when; results do not depend on it."""

import mmap
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest

from fastnn import Network
from fastnn.data import readahead
from fastnn.data.features import SelectedRows
from fastnn.data.memory_maps import is_mapped
from fastnn.data.readahead import ReadAhead
from fastnn.data.rows import Data
from fastnn.data.sparse import SparseRows
from fastnn.model import randomness
from fastnn.model.randomness import permutation

ROWS, WIDTH = 3001, 64
SIZES = [WIDTH, 8, 3]
HEADER = 5000  # bytes in front of the rows: more than a page


class ImmediatePool:
    """An executor that runs each call when it is submitted."""

    def __init__(self, threads):
        assert threads == 1

    def submit(self, function, *arguments):
        function(*arguments)

    def shutdown(self, *, wait, cancel_futures):
        assert cancel_futures and not wait


class WaitingPool(ThreadPoolExecutor):
    """An executor that completes all calls before it shuts down."""

    def shutdown(self, **how):
        super().shutdown(wait=True)


class Recorder:
    """Record the requested bytes, as offsets in a file."""

    def __init__(self, file_bytes):
        self.base, self.size = file_bytes.__array_interface__["data"][0], len(file_bytes)
        self.requested = []

    def __call__(self, address, length):
        start = address - self.base
        assert start % mmap.PAGESIZE == 0 and 0 <= start < start + length <= self.size
        assert length <= readahead.REQUEST_BYTES
        self.requested.append((start, start + length))

    def pages(self):
        """Return the pages requested since the last call."""
        found = [range(a // mmap.PAGESIZE, -(-b // mmap.PAGESIZE)) for a, b in self.requested]
        self.requested.clear()
        return {page for pages in found for page in pages}


@pytest.fixture
def small_blocks(monkeypatch):
    """Use small blocks: 3,001 rows of 64 bytes become 24 blocks in 6 windows."""
    monkeypatch.setattr(randomness, "WHOLE_BYTES", 2**16)
    monkeypatch.setattr(randomness, "BLOCK_BYTES", 2**13)
    monkeypatch.setattr(randomness, "WINDOW_BYTES", 2**15)


@pytest.fixture(params=[np.uint8, np.float32])
def arrays(request, rng):
    """Return random rows, and labels of three classes."""
    return rng.integers(0, 5, (ROWS, WIDTH)).astype(request.param), rng.integers(0, 3, ROWS)


@pytest.fixture
def file(arrays, tmp_path):
    np.save(tmp_path / "x.npy", arrays[0])
    return tmp_path / "x.npy"


@pytest.fixture
def recorded(arrays, tmp_path, monkeypatch):
    """Return mapped rows that follow a header in a file, and a recorder of requests."""
    path = tmp_path / "rows"
    path.write_bytes(bytes(HEADER) + arrays[0].tobytes())
    file_bytes = np.memmap(path, np.uint8, "r")
    recorder = Recorder(file_bytes)
    monkeypatch.setattr(mmap, "MADV_WILLNEED", 3, raising=False)
    monkeypatch.setattr(readahead, "_madvise", lambda: recorder)
    monkeypatch.setattr(readahead, "_count_reads", count().__next__)  # always reads
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", ImmediatePool)
    return file_bytes[HEADER:].view(arrays[0].dtype).reshape(ROWS, WIDTH), recorder


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
    """Return the weights after fits of the given numbers of epochs, and all losses."""
    network = Network(SIZES, seed=4)
    losses = []
    for number in epochs:
        losses += network.fit(x, y, epochs=number, engine=engine, **settings)["loss"]
    return [array.tobytes() for pair in network.parameters for array in pair], losses


# ---- detection of maps ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        np.asarray,
        lambda x: x[17:],
        lambda x: np.asarray(x)[5:900][3:],
        lambda x: np.asarray(memoryview(np.asarray(x))),
        lambda x: np.frombuffer(x.base, np.uint8),
    ],
    ids=["map", "asarray", "slice", "slices", "memoryview", "frombuffer"],
)
def test_detects_maps_behind_views(file, view):
    assert is_mapped(view(np.load(file, mmap_mode="r")))


def test_does_nothing_for_rows_in_memory(file):
    x = np.load(file, mmap_mode="r")
    rows = SparseRows(np.arange(5), np.zeros(4, np.int32), np.ones(4, np.float32), 3)
    for features in (np.array(x), x[[1, 2]], np.frombuffer(bytes(64), np.uint8), rows):
        assert not is_mapped(features)
    for features in (np.array(x), rows):
        before = threading.active_count()
        with ReadAhead(Data(features, np.zeros(4, np.int32)), np.arange(4)) as ahead:
            ahead.advance(4)
            assert threading.active_count() == before


# ---- requests -------------------------------------------------------------------------------


@pytest.mark.parametrize("request_bytes", [mmap.PAGESIZE, 2**17])
def test_requests_each_window_while_the_previous_one_is_used(
    recorded, small_blocks, monkeypatch, request_bytes
):
    monkeypatch.setattr(readahead, "REQUEST_BYTES", request_bytes)
    x, recorder = recorded
    order = permutation(0, 0, ROWS, x[0].nbytes)
    window = randomness.window_rows(ROWS, x[0].nbytes)
    windows = [order[start : start + window] for start in range(0, ROWS, window)]
    ahead = ReadAhead(Data(x, np.zeros(ROWS, np.int32)), order)
    assert not recorder.requested
    ahead.advance(0)
    assert recorder.pages() == pages_of(windows[0], x)
    block = randomness.BLOCK_BYTES // x[0].nbytes
    for number, following in enumerate(windows[1:], start=1):
        ahead.advance((number - 1) * window + 1)
        # A block in two windows was requested with the first.
        new = ~np.isin(following // block, order[: number * window] // block)
        assert recorder.pages() == pages_of(following[new], x)
        ahead.advance(number * window)
        assert not recorder.requested, "requested twice"
    ahead.advance(ROWS)
    assert not recorder.requested
    assert len(windows) > 5 and len(set(windows[0] // block)) < ROWS / block / 3


def test_requests_all_windows_of_a_call(recorded, small_blocks):
    x, recorder = recorded
    order = permutation(0, 0, ROWS, x[0].nbytes)
    window = randomness.window_rows(ROWS, x[0].nbytes)
    ReadAhead(Data(x, np.zeros(ROWS, np.int32)), order).advance(2 * window)
    assert recorder.pages() == pages_of(order[: 3 * window], x)


def test_requests_consecutive_rows_without_shuffling(recorded, small_blocks):
    x, recorder = recorded
    ahead = ReadAhead(Data(x, np.zeros(ROWS, np.int32)), np.arange(ROWS))
    window = randomness.window_rows(ROWS, x[0].nbytes)
    ahead.advance(0)
    first = recorder.pages()
    ahead.advance(1)
    second = recorder.pages()
    assert first == pages_of(np.arange(window), x)
    assert first | second == pages_of(np.arange(2 * window), x)


def test_requests_small_data_completely_at_the_start(recorded):
    x, recorder = recorded
    ahead = ReadAhead(Data(x, np.zeros(ROWS, np.int32)), permutation(0, 0, ROWS, x[0].nbytes))
    ahead.advance(0)
    assert recorder.pages() == pages_of(np.arange(ROWS), x)
    ahead.advance(ROWS)
    assert not recorder.requested


def test_stops_requesting_cached_rows(recorded, small_blocks, monkeypatch):
    x, recorder = recorded
    reads = 100
    monkeypatch.setattr(readahead, "_count_reads", lambda: reads)
    monkeypatch.setattr(readahead, "FIRST_BLOCKS", 3)
    order = permutation(0, 0, ROWS, x[0].nbytes)
    window, block = randomness.window_rows(ROWS, x[0].nbytes), 2**13 // x[0].nbytes
    ahead = ReadAhead(Data(x, np.zeros(ROWS, np.int32)), order)
    ahead.advance(window)
    first = np.unique(order[:window] // block)[:3] * block
    assert recorder.pages() == pages_of(first, x)
    reads += 1  # of a page that was not cached
    ahead.advance(2 * window)
    new = order[2 * window : 3 * window]
    assert recorder.pages() == pages_of(new[~np.isin(new // block, first // block)], x)


def test_requests_mapped_targets(recorded, small_blocks, rng):
    y, recorder = recorded
    x = rng.random((ROWS, WIDTH // 2)).astype(np.float32)  # its rows decide the size of blocks
    order = permutation(0, 0, ROWS, x[0].nbytes)
    window = randomness.window_rows(ROWS, x[0].nbytes)
    ReadAhead(Data(x, y), order).advance(0)
    pages, at = recorder.pages(), HEADER + order[:window] * y[0].nbytes
    assert set((at // mmap.PAGESIZE).tolist()) <= pages < pages_of(order, y)


def test_requests_selected_rows(recorded, small_blocks):
    x, recorder = recorded
    rows = np.flatnonzero(np.arange(ROWS) % 5)  # as `split` selects them
    data = Data(SelectedRows(x, rows), np.zeros(len(rows), np.int32))
    order = permutation(0, 0, len(rows), x[0].nbytes)
    ReadAhead(data, order).advance(0)
    window = rows[order[: randomness.window_rows(len(rows), x[0].nbytes)]]
    assert recorder.pages() == pages_of(window, x)


def test_every_epoch_requests_all_rows_window_by_window(recorded, arrays, small_blocks, engine):
    x, recorder = recorded
    network = Network(SIZES, seed=4)
    network.fit(x, arrays[1], epochs=1, engine=engine)
    order = permutation(4, 0, ROWS, x[0].nbytes)
    first = pages_of(order[: randomness.window_rows(ROWS, x[0].nbytes)], x)
    assert recorder.requested[0][0] // mmap.PAGESIZE == min(first)
    assert recorder.pages() == pages_of(order, x)
    network.fit(x, arrays[1], epochs=2, engine=engine)
    assert recorder.pages() == pages_of(order, x), "in every epoch, for the cache may be lost"


# ---- training from a file -------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [32, "full"])
def test_training_on_a_map_gives_the_bits_of_the_array(
    arrays, file, small_blocks, engine, shuffle, batch_size
):
    x, y = arrays
    settings = {"shuffle": shuffle, "batch_size": batch_size}
    expected = trained(np.array(x), y, engine, **settings)
    file_rows = np.load(file, mmap_mode="r")
    assert trained(file_rows, y, engine, **settings) == expected
    assert trained(file_rows, y, engine, epochs=(1, 2), **settings) == expected
    part = trained(np.array(x)[:1000], y[:1000], engine, **settings)
    assert trained(file_rows[:1000], y[:1000], engine, **settings) == part


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_number_of_threads_changes_no_bit(arrays, file, small_blocks, shuffle):
    from fastnn.engine import usable_threads

    x = np.load(file, mmap_mode="r")
    threads = range(1, min(2, usable_threads()) + 1)
    one, *others = (trained(x, arrays[1], "numba", shuffle=shuffle, threads=n) for n in threads)
    assert all(other == one for other in others)


def test_validation_rows_stay_in_the_file(arrays, file, small_blocks, engine):
    settings = {"validation_fraction": 0.2}
    expected = trained(np.array(arrays[0]), arrays[1], engine, **settings)
    assert trained(np.load(file, mmap_mode="r"), arrays[1], engine, **settings) == expected


# ---- the system's function ------------------------------------------------------------------


@pytest.mark.parametrize("answer", [0, -1])
def test_requests_come_from_a_thread_and_may_fail(arrays, file, engine, monkeypatch, answer):
    calls = []

    def madvise(start, length, advice):
        calls.append((threading.current_thread(), start, length, advice))
        return answer

    class Library:
        def __init__(self, name):
            assert name is None
            self.madvise = madvise

    x = np.load(file, mmap_mode="r")
    expected = trained(np.array(x), arrays[1], engine)
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", WaitingPool)
    monkeypatch.setattr(readahead.ctypes, "CDLL", Library)
    monkeypatch.setattr(mmap, "MADV_WILLNEED", 33, raising=False)
    readahead._madvise.cache_clear()
    try:
        assert trained(x, arrays[1], engine) == expected
    finally:
        readahead._madvise.cache_clear()
    assert calls and {advice for *_, advice in calls} == {33}
    assert threading.main_thread() not in {thread for thread, *_ in calls}
    first = np.asarray(x).__array_interface__["data"][0]
    assert min(start for _, start, *_ in calls) == first - first % mmap.PAGESIZE
    assert max(start + length for _, start, length, _ in calls) == first + x.nbytes


@pytest.mark.parametrize("missing", [AttributeError, OSError])
def test_requests_nothing_if_the_function_is_missing(arrays, file, engine, monkeypatch, missing):
    def refuse(name):
        raise missing

    x = np.load(file, mmap_mode="r")
    expected = trained(np.array(x), arrays[1], engine)
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", WaitingPool)
    monkeypatch.setattr(readahead.ctypes, "CDLL", refuse)
    monkeypatch.setattr(mmap, "MADV_WILLNEED", 3, raising=False)
    readahead._madvise.cache_clear()
    try:
        assert trained(x, arrays[1], engine) == expected
        assert readahead._madvise()(0, 1) is None
    finally:
        readahead._madvise.cache_clear()


def test_counts_reads_as_the_system_does(monkeypatch):
    resource = pytest.importorskip("resource")
    before = readahead._count_reads()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    assert 0 <= before <= usage.ru_inblock + usage.ru_majflt <= readahead._count_reads()


def test_starts_no_thread_without_madvise(file, monkeypatch):
    monkeypatch.delattr(mmap, "MADV_WILLNEED", raising=False)
    before = threading.active_count()
    rows = np.load(file, mmap_mode="r")
    with ReadAhead(Data(rows, np.zeros(ROWS, np.int32)), np.arange(ROWS)) as ahead:
        ahead.advance(ROWS)
        assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(mmap, "MADV_WILLNEED"), reason="needs madvise")
def test_calls_the_system(file):
    x = np.asarray(np.load(file, mmap_mode="r"))
    start = x.__array_interface__["data"][0]
    ask = readahead._madvise()
    assert ask(start - start % mmap.PAGESIZE, x.nbytes) == 0
    assert ask(start - start % mmap.PAGESIZE + 1, x.nbytes) == -1, "not the start of a page"


@pytest.mark.parametrize("words", ["can't start new thread", "cannot schedule new futures after"])
def test_training_continues_if_no_thread_can_be_started(words, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.eye(40, dtype=np.float32))
    x, y = np.load(tmp_path / "x.npy", mmap_mode="r"), np.arange(40) % 2

    def fail(*_):
        raise RuntimeError(words)

    expected = Network([40, 2])
    expected.fit(np.array(x), y, epochs=2, engine="numpy")
    network = Network([40, 2])
    monkeypatch.setattr(ThreadPoolExecutor, "submit", fail)
    network.fit(x, y, epochs=2, engine="numpy")
    np.testing.assert_array_equal(network.predict_proba(x), expected.predict_proba(x))
