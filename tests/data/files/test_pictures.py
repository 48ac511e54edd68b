"""The PNG reader: how digits are converted, and files that it refuses."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastnn import Network
from fastnn.data.files import pictures as picture
from fastnn.data.files.pictures import SIGNATURE, read_png
from fastnn.data.sets import load_dataset
from fastnn.errors import DataError

SIDE = 28


def save(path: Path, pixels: np.ndarray | Image.Image) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, format="PNG")
    return path


def png(image: np.ndarray | Image.Image) -> bytes:
    stream = io.BytesIO()
    save(stream, image)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 0, 0, 0, 0))


END = chunk(b"IEND", b"")


def hook(height: int = 300, width: int = 200) -> np.ndarray:
    """Draw white on black, off centre: a stroke of 120 x 20 pixels, and one of 20 x 40 below."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[30:150, 110:130] = 255
    pixels[130:150, 70:110] = 255
    return pixels


def refusal(path: Path, inputs: int = SIDE * SIDE) -> str:
    """Return the error message for a file, without its path; assert that it is one line."""
    with pytest.raises(DataError) as caught:
        read_png(path, inputs)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "digit.png"


def centre(square: np.ndarray) -> tuple[float, float]:
    """Return the row and column of the centre of mass."""
    weights = square / square.sum()
    return weights.sum(1) @ np.arange(len(square)), weights.sum(0) @ np.arange(len(square))


@pytest.mark.parametrize(("side", "filled"), [(28, 20), (14, 10), (56, 40)])
def test_ink_is_scaled_and_centred_by_mass(path, side, filled):
    square = read_png(save(path, hook()), side * side).reshape(side, side)
    assert square.dtype == np.float32 and square.min() >= 0 and square.max() == 1
    rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
    assert len(rows) == np.ptp(rows) + 1 == filled
    assert len(columns) == np.ptp(columns) + 1 == max(1, filled // 2)  # as wide as before
    if side > 1:
        np.testing.assert_allclose(centre(square), side / 2, atol=0.5)


def test_digits_of_8_x_8_pixels_have_the_form_of_scikit_learn(path):
    """They fill their pixels; a network would not recognize them in MNIST's form."""
    digits = load_dataset("digits")
    network = Network([64, 100, 10], input_scale=digits.scale)
    network.fit(digits.x_train, digits.y_train, epochs=20, learning_rate=0.3, engine="numpy")
    right = 0
    for x, label in zip(digits.x_test[:60], digits.y_test, strict=False):
        page = np.full((220, 260), 255, np.uint8)
        page[30:190, 50:210] -= 15 * x.reshape(8, 8).repeat(20, axis=0).repeat(20, axis=1)
        right += network.predict(read_png(save(path, page), 64, digits.scale))[0] == label
    assert right >= 54


def test_ink_stays_inside_if_its_centre_of_mass_is_off(path):
    pixels = np.zeros((140, 140), np.uint8)
    pixels[4:138, 4:7] = 255  # a stroke far from a heavy bar
    pixels[4:138, 90:138] = 255
    square = read_png(save(path, pixels), SIDE * SIDE).reshape(SIDE, SIDE)
    assert centre(square)[1] > SIDE / 2 + 0.5
    assert square[:, 0].max() > 0.3 and not square[:, 20:].any()


def test_a_rectangle_keeps_its_shape(path):
    pixels = np.full((90, 300), 255, np.uint8)
    pixels[10:30, 200:280] = 0
    square = read_png(save(path, pixels), SIDE * SIDE).reshape(SIDE, SIDE)
    expected = np.zeros((SIDE, SIDE))
    expected[12:17, 4:24] = 1
    np.testing.assert_allclose(square, expected, atol=1e-6)


def grey16(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint16) * 257)


def transparent(ink: tuple[int, int, int]):
    """Return a function that draws in one colour on a transparent background."""

    def draw(pixels: np.ndarray) -> Image.Image:
        image = Image.new("RGBA", pixels.shape[::-1], ink)
        image.putalpha(Image.fromarray(pixels))
        return image

    return draw


