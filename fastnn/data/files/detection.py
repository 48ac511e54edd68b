"""Read samples from any supported file; the format is detected from the content."""

import gzip
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fastnn.data.files.idx import GZIP_MAGIC, read_idx_rows
from fastnn.data.files.npy import read_npy
from fastnn.data.files.npz import read_npz
from fastnn.data.files.pictures import SIGNATURE, read_png
from fastnn.data.files.samples import BinaryStream, file_errors
from fastnn.data.files.table import read_table
from fastnn.errors import DataError

STANDARD_INPUT = "-"
_PIXEL = re.compile(r"(pixel|px)?[ _]?\d+([x_]\d+)?", re.IGNORECASE)  # the name of a feature
_FORMATS = (  # first bytes of a file, and the suffix that stands for its format
    (SIGNATURE, ".png"),
    (b"\x93NUMPY", ".npy"),
    (b"PK\x03\x04", ".npz"),
    (b"PK\x05\x06", ".npz"),  # an empty archive
    (GZIP_MAGIC, ".gz"),
    (b"\0\0", ".idx"),
)
# Limit of the text in a gzipped table: _TABLE_RATIO times the size of the file, plus _TABLE_BYTES.
# One-hot columns reach a ratio of 200.
_TABLE_RATIO, _TABLE_BYTES = 500, 1 << 24


def read_rows(
    path: str,
    inputs: int,
    *,
    input_scale: float = 1.0,
    names: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[np.ndarray]:
    """Yield the samples of a file in blocks of rows; the file may be larger than memory.

    Parameters
    ----------
    path : str
        An IDX, .npy or .npz file, a PNG of a digit, or otherwise CSV. CSV may also come from a
        pipe, or from standard input as "-". IDX and CSV may be gzipped.
    inputs : int
        Number of features that the model takes.
    input_scale : float, default 1.0
        Factor that the network applies to its inputs; the pixels of a PNG are divided by it.
    names : sequence of str, optional
        Names of the features. The header of a CSV file must match them, and a picture is accepted
        only if all of them name pixels (``pixel7``, ``1x28``).
    say : callable
        Called with each line of information for the user.

    Yields
    ------
    ndarray (rows, inputs)
        uint8 or finite float32, C-contiguous.

    Raises
    ------
    DataError
        If the file cannot be read, is damaged, or its features are not those of the model.
    """
    name = "standard input" if path == STANDARD_INPUT else path
    with file_errors(name):
        kind, is_gzip = _detect(path)
        if kind == ".png":
            _check_pixels(names or ())
    if kind == ".png":
        yield read_png(path, inputs, input_scale)
    elif kind == ".npy":
        yield from read_npy(path, inputs)
    elif kind == ".npz":
        yield from read_npz(path, inputs, say)
    elif kind == ".idx":
        yield from read_idx_rows(path, inputs)
    else:
        with file_errors(name), _open_table(path, is_gzip) as (file, max_bytes):
            yield from read_table(
                file, inputs, names, lambda line: say(f"{name}: {line}"), max_bytes
            )


def _detect(path: str) -> tuple[str, bool]:
    """Return the suffix that stands for a file's format, and whether the file is gzipped.

    Pipes are not examined: they are CSV.
    """
    if path == STANDARD_INPUT or not stat.S_ISREG(os.stat(path).st_mode):
        return ".csv", False
    with open(path, "rb") as file:
        suffix = Path(path).suffix
        unknown = suffix if suffix in (".png", ".npy", ".npz", ".idx") else ".csv"
        kind = _format_of(file.peek(len(SIGNATURE)), unknown)
        if kind != ".gz":
            return kind, False
        with gzip.GzipFile(fileobj=file) as unpacked:
            kind = _format_of(unpacked.peek(len(SIGNATURE)), ".csv")
    if kind not in (".csv", ".idx"):
        raise DataError(
            f"is a gzipped {kind} file, but only CSV and IDX may be gzipped: unpack it with gunzip"
        )
    return kind, True


def _format_of(head: bytes, unknown: str) -> str:
    return next((suffix for magic, suffix in _FORMATS if head.startswith(magic)), unknown)


def _check_pixels(names: Sequence[str]) -> None:
    """Raise a DataError if the name of a feature is not that of a pixel."""
    for name in names:
        if not _PIXEL.fullmatch(name):
            raise DataError(
                f"is a picture, but the model takes the feature {name[:40]!r}, which is not a pixel"
            )


@contextmanager
def _open_table(path: str, is_gzip: bool) -> Iterator[tuple[BinaryStream, float]]:
    """Open a CSV file or standard input; yield it, and a limit on the size of its text."""
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise DataError("is closed")
        yield sys.stdin.buffer, math.inf
        return
    with open(path, "rb") as file:
        if is_gzip:
            max_bytes = os.fstat(file.fileno()).st_size * _TABLE_RATIO + _TABLE_BYTES
            with gzip.open(file) as unpacked:
                yield unpacked, max_bytes
        else:
            yield file, math.inf
