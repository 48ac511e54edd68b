"""The IDX reader: files that it accepts, and files that it refuses."""

import gzip
import hashlib
import math
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnn.data.files import samples
from fastnn.data.files.idx import read_idx, read_idx_and_sha256, read_idx_rows
from fastnn.errors import DataError

UINT8 = 8


def idx_bytes(shape: tuple[int, ...], data: bytes, code: int = UINT8) -> bytes:
    return struct.pack(f">2x2B{len(shape)}I", code, len(shape), *shape) + data


SMALL = idx_bytes((2, 3, 4), bytes(range(24)))


@pytest.fixture
def file(tmp_path):
    """Return a function that writes bytes to a file and returns its path."""

    def write(content: bytes) -> Path:
        path = tmp_path / "some-idx3-ubyte"
        path.write_bytes(content)
        return path

    return write


def refusal(path: Path) -> str:
    """Return the error message for a file, without its path; assert that it is one line."""
    with pytest.raises(DataError) as caught:
        read_idx(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4), (1, 2, 3, 2, 2)], ids=str)
def test_reads_raw_and_gzipped_files_of_any_shape(file, pack, shape):
    array = read_idx(file(pack(idx_bytes(shape, bytes(range(24))))))
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous and array.flags.writeable
    np.testing.assert_array_equal(array, np.arange(24).reshape(shape))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
def test_returns_the_hash_of_the_uncompressed_bytes(file, pack):
    assert read_idx_and_sha256(file(pack(SMALL)))[1] == hashlib.sha256(SMALL).hexdigest()


def test_accepts_a_string_path_with_any_suffix(tmp_path):
    path = tmp_path / "raw-in-spite-of-its.gz"
    path.write_bytes(SMALL)
    assert read_idx(str(path)).shape == (2, 3, 4)


def test_reads_gzip_of_several_members(file):
    packed = gzip.compress(SMALL[:10]) + gzip.compress(SMALL[10:])
    assert read_idx(file(packed)).shape == (2, 3, 4)


def test_truncation_error_names_both_sizes(file):
    whole = idx_bytes((60_000, 28, 28), b"")
    message = "is truncated: its header promises 47,040,016 bytes, but it has "
    assert refusal(file(whole + bytes(984))) == message + "1,000"
    packed = gzip.compress(whole + np.random.default_rng(0).bytes(50_000))
    assert refusal(file(packed)) == message + "50,016"


def test_error_for_extra_bytes_names_both_sizes(file):
    message = "is too long: its header promises 40 bytes, but it has "
    assert refusal(file(SMALL + b"abc")) == message + "43"
    assert refusal(file(gzip.compress(SMALL + b"abc"))) == message + "at least 41"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is truncated"),
        (b"PK\3\4 and so on", "is not an IDX file: it starts with 50 4b 03 04"),
        (idx_bytes((1,), b"\0", code=13), "has a dtype other than uint8: its type code is 13"),
        (idx_bytes((1,), b"\0", code=7), "its type code is 7, expected 8"),
        (idx_bytes((), b"\0"), "has 0 dimensions"),
        (idx_bytes((1,) * 65, b"\0"), "has 65 dimensions"),
        (idx_bytes((0, 28, 28), b""), "is empty: its shape is (0, 28, 28)"),
        (b"\x1f\x8b", "is damaged gzip"),
        (b"\x1f\x8b\x08 no gzip at all", "is damaged gzip"),
        (gzip.compress(SMALL) + b"garbage", "is damaged gzip"),
        (gzip.compress(SMALL)[:-8] + bytes(8), "is damaged gzip: CRC check failed"),
    ],
)
def test_error_names_the_defect(file, content, expected):
    assert expected in refusal(file(content))


@pytest.mark.parametrize("whole", [SMALL, gzip.compress(SMALL)], ids=["raw", "gzip"])
def test_rejects_every_truncation(file, whole):
    for length in range(len(whole)):
        refusal(file(whole[:length]))


def test_rejects_missing_files_and_directories(tmp_path):
    assert "No such file" in refusal(tmp_path / "nothing")
    assert "cannot be read" in refusal(tmp_path)


def test_huge_headers_and_bombs_take_little_memory(file):
    bomb = gzip.compress(idx_bytes((4, 4), bytes(16)) + bytes(100 << 20), compresslevel=1)
    wild = idx_bytes((2**31, 2**31), bytes(1000))
    tracemalloc.start()
    try:
        for content in (wild, gzip.compress(wild), bomb):
            path = file(content)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            refusal(path)
            assert tracemalloc.get_traced_memory()[1] - before < 1 << 20
    finally:
        tracemalloc.stop()


# ---- rows in blocks ---------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
@pytest.mark.parametrize("shape", [(7, 12), (7, 3, 4)], ids=str)
def test_yields_rows_in_blocks(file, monkeypatch, pack, shape):
    monkeypatch.setattr(samples, "BLOCK_ROWS", 3)
    path = file(pack(idx_bytes(shape, bytes(range(84)))))
    blocks = list(read_idx_rows(path, 12))
    assert [block.shape for block in blocks] == [(3, 12), (3, 12), (1, 12)]
    np.testing.assert_array_equal(np.concatenate(blocks), read_idx(path).reshape(7, 12))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (SMALL, "has 12 features per row, but the model takes 9"),
        (gzip.compress(SMALL), "has 12 features"),
        (idx_bytes((9,), bytes(9)), "has the shape (9,), expected (n, 9)"),
        (idx_bytes((2, 9), bytes(17)), "is truncated: its header promises 30 bytes"),
        (gzip.compress(idx_bytes((2, 9), bytes(17))), "is truncated: it ends in row 1 of 2"),
        (
            gzip.compress(idx_bytes((2, 9), bytes(19))),
            "is too long: its header promises 2 rows",
        ),
        (gzip.compress(idx_bytes((2, 9), bytes(18)))[:-9], "is damaged gzip: "),
        (gzip.compress(idx_bytes((2, 9), bytes(18)))[:-8] + bytes(8), "is damaged gzip: CRC check"),
    ],
)
def test_error_names_the_defect_of_rows(file, content, expected):
    path = file(content)
    with pytest.raises(DataError) as caught:
        list(read_idx_rows(path, 9))
    assert str(caught.value).startswith(f"{path}: {expected}")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    """Return one path for all examples of a property."""
    return tmp_path_factory.mktemp("fuzz") / "idx"


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from([SMALL, gzip.compress(SMALL), b"\0\0\x08\1", b""]),
    at=st.integers(0, 60),
    patch=st.binary(max_size=12),
)
def test_any_bytes_are_read_or_raise_a_data_error(scratch, start, at, patch):
    scratch.write_bytes(start[:at] + patch + start[at + len(patch) :])
    try:
        array = read_idx(scratch)
    except DataError as error:
        assert "\n" not in str(error)
        with pytest.raises(DataError):
            list(read_idx_rows(scratch, 12))
    else:
        assert array.size == math.prod(array.shape) > 0
        if array.ndim > 1:
            rows = np.concatenate(list(read_idx_rows(scratch, array[0].size)))
            np.testing.assert_array_equal(rows, array.reshape(len(array), -1))
