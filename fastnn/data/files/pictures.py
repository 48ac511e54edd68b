"""Read a digit from a PNG and bring it into MNIST's form: white on black, of one size, centred."""

import io
import math
import os
import zlib
from typing import IO

import numpy as np

from fastnn.data.files.samples import file_errors
from fastnn.errors import DataError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Limits, which together keep the memory below 64 MB.
_MAX_PIXELS, _MAX_SIDE, _MAX_FILE_BYTES = 1 << 22, 1 << 13, 1 << 24
_MAX_CHUNKS = 1 << 16  # encoders write chunks of 8 kB and more
_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Smallest shade of ink, relative to the darkest; lighter spots may be the grain of the paper.
# From 0.3 to 0.5, networks recognize 96 to 99 % of enlarged MNIST digits with noise of up to 0.1.
# At 0.2, strong noise hides the digits.
_INK = 0.4
_FILLED = 20 / 28  # MNIST's digits fill 20 of 28 pixels
_SKLEARN_SIDE = 8  # scikit-learn's digits fill their 8 x 8 pixels and are not centred


def read_png(path: str | os.PathLike[str], inputs: int, input_scale: float = 1.0) -> np.ndarray:
    """Read a PNG of a digit, dark on bright or bright on dark, as one sample.

    The shade of the border is the paper; other shades are ink. As in MNIST, the ink is cropped,
    scaled to fill 20/28 of the side, and placed with its centre of mass in the middle. At 8 x 8
    pixels it fills the picture, as in scikit-learn's digits. A picture that already has the size of
    a sample is inverted if it is dark on bright, and otherwise not changed.

    Parameters
    ----------
    path : str or path-like
        The file: grey, colour or palette, with or without transparency, 1 to 16 bits.
    inputs : int
        Number of pixels that the model takes. It must be a square number, and at least 64 unless
        the picture has this size already.
    input_scale : float, default 1.0
        Factor that the network applies to its inputs. The result times this factor is 0 for black
        and 1 for white.

    Returns
    -------
    ndarray (1, inputs)
        float32.

    Raises
    ------
    DataError
        If the file cannot be read, is not a PNG, is damaged or too large, or has a single shade;
        or if `inputs` is not such a number.
    """
    with file_errors(path):
        side = math.isqrt(inputs)
        if side * side != inputs:
            raise DataError(f"is a picture, but the model takes {inputs} features, not a square")
        with open(path, "rb") as file:
            picture = _white_on_black(*_decode(_essential_chunks(file)), side)
    return (picture / input_scale).astype(np.float32).reshape(1, -1)


def _essential_chunks(file: IO[bytes]) -> io.BytesIO:
    """Return the chunks of a PNG that make up the picture, after a check of their checksums.

    Texts and colour profiles are left out: they may unpack to any size.
    """
    if os.fstat(file.fileno()).st_size > _MAX_FILE_BYTES:
        raise DataError(f"is larger than {_MAX_FILE_BYTES:,} bytes")
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise DataError("is not a PNG")
    kept = io.BytesIO()
    kept.write(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        chunk = head + file.read(min(length, _MAX_FILE_BYTES) + 4)
        if len(chunk) < length + 12:
            raise DataError("is truncated")
        if kind in _CHUNKS:
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                raise DataError(f"is damaged: the checksum of a chunk {kind.decode()} is wrong")
            kept.write(chunk)
        if kind == b"IEND":
            kept.seek(0)
            return kept
    raise DataError(f"has more than {_MAX_CHUNKS:,} chunks")


def _decode(file: IO[bytes]) -> tuple[np.ndarray, int]:
    """Return the shades of a PNG, (height, width) integers from 0, and the value of white."""
    from PIL import Image, ImageStat
    from PIL.PngImagePlugin import PngImageFile

    try:
        with PngImageFile(file) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS or max(width, height) > _MAX_SIDE:
                raise DataError(
                    f"has {width} x {height} pixels, but at most {_MAX_PIXELS:,} are allowed, and "
                    f"{_MAX_SIDE:,} per side"
                )
            image.load()
            if image.mode.startswith("I"):  # grey of 16 bits
                return np.asarray(image), 65535
            if image.mode not in ("LA", "RGBA") and "transparency" not in image.info:
                return np.asarray(image.convert("L")), 255
            colours = image.convert("RGBA")
            grey, opaque = colours.convert("L"), colours.getchannel("A")
            # The ink is opaque; give the paper the shade that differs more from it.
            ink = ImageStat.Stat(grey, opaque)
            paper = 0 if ink.count[0] and ink.mean[0] > 127 else 255
            return np.asarray(Image.composite(grey, Image.new("L", grey.size, paper), opaque)), 255
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow raises SyntaxError, zlib.error, struct.error, ...
        raise DataError(f"is damaged: {error}") from error


def _white_on_black(shades: np.ndarray, white: int, side: int) -> np.ndarray:
    """Return a picture in MNIST's form, (side, side) from 0 to 1."""
    low, high = int(shades.min()), int(shades.max())
    if low == high:
        raise DataError("has a single shade, so it shows no digit")
    border = np.concatenate([shades[0], shades[-1], shades[:, 0], shades[:, -1]])
    paper = float(np.median(border))
    is_dark_on_bright = paper > (low + high) / 2
    if shades.shape == (side, side):
        return (white - shades if is_dark_on_bright else shades) / white
    if side < _SKLEARN_SIDE:
        raise DataError(
            f"is a picture, but the model takes only {side * side} features, too few for a "
            "picture: save them as CSV, .npy or .npz"
        )
    ink = shades.astype(np.float32)
    ink -= np.float32(paper)
    ink /= np.float32((low if is_dark_on_bright else high) - paper)
    return _centre(_crop(ink.clip(0, 1, out=ink)), side)


def _crop(ink: np.ndarray) -> np.ndarray:
    """Return the smallest part of a picture that contains all ink."""
    mask = ink > _INK
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _centre(ink: np.ndarray, side: int) -> np.ndarray:
    """Scale a picture to fill its share of a square, with its centre of mass in the middle."""
    from PIL import Image

    fills = side == _SKLEARN_SIDE
    scale = max(1, round(side * (1 if fills else _FILLED))) / max(ink.shape)
    height, width = (max(1, round(length * scale)) for length in ink.shape)
    # BILINEAR averages over all pixels that become one.
    small = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR))
    small = small / small.max()  # scaling makes thin strokes grey; in MNIST they are white

    def start(mass: np.ndarray) -> int:
        """Return the first row or column, given the mass of each."""
        space = side - len(mass)
        if fills:
            return (space + 1) // 2
        centre = mass @ np.arange(len(mass)) / mass.sum()
        return int(np.clip(round(side / 2 - centre), 0, space))

    top, left = start(small.sum(1)), start(small.sum(0))
    square = np.zeros((side, side), np.float32)
    square[top : top + height, left : left + width] = small
    return square
