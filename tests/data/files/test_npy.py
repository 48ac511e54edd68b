"""The .npy reader: files that it reads in blocks, and files that it refuses."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnn.data.files import samples
from fastnn.data.files.npy import read_npy
from fastnn.errors import DataError

X = np.arange(28).reshape(7, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.npy"


def refusal(path: Path, inputs: int = 4) -> str:
    """Return the error message for a file, without its path; assert that it is one line."""
    with pytest.raises(DataError) as caught:
        list(read_npy(path, inputs))
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def header(shape: tuple[int, ...], descr: str = "|u1", fortran_order: bool = False) -> bytes:
    stream = io.BytesIO()
    fields = {"descr": descr, "fortran_order": fortran_order, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f4", "f2", "f8", "i1", "u2", "<i8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_yields_samples_in_blocks(path, monkeypatch, dtype, order):
    monkeypatch.setattr(samples, "BLOCK_ROWS", 3)
    np.save(path, np.array(X, dtype, order=order))
    blocks = list(read_npy(path, 4))
    assert [block.shape for block in blocks] == [(3, 4), (3, 4), (1, 4)]
    for block in blocks:
        assert block.dtype == (np.uint8 if dtype == "u1" else np.float32) and block.dtype.isnative
        assert block.flags.c_contiguous and block.flags.aligned and type(block) is np.ndarray
    np.testing.assert_array_equal(np.concatenate(blocks), X.astype(dtype))


@pytest.mark.parametrize("shape", [(7, 2, 2), (7, 2, 2, 1), (7, 1, 1, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_flattens_images(path, shape, order):
    np.save(path, np.array(X.reshape(shape), order=order))
    np.testing.assert_array_equal(np.concatenate(list(read_npy(path, 4))), X)


def test_blocks_of_wide_rows_hold_one_row(path, monkeypatch):
    monkeypatch.setattr(samples, "BLOCK_BYTES", 10)
    np.save(path, X)
    assert [len(block) for block in read_npy(path, 4)] == [1] * 7


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (X[:, :3], "has 3 features per row, but the model takes 4"),
        (X[0], "has the shape (4,), expected (n, 4)"),
        (np.float32(1), "has the shape ()"),
        (X[:0], "is empty: its shape is (0, 4)"),
        (
            X.astype(complex),
            "has the dtype complex128, expected integers",
        ),
        (X.astype(str), "has the dtype <U21, expected integers"),
        (X.astype("M8[s]"), "has the dtype datetime64[s], expected integers"),
        (
            np.zeros((7, 4), "u1,f4"),
            "has the dtype [('f0', 'u1'), ('f1', '<f4')]",
        ),
        (X.astype(object), "has Python objects, which are never unpickled: save an array"),
        (np.where(X == 21, np.nan, X), "row 5 has NaN, infinity or a number beyond float32"),
        (np.where(X == 21, -1e39, X), "row 5 has NaN"),
        (np.asfortranarray(np.where(X == 21, np.inf, X)), "row 5 has NaN"),
    ],
)
def test_error_names_the_defect(path, monkeypatch, array, expected):
    monkeypatch.setattr(samples, "BLOCK_ROWS", 3)
    np.save(path, array)
    assert refusal(path).startswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is not a plain array in NumPy's .npy format"),
        (b"\x93NUMPY\x01\x00\xff\xff{'descr'", "is not a plain array"),
        (header((2, 4)) + bytes(7), "its header promises 136 bytes, but it has 135"),
        (header((2, 4)) + bytes(9), "its header promises 136 bytes, but it has 137"),
        (header((1 << 62, 4)), "its header promises 18,446,744,073,709,551,744 bytes"),
        (header((1, 10**9), "<f8"), "its header promises 8,000,000,128 bytes"),
        (header((2, 4), fortran_order=True) + bytes(7), "its header promises 136"),
        (header((-1, 4)), "is empty: its shape is (-1, 4)"),
        (header((1, 10**5)) + bytes(10**5), "has 100000 features"),
    ],
)
def test_rejects_wrong_headers(path, content, expected):
    path.write_bytes(content)
    assert refusal(path).startswith(expected)


def test_rejects_missing_files_and_directories(path):
    assert refusal(path) == "cannot be read: No such file or directory"
    path.mkdir()
    assert refusal(path).startswith("cannot be read: ")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "f8"])
def test_large_files_take_little_memory(path, dtype, order):
    rows = 64_000_000 // np.dtype(dtype).itemsize // 100
    with path.open("wb") as file:  # sparse, so it takes no space on the disk
        start = file.write(header((rows, 100), np.dtype(dtype).str, order == "F"))
        file.truncate(start + 64_000_000)
    tracemalloc.start()
    try:
        assert sum(len(block) for block in read_npy(path, 100)) == rows
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=200, deadline=None)
@given(
    at=st.integers(0, 160),
    patch=st.binary(min_size=1, max_size=8),
    order=st.sampled_from("CF"),
)
def test_any_bytes_are_read_or_raise_a_data_error(scratch, at, patch, order):
    path = scratch / "a.npy"
    np.save(path, np.array(X, np.float32, order=order))
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + patch + whole[at + len(patch) :])
    try:
        x = np.concatenate(list(read_npy(path, 4)))
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert x.shape[1] == 4 and len(x) > 0 and np.isfinite(x).all()
