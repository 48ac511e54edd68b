"""The CSV reader: files with and without a header, and errors that name the line."""

import io
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnn.data.files import table
from fastnn.data.files.table import read_table
from fastnn.errors import DataError


def read(content: bytes | str, inputs: int, names: list[str] | None = None) -> np.ndarray:
    content = content.encode() if isinstance(content, str) else content
    return np.concatenate(list(read_table(io.BytesIO(content), inputs, names)))


def refusal(content: bytes | str, inputs: int, names: list[str] | None = None) -> str:
    """Return the error message for a file; assert that it is one line."""
    with pytest.raises(DataError) as caught:
        read(content, inputs, names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("1,2\n3,4", [[1, 2], [3, 4]]),
        ("1,2\r\n3,4\r\n", [[1, 2], [3, 4]]),
        ("1,2\n3,4\n\n \r\n\n", [[1, 2], [3, 4]]),
        ("\ufeff1,2\n", [[1, 2]]),
        ("a,b\n1,2\n", [[1, 2]]),
        ('"a","b, ""c"""\n1,2\n', [[1, 2]]),
        ("größe,名\n1,2\n", [[1, 2]]),
        (",\n1,2\n", [[1, 2]]),  # columns without names
        (' 1 ,\t2\n"3","4"\n', [[1, 2], [3, 4]]),
        ("-1.5e3,+.25\n", [[-1500, 0.25]]),
        ("1e-60,0\n", [[0, 0]]),
    ],
)
def test_reads_numbers(content, expected):
    x = read(content, 2)
    assert x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_array_equal(x, np.array(expected, np.float32))


@pytest.mark.parametrize("content", ["1\n2\n3\n", "n\n1\n2\n3\n"])
def test_reads_one_column(content):
    assert read(content, 1).tolist() == [[1], [2], [3]]


def test_numbers_equal_those_of_python(rng):
    x = rng.normal(size=(50, 7)) * 10.0 ** rng.integers(-30, 30, (50, 7))
    text = "\n".join(",".join(map(repr, row)) for row in x.tolist())
    np.testing.assert_array_equal(read(text, 7), x.astype(np.float32))


def test_compares_the_header_with_names():
    names = ["sepal width", "petal, width"]
    assert read('sepal width,"petal, width"\n1,2\n', 2, names).tolist() == [[1, 2]]
    assert read("1,2\n", 2, names).tolist() == [[1, 2]]
    assert refusal('"petal, width",sepal width\n1,2\n', 2, names) == (
        "line 1: column 1: is named 'petal, width', but the model takes 'sepal width'"
    )
    assert read("7,8\n1,2\n", 2, ["7", "8"]).tolist() == [[1, 2]]  # names may look like numbers


COUNTING = ",".join(map(str, range(784)))
A_HEADER, A_SAMPLE = "is read as a header, not as a sample", "is read as a sample, not as a header"


@pytest.mark.parametrize(
    ("content", "rows", "said"),
    [
        ("0,1,2,3\n0.5,-1.25,2.0,3.5\n", 1, f"line 1 (0,1,2,...) {A_HEADER}"),
        ('"0","1","2"\r\n0.5,1,2\r\n.25,7,0\r\n', 2, f"line 1 (0,1,2) {A_HEADER}"),
        ("1,2\n3,1e5\n4,2e-7\n", 2, f"line 1 (1,2) {A_HEADER}"),
        (f"{COUNTING}\n{'0,' * 783}255\n", 1, f"line 1 (0,1,2,...) {A_HEADER}"),
        ("0,1,2,3\n3,1,0,2\n", 2, f"line 1 (0,1,2,...) {A_SAMPLE}"),
        ("0,1,2,3\n0.5,1,2,3\n4,0.5,0.5,0.5\n5,6,7,8\n", 4, f"line 1 (0,1,2,...) {A_SAMPLE}"),
        ("0,1,2,3\n", 1, f"line 1 (0,1,2,...) {A_SAMPLE}"),
        (f"{COUNTING}\n", 1, f"line 1 (0,1,2,...) {A_SAMPLE}"),
        ("0\n0.5\n", 2, f"line 1 (0) {A_SAMPLE}"),
        ("0\n1\n0\n", 3, ""),
        ("0,1,2,3\n0.5,1,2,3\n0,1,2,3", 3, ""),  # the same again: no header
        ("0,1,2,4\n0.5,1.5,2.5,3.5\n", 2, ""),
        ("0.0,1.0,2.0\n0.5,1.5,2.5\n", 2, ""),
        ("2,3\n0.5,1.5\n", 2, ""),
    ],
)
def test_first_line_that_counts_up_is_header_or_sample(content, rows, said):
    lines = []
    inputs = content.partition("\n")[0].count(",") + 1
    blocks = read_table(io.BytesIO(content.encode()), inputs, None, lines.append)
    assert sum(map(len, blocks)) == rows
    assert lines == ([said] if said else [])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", ""),
        ("1,3\n1,2\n", "has no header; the columns"),
        ("0,1\n.5,.5\n", f"line 1 (0,1) {A_HEADER}; the columns"),
        ("0,1\n5,5\n", f"line 1 (0,1) {A_SAMPLE}; the columns"),
    ],
)
def test_says_that_names_are_missing(content, said):
    lines = []
    blocks = list(read_table(io.BytesIO(content.encode()), 2, ["a", "b"], lines.append))
    assert len(blocks) == 1
    end = " are taken in the order of the model's names"
    assert lines == ([f"{said}{end}"] if said else [])


