"""One door to every file that samples to predict come in: what it is, its content tells."""

import gzip
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastnn.data.files.gzipped import MAGIC, GzippedLines, damage_named
from fastnn.data.files.idx import read_idx_rows
from fastnn.data.files.npy import read_npy
from fastnn.data.files.npz import read_npz
from fastnn.data.files.pictures import SIGNATURE, read_png
from fastnn.data.files.table import read_table
from fastnn.errors import DataError

STANDARD_INPUT = "-"
_PIXEL = re.compile(r"(pixel|px)?[ _]?\d+([x_]\d+)?", re.IGNORECASE)  # the name of a feature
_KINDS = (  # first bytes, and the name's ending, used if they are unknown (except .gz)
    (SIGNATURE, ".png"),
    (b"\x93NUMPY", ".npy"),
    (b"PK\x03\x04", ".npz"),
    (b"PK\x05\x06", ".npz"),  # of an archive with nothing in it
    (MAGIC, ".gz"),
    (b"\0\0", ".idx"),
)


def read_rows(
    path: str,
    inputs: int,
    *,
    input_scale: float = 1.0,
    names: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[np.ndarray]:
    """Yield the samples of a file in blocks of rows, which bound the memory that it takes.

    Parameters
    ----------
    path : str
        IDX; .npy; .npz; the PNG of a digit; or, if it is none of these, CSV, which may also come
        from a pipe, or as "-" from standard input. IDX and CSV may be compressed with gzip.
    inputs : int
        The features that are needed.
    input_scale : float, default 1.0
        What the network multiplies its inputs by, for the shades of a PNG.
    names : sequence of str, optional
        Names of the features, which a CSV header must match. If they are given, pictures are only
        accepted if all are names of pixels (``pixel7``, ``1x28``).
    say : callable
        Told what a user should know.

    Yields
    ------
    np.ndarray
        (rows, inputs), uint8 or finite float32, C-contiguous.

    Raises
    ------
    DataError
        If the file cannot be read, is damaged, or holds something else.
    """
    name = "standard input" if path == STANDARD_INPUT else path
    try:
        if path == STANDARD_INPUT:
            if sys.stdin is None:
                raise DataError(f"{name} is closed")
            yield from read_table(sys.stdin.buffer, name, inputs, names, say)
            return
        with open(path, "rb") as file:
            kind = _kind(file.peek(len(SIGNATURE)), Path(path).suffix)
            if kind is None:
                yield from read_table(file, name, inputs, names, say)
                return
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DataError(f"{name}: is not a regular file, from which alone {kind} is read")
            if kind == ".gz":
                yield from _read_gzip(file, name, inputs, names, say)
                return
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error
    if kind == ".png":
        if other := [each for each in names or () if not _PIXEL.fullmatch(each)]:
            raise DataError(
                f"{name}: is a picture, but the model takes the feature {other[0][:40]!r}, which "
                "is not a pixel"
            )
        yield read_png(path, inputs, input_scale)
    elif kind == ".npy":
        yield from read_npy(path, inputs)
    elif kind == ".npz":
        yield from read_npz(path, inputs, say)
    else:
        yield from read_idx_rows(path, inputs)


def _read_gzip(
    file: BinaryIO,
    name: str,
    inputs: int,
    names: Sequence[str] | None,
    say: Callable[[str], None],
) -> Iterator[np.ndarray]:
    """Yield the samples of gzipped CSV or IDX; refuse other content."""
    size = os.fstat(file.fileno()).st_size
    with damage_named(name), gzip.GzipFile(fileobj=file) as unpacked:
        kind = _kind(unpacked.peek(len(SIGNATURE)), "")
        if kind is None:
            yield from read_table(GzippedLines(unpacked, name, size), name, inputs, names, say)
        elif kind == ".idx":
            yield from read_idx_rows(name, inputs)
        else:
            raise DataError(
                f"{name}: is {kind} in gzip, but only CSV and IDX are read from gzip: unpack it "
                "with gunzip"
            )


def _kind(head: bytes, suffix: str) -> str | None:
    """Return the ending that stands for the kind of a file; None for CSV."""
    for magic, ending in _KINDS:
        if head.startswith(magic):
            return ending
    return suffix if suffix in {ending for _, ending in _KINDS} - {".gz"} else None
