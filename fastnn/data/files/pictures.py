"""A digit in a PNG, brought into the form of MNIST's: white on black, of one size, centred."""

import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from fastnn.errors import DataError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS, _SIDE, _FILE_BYTES = 1 << 22, 1 << 13, 1 << 24  # at most: so it takes less than 64 MB
_MOST_CHUNKS = 1 << 16  # of a file; encoders cut the picture into pieces of 8 kB and more
_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # others can hold anything, and any amount
# Of the darkest ink: less may be the grain of the paper. From 0.3 to 0.5, 96 to 99 % of enlarged
# MNIST digits are recognised with noise of up to a tenth; at 0.2 strong noise hides them.
_INK = 0.4
_FILLED = 20 / 28  # of the side: MNIST's digits fill 20 of 28 pixels
_WHOLE_SIDE = 8  # scikit-learn's digits fill their pixels, and are not moved


def read_png(path: str | os.PathLike[str], inputs: int, input_scale: float = 1.0) -> np.ndarray:
    """Read a PNG of a digit, dark on bright or bright on dark, as a row of samples.

    What differs from the paper, whose shade is that of the border, is ink. It is cut out, scaled
    to fill 20 of 28 parts of the side, and put where its centre of mass is in the middle: so MNIST
    was made. In 8 x 8 pixels it fills them all, as scikit-learn's digits do. A picture that has
    the size already is inverted where it is dark on bright, and is otherwise left as it is. No
    picture is scaled to fewer than 8 x 8 pixels: a model with fewer inputs is not one of images.

    Parameters
    ----------
    path : str or path-like
        The file: grey, colours or a palette, with or without transparency, of 1 to 16 bits.
    inputs : int
        The pixels that are needed, a square.
    input_scale : float, default 1.0
        What the network multiplies its inputs by: the result times this is 0 for black and 1 for
        white.

    Returns
    -------
    np.ndarray
        (1, inputs) float32.

    Raises
    ------
    DataError
        If the file cannot be read, is not a PNG, is damaged or too large, or all one colour; if
        `inputs` is not a square, or is less than 8 x 8 and the picture has another size.
    """
    path = Path(path)
    side = math.isqrt(inputs)
    if side * side != inputs:
        raise DataError(
            f"{path}: is a picture, where the model takes {inputs} numbers, which make no square"
        )
    try:
        with path.open("rb") as file:
            picture = _white_on_black(*_decoded(_essentials(file)), side)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return (picture / input_scale).astype(np.float32).reshape(1, -1)


def _essentials(file: IO[bytes]) -> io.BytesIO:
    """Return a PNG with nothing in it but the picture, which is intact and not too large.

    The header is at the start; texts and profiles, which may unpack to any size, are left out.
    """
    if os.fstat(file.fileno()).st_size > _FILE_BYTES:
        raise DataError(f"is larger than {_FILE_BYTES:,} bytes")
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise DataError("is not a PNG")
    kept = io.BytesIO()
    kept.write(SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
        body = file.read(min(length + 4, _FILE_BYTES))
        if len(body) < length + 4:
            raise DataError("is truncated")
        if kind == b"IHDR" or kept.tell() == len(SIGNATURE):  # a second one would count, too
            _check_size(kind, body)
        if kind in _CHUNKS:
            if zlib.crc32(kind + body[:-4]) != int.from_bytes(body[-4:], "big"):
                raise DataError(f"is damaged: the checksum of its {kind.decode()} is another")
            kept.write(head + body)
        if kind == b"IEND":
            kept.seek(0)
            return kept
    raise DataError(f"has more than {_MOST_CHUNKS:,} chunks")


def _check_size(kind: bytes, body: bytes) -> None:
    """Raise a DataError unless a chunk is a header, of a picture that is not too large."""
    if kind != b"IHDR" or len(body) < 8:
        raise DataError("is not a PNG: it begins without a header")
    width, height = struct.unpack(">II", body[:8])
    if width * height > _PIXELS or max(width, height) > _SIDE:
        raise DataError(
            f"has {width} x {height} pixels, where {_PIXELS:,} are allowed, {_SIDE:,} a side"
        )


def _decoded(file: IO[bytes]) -> tuple[np.ndarray, int]:
    """Return the shades of a PNG, (height, width) of integers from 0, and what stands for white."""
    from PIL import Image, ImageStat

    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.load()
            if image.mode.startswith("I"):  # grey of 16 bits
                return np.asarray(image), 65535
            if image.mode not in ("LA", "RGBA") and "transparency" not in image.info:
                return np.asarray(image.convert("L")), 255
            colours = image.convert("RGBA")
            grey, opaque = colours.convert("L"), colours.getchannel("A")
            # What lies behind must differ from the ink, which is what is opaque.
            ink = ImageStat.Stat(grey, opaque)
            paper = 0 if ink.count[0] and ink.mean[0] > 127 else 255
            return np.asarray(Image.composite(grey, Image.new("L", grey.size, paper), opaque)), 255
    except MemoryError:
        raise
    except Exception as error:  # Pillow lets SyntaxError, zlib.error, struct.error, ... through
        raise DataError(f"is damaged: {error}") from error


def _white_on_black(shades: np.ndarray, white: int, side: int) -> np.ndarray:
    """Return a picture as MNIST has them, (side, side) from 0 to 1."""
    low, high = int(shades.min()), int(shades.max())
    if low == high:
        raise DataError("is all of one shade, with no digit in it")
    edges = shades[0], shades[-1], shades[:, 0], shades[:, -1]
    paper = float(np.median(np.concatenate(edges)))
    is_dark_on_bright = paper > (low + high) / 2
    if shades.shape == (side, side):
        return (white - shades if is_dark_on_bright else shades) / white
    if side < _WHOLE_SIDE:
        raise DataError(
            f"is a picture, but the model takes {side * side} numbers, too few for pixels: give "
            "them as CSV, .npy or .npz"
        )
    ink = shades.astype(np.float32)
    ink -= np.float32(paper)
    ink /= np.float32((low if is_dark_on_bright else high) - paper)
    return _centred(_cut_out(ink.clip(0, 1, out=ink)), side)


def _cut_out(ink: np.ndarray) -> np.ndarray:
    """Return the part of a picture with ink in it."""
    mask = ink > _INK
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _centred(ink: np.ndarray, side: int) -> np.ndarray:
    """Scale a picture to fill its share of a square, and put its centre of mass in the middle."""
    from PIL import Image

    is_whole = side == _WHOLE_SIDE
    scale = max(1, round(side * (1 if is_whole else _FILLED))) / max(ink.shape)
    height, width = (max(1, round(length * scale)) for length in ink.shape)
    smooth = Image.Resampling.BILINEAR  # over as many pixels as become one
    small = np.asarray(Image.fromarray(ink).resize((width, height), smooth))
    small = small / small.max()  # thin strokes come out grey, and MNIST's are white
    square = np.zeros((side, side), np.float32)
    top, left = (
        (room + 1) // 2
        if is_whole
        else int(np.clip(round(side / 2 - weight @ np.arange(len(weight)) / weight.sum()), 0, room))
        for weight, room in ((small.sum(1), side - height), (small.sum(0), side - width))
    )
    square[top : top + height, left : left + width] = small
    return square