def test_error_below_an_ambiguous_line_names_its_own_line():
    assert refusal("0,1\n.5,.5\n1,x\n", 2) == "line 3: column 2: 'x' is not a number"
    assert refusal("0,1\n5,5\n1,x\n", 2).startswith("line 3: column 2: 'x' ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b\n", "has a header, but no rows"),
        ("1,2,3\n", "line 1: has 3 fields, but the model takes 2"),
        ("a\n1,2\n", "line 1: has 1 field,"),
        ("1;2\n", "line 1: has 1 field,"),
        ("a,b\n1,2\n3\n", "line 3: has 1 field,"),
        ("1,2\n3,4,\n", "line 2: has 3 fields,"),
        ("1,x\n3,4\n", "line 1: column 2: 'x' "),
        ("1,2\n3,\n", "line 2: column 2: '' "),
        ("1,2\nNone,4\n", "line 2: column 1: 'None' "),
        ("1,2\n3,1_0\n", "line 2: column 2: '1_0' "),
        ("1,2\n3,\u0664\n", "line 2: column 2: '\u0664' "),
        ("1,2\n3," + "x" * 99 + "\n", "line 2: column 2: '" + "x" * 40 + "...' "),
        ("\n1,2\n", "line 1: is empty"),
        ("1,2\n\n\n3,4\n", "line 2: is empty"),
        ("1,2" + "\n" * 1_100, "line 1002: is empty, like the 1,000 before it"),
        ("1,2\nnan,4\n", "line 2 has NaN, infinity or a number beyond float32"),
        ("a,b\n1,2\n3,inf\n", "line 3 has NaN"),
        ("1,2\n3,1e39\n", "line 2 has NaN"),
        ('"1,2\n', "line 1: is not CSV: "),
        ('1,2\n"3,4\n', "line 2: is not CSV: "),
        ("1,2\r3,4\r", "line 1: is not CSV: "),
        ("1,2\n3\v4,5\n", "line 2: column 1: '3\\x0b4' "),
        (b"1,2\n3\0,4\n", "line 2: is not CSV in UTF-8; IDX, .npy, .npz and PNG are"),
        ("größe,b\n".encode("latin-1"), "line 1: is not CSV in UTF-8"),
        ("1,2\n".encode("utf-16"), "line 1: is not CSV in UTF-8"),
    ],
)
def test_error_names_line_and_column(content, expected):
    assert refusal(content, 2).startswith(expected)


@pytest.mark.parametrize("size", ["BLOCK_ROWS", "BLOCK_BYTES"])
def test_yields_blocks(size, monkeypatch):
    monkeypatch.setattr(table, size, 4 if size == "BLOCK_ROWS" else 16)
    lines = [f"{n},{-n}\n" for n in range(1, 10)]
    blocks = list(read_table(io.BytesIO("".join(lines).encode()), 2))
    assert [len(block) for block in blocks] == [4, 4, 1]
    assert np.concatenate(blocks)[:, 0].tolist() == list(range(1, 10))
    for bad in range(9):
        changed = lines.copy()
        changed[bad] = "x,1\n"
        assert refusal("".join(changed), 2).startswith(f"line {bad + 1}: column 1: 'x' ")
        changed[bad] = "nan,1\n"
        assert refusal("a,b\n" + "".join(changed), 2).startswith(f"line {bad + 2} has NaN")


class Endless(io.RawIOBase):
    """A file that never ends."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        buffer[:] = (self._text * math.ceil(len(buffer) / len(self._text)))[: len(buffer)]
        return len(buffer)


@pytest.mark.parametrize("text", [b"1,", b"x", b"\0", b"\xff", b'"'])
def test_an_endless_line_takes_little_memory(text):
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="^line 1: is longer than 1,048,640 bytes$"):
            list(read_table(io.BufferedReader(Endless(text)), 2))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_an_endless_file_is_read_in_blocks():
    blocks = read_table(io.BufferedReader(Endless(b"1,2\n")), 2)
    tracemalloc.start()
    try:
        for _ in range(5):
            assert next(blocks).shape == (4096, 2)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_rejects_a_million_columns():
    assert refusal(b"1," * 500_000 + b"1", 2).startswith("line 1: has 500001 fields,")
    assert refusal(b"1," * 1_000_000 + b"1", 2) == "line 1: is longer than 1,048,640 bytes"
    assert read(b"1," * 99_999 + b"1", 100_000).shape == (1, 100_000)


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from([b"a,b\n1,2\n3,4\n", b"1,2\r\n3,4\r\n", b'"1","2"\n', b""]),
    at=st.integers(0, 12),
    patch=st.one_of(
        st.binary(max_size=8), st.text('0123456789.,-+einf"\r\n\v\x1c \u2028x', max_size=8)
    ),
)
def test_any_bytes_are_read_or_raise_a_data_error(start, at, patch):
    patch = patch if isinstance(patch, bytes) else patch.encode()
    try:
        x = read(start[:at] + patch + start[at + len(patch) :], 2)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert x.shape[1] == 2 and len(x) > 0 and np.isfinite(x).all()