def palette_with_transparency(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels // 255)
    image.putpalette([10, 10, 10, 30, 30, 30])
    image.info["transparency"] = bytes([0, 255])
    return image


@pytest.mark.parametrize(
    "draw",
    [
        lambda pixels: Image.fromarray(255 - pixels),
        lambda pixels: Image.fromarray(255 - pixels).convert("1"),
        lambda pixels: Image.fromarray(pixels).convert("LA"),
        lambda pixels: Image.fromarray(pixels).convert("RGB").quantize(4),
        lambda pixels: Image.fromarray(np.stack([255 - pixels] * 3, axis=2)),
        lambda pixels: Image.fromarray(pixels // 5 + 60),  # pencil on grey paper
        lambda pixels: grey16(pixels),
        lambda pixels: grey16(255 - pixels),
        transparent((0, 0, 0)),
        transparent((255, 255, 255)),
        transparent((250, 40, 40)),
        palette_with_transparency,
    ],
    ids="inverted 1 LA P RGB pale 16 16-inverted ink-black ink-white ink-red P-alpha".split(),
)
def test_all_modes_give_the_same_samples(path, draw):
    plain = read_png(save(path, hook()), SIDE * SIDE)
    np.testing.assert_allclose(read_png(save(path, draw(hook())), SIDE * SIDE), plain, atol=2e-3)


def test_thin_strokes_become_white(path):
    pixels = np.zeros((400, 400), np.uint8)
    pixels[50:350, 200] = 255
    pixels[50, 100:300] = 255
    assert read_png(save(path, pixels), SIDE * SIDE).max() == 1


def test_grain_of_the_paper_is_not_ink(path, rng):
    grain = rng.integers(0, 60, (300, 200))
    cut = []
    for pixels in (hook(), np.maximum(hook(), grain)):
        square = read_png(save(path, pixels.astype(np.uint8)), SIDE * SIDE).reshape(SIDE, SIDE)
        rows, columns = (np.flatnonzero((square > 0.3).any(axis=axis)) for axis in (1, 0))
        cut.append(square[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    assert cut[0].shape == (20, 10)
    np.testing.assert_allclose(cut[1], cut[0], atol=0.15)


@pytest.mark.parametrize("white", [255, 65535])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_plot_file_the_right_size_is_not_moved(path, rng, white, inverted):
    pixels = np.zeros((SIDE, SIDE), np.uint8 if white == 255 else np.uint16)
    pixels[3:9, 2:20] = rng.integers(0, white + 1, (6, 18))  # not in the middle
    pixels[5, 5] = white
    save(path, white - pixels if inverted else pixels)
    features = read_png(path, SIDE * SIDE, input_scale=1 / white)
    assert features.dtype == np.float32 and features.shape == (1, SIDE * SIDE)
    np.testing.assert_array_equal(features, pixels.reshape(1, -1))


def test_result_times_input_scale_is_from_0_to_1(path):
    save(path, hook())
    seen = read_png(path, SIDE * SIDE)
    np.testing.assert_allclose(read_png(path, SIDE * SIDE, 1 / 16), 16 * seen, rtol=1e-6)


@pytest.mark.mnist
def test_a_network_recognizes_enlarged_digits(path, mnist, rng):
    net = Network([SIDE * SIDE, 64, 10], input_scale=mnist.scale, seed=0)
    net.fit(mnist.x_train[:20_000], mnist.y_train[:20_000], epochs=4, optimizer="adam")
    right = 0
    for row in range(60):
        digit = Image.fromarray(mnist.x_test[row].reshape(SIDE, SIDE)).resize((150, 150))
        ink = Image.new("L", (200, 300), 0)
        ink.paste(digit, tuple(rng.integers(0, [50, 150]).tolist()))
        drawing = Image.new("RGBA", ink.size, (0, 0, 0))
        drawing.putalpha(ink)
        features = read_png(save(path, drawing), SIDE * SIDE, mnist.scale)
        right += int(net.predict(features)[0] == mnist.y_test[row])
    assert right > 0.9 * 60


# ---- errors -----------------------------------------------------------------------------------


def test_rejects_inputs_that_are_not_a_square(path):
    save(path, hook())
    expected = "is a picture, but the model takes 20 features, not a square"
    assert refusal(path, 20) == expected


@pytest.mark.parametrize("shape", [(28, 28), (50, 40)])
@pytest.mark.parametrize("shade", [0, 255, 100])
def test_rejects_a_plot_file_one_shade(path, shape, shade):
    save(path, np.full(shape, shade, np.uint8))
    assert refusal(path) == "has a single shade, so it shows no digit"


def test_rejects_a_transparent_picture(path):
    save(path, Image.new("RGBA", (40, 40), (9, 9, 9, 0)))
    assert refusal(path).startswith("has a single shade")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is not a PNG"),
        (b"\xff\xd8\xff\xe0 a JPEG", "is not a PNG"),
        (SIGNATURE + chunk(b"IDAT", b"") + END, "is damaged: "),
        (SIGNATURE + chunk(b"IHDR", b"") + END, "is damaged: "),
        (SIGNATURE + b"\xff\xff\xff\xffIHDR", "is truncated"),
        (header(65535, 65535) + END, "has 65535 x 65535 pixels"),
        (header(9, 9) + header(65535, 65535)[8:] + END, "has 65535 x 65535 pixels"),
        (
            header(10_000, 1) + END,
            "has 10000 x 1 pixels, but at most 4,194,304 are allowed",
        ),
        (header(0, 9) + END, "is damaged: "),
        (header(9, 9) + END, "is damaged: "),
        (header(9, 9) + chunk(b"IDAT", b"no zlib") + END, "is damaged: "),
        (header(9, 9) + chunk(b"IDAT", zlib.compress(b"")) + END, "is damaged: "),
    ],
)
def test_error_names_the_defect(path, content, expected):
    path.write_bytes(content)
    assert refusal(path).startswith(expected)


def test_rejects_a_flipped_bit_and_every_truncation(path):
    whole = png(hook(40, 30))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)
    at = whole.index(b"IDAT") + 20
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert refusal(path) == "is damaged: the checksum of a chunk IDAT is wrong"


def test_rejects_large_files(path, monkeypatch):
    monkeypatch.setattr(picture, "_MAX_FILE_BYTES", 100)
    save(path, hook())
    assert refusal(path) == "is larger than 100 bytes"


def test_rejects_a_missing_file(path):
    assert refusal(path) == "cannot be read: No such file or directory"


def test_ignores_texts_and_profiles(path):
    plain = png(hook())
    bomb = zlib.compress(bytes(1 << 24))
    extra = chunk(b"zTXt", b"a\0\0" + bomb) + chunk(b"iCCP", b"a\0\0" + bomb) + chunk(b"eXIf", b"?")
    at = len(header(1, 1))
    path.write_bytes(plain)
    expected = read_png(path, SIDE * SIDE)
    path.write_bytes(plain[:at] + extra + plain[at:])
    np.testing.assert_array_equal(read_png(path, SIDE * SIDE), expected)


def repaired(content: bytes) -> bytes:
    """Return a PNG with correct checksums, so that more of it is read."""
    at, parts = len(SIGNATURE), [content[: len(SIGNATURE)]]
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        parts.append(chunk(content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += length + 12
    return b"".join(parts)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 150), patch=st.binary(min_size=1, max_size=8), repair=st.booleans())
def test_any_bytes_are_read_or_raise_a_data_error(scratch, at, patch, repair):
    path = scratch / "a.png"
    whole = png(Image.fromarray(hook(160, 140)).quantize(4))
    content = whole[:at] + patch + whole[at + len(patch) :]
    path.write_bytes(repaired(content) if repair else content)
    try:
        features = read_png(path, 64)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert features.shape == (1, 64) and 0 <= features.min() <= features.max() <= 1
