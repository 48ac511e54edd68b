"""Detection of a file's format, and the memory that reading it takes."""

import gzip
import io
import os
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from command_line import posix
from PIL import Image

from fastnn.data.files import detection
from fastnn.data.files.detection import read_rows
from fastnn.errors import DataError

X = np.arange(28, dtype=np.uint8).reshape(7, 4)
CSV = "\n".join(",".join(map(str, row)) for row in X.tolist()).encode()


def read(path: str | Path, **options) -> np.ndarray:
    return np.concatenate(list(read_rows(str(path), 4, **options)))


def refusal(path: str | Path, inputs: int = 4) -> str:
    with pytest.raises(DataError) as caught:
        list(read_rows(str(path), inputs))
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def npy_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def idx(x: np.ndarray = X) -> bytes:
    return struct.pack(f">2x2B{x.ndim}I", 8, x.ndim, *x.shape) + x.tobytes()


def npy() -> bytes:
    return npy_header(X.shape) + X.tobytes()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, x=X)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["a.csv", "a.png", "a", "a.npz"])
def test_detects_the_format_from_the_content(tmp_path, name):
    for content in (idx(), gzip.compress(idx()), npy(), npz()):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read(tmp_path / name), X)


@pytest.mark.parametrize("name", ["a.csv", "a", "a.txt"])
def test_reads_other_files_as_csv(tmp_path, name):
    (tmp_path / name).write_bytes(CSV)
    np.testing.assert_array_equal(read(tmp_path / name), X)


def test_reads_pictures(tmp_path):
    pixels = np.array([[0, 255], [51, 0]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.csv", format="PNG")
    seen = read(tmp_path / "a.csv", input_scale=1 / 5)
    np.testing.assert_allclose(seen, [[0, 5, 1, 0]], rtol=1e-6)


def test_rejects_pictures_for_models_of_other_features(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(81, dtype=np.uint8).reshape(9, 9)).save(path)
    table = "is a picture, but the model takes only 49 features, too few for a picture"
    assert refusal(path, 49).startswith(table)
    for start in ("pixel", "pixel_", "Pixel0_", "px", "", "28x"):
        names = [f"{start}{number}" for number in range(64)]
        assert len(list(read_rows(str(path), 64, names=names))) == 1
    expected = "is a picture, but the model takes the feature 'sepal width', which is not a pixel$"
    with pytest.raises(DataError, match=expected):
        list(read_rows(str(path), 64, names=[*names[1:], "sepal width"]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", "is not a PNG"),
        ("a.npy", "is not a plain array in NumPy's .npy format"),
        ("a.npz", "is not an intact .npz archive: File is not a zip file"),
    ],
)
def test_the_suffix_decides_if_the_content_is_unknown(tmp_path, name, expected):
    (tmp_path / name).write_bytes(b"1,2,3,4\n")
    assert refusal(tmp_path / name) == expected


@pytest.mark.parametrize("name", ["a.csv.gz", "a.gz", "a"])
@pytest.mark.parametrize("header", [b"", b"a,b,c,d\n"])
def test_reads_gzipped_csv(tmp_path, name, header):
    (tmp_path / name).write_bytes(gzip.compress(header + CSV))
    np.testing.assert_array_equal(read(tmp_path / name), X)


def test_reads_csv_named_gz_that_a_browser_unpacked(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(CSV)
    np.testing.assert_array_equal(read(tmp_path / "a.csv.gz"), X)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            gzip.compress(npy()),
            "is a gzipped .npy file, but only CSV and IDX may be gzipped: unpack it",
        ),
        (gzip.compress(npz()), "is a gzipped .npz file, but only"),
        (gzip.compress(b"\x89PNG\r\n\x1a\n"), "is a gzipped .png file, but only"),
        (gzip.compress(gzip.compress(CSV)), "is a gzipped .gz file, but only"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(CSV)[:-9], "is damaged gzip: "),
        (gzip.compress(CSV)[:-8] + bytes(8), "is damaged gzip: "),
        (b"\x1f\x8b", "is damaged gzip: "),
        (gzip.compress(CSV + b"\n1,2,x,4"), "line 8: column 3: 'x' is not a number"),
        (gzip.compress(b"0,0,0,0\n" * (1 << 14)), "unpacks to too much text for its size: if"),
    ],
    ids=["npy", "npz", "png", "gz", "empty", "cut", "checksum", "magic", "number", "bomb"],
)
def test_rejects_other_files_in_gzip(tmp_path, monkeypatch, content, expected):
    monkeypatch.setattr(detection, "_TABLE_BYTES", 1 << 10)
    monkeypatch.setattr(detection, "_TABLE_RATIO", 50)
    (tmp_path / "a.csv.gz").write_bytes(content)
    assert refusal(tmp_path / "a.csv.gz").startswith(expected)


def test_rejects_an_empty_archive(tmp_path):
    zipfile.ZipFile(tmp_path / "a", "w").close()
    assert refusal(tmp_path / "a").startswith("has no array x or x_test")


def test_compares_names_with_the_header_of_csv(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b,c,d\n" + CSV)
    assert len(read(tmp_path / "a.csv", names=["a", "b", "c", "d"])) == 7
    with pytest.raises(DataError, match="column 4: is named 'd', but the model takes 'e'"):
        read(tmp_path / "a.csv", names=["a", "b", "c", "e"])


def test_says_which_array_of_an_archive_is_read(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X, x_test=X)
    said = []
    read(tmp_path / "a.npz", say=said.append)
    assert said == [f"{tmp_path / 'a.npz'} has 2 arrays; predictions are made for x_test"]


class Broken(io.RawIOBase):
    """A stream that raises an error when read."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        raise IsADirectoryError(21, "Is a directory")


def test_reads_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CSV)))
    np.testing.assert_array_equal(read("-"), X)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x")))
    assert refusal("-").startswith("standard input: line 1: has 1 field")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Broken())))
    assert refusal("-") == "standard input: cannot be read: Is a directory"
    monkeypatch.setattr(sys, "stdin", None)
    assert refusal("-") == "standard input: is closed"


@posix
def test_reads_pipes_as_csv(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for content in (CSV, npy()):
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
        writer.start()
        if content == CSV:
            np.testing.assert_array_equal(read(tmp_path / "pipe"), X)
        else:
            assert refusal(tmp_path / "pipe").startswith("line 1: is not CSV in UTF-8; IDX, .npy")
        writer.join()


def test_rejects_missing_files_and_directories(tmp_path):
    assert refusal(tmp_path / "a.csv") == "cannot be read: No such file or directory"
    assert refusal(tmp_path).startswith("cannot be read: ")


# ---- memory -----------------------------------------------------------------------------------

PROGRAM = """
import re, sys
from pathlib import Path
import numpy, PIL.Image, PIL.ImageStat, PIL.PngImagePlugin
from fastnn.data.files.detection import read_rows
from fastnn.errors import DataError

def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))

for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory("VmRSS")
    try:
        for block in read_rows(path, 784):
            pass
        end = "read"
    except DataError:
        end = "refused"
    print(end, (memory("VmHWM") - before) >> 10)
"""


def png(width: int, height: int, channels: int, data: bytes) -> bytes:
    """Return a PNG of 8 bits, grey or of colours with transparency."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    kind = {1: 0, 4: 6}[channels]
    for name, body in (
        (b"IHDR", struct.pack(">II5B", width, height, 8, kind, 0, 0, 0)),
        (b"IDAT", data),
        (b"IEND", b""),
    ):
        checksum = zlib.crc32(name + body)
        parts.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum))
    return b"".join(parts)


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return stream.getvalue()


def hostile_files() -> dict[str, tuple[bytes, str]]:
    """Return contents by name, each with "read" or "refused", the expected result."""
    zeros = bytes(100 << 20)
    rows = len(zeros) // 784
    images = idx(np.frombuffer(zeros, np.uint8)[: rows * 784].reshape(rows, 784))
    line = b"\0" + np.random.default_rng(0).bytes(4 * 2048)
    packed = zlib.compress(zeros, 1)
    return {
        "many rows.gz": (gzip.compress(images, 1), "read"),
        "many rows.npz": (zipped(npy_header((rows, 784)) + zeros[: rows * 784]), "read"),
        "largest.png": (png(2048, 2048, 4, zlib.compress(line * 2048, 1)), "read"),
        "bomb.gz": (gzip.compress(idx(np.zeros((2, 784), np.uint8)) + zeros, 1), "refused"),
        "many rows.csv.gz": (gzip.compress((b"0,1," * 391 + b"0,1\n") * 10_000, 1), "read"),
        "bomb.csv.gz": (gzip.compress(b"\n" * (100 << 20), 1), "refused"),
        "wide.csv.gz": (gzip.compress(b"1," * (100 << 20), 1), "refused"),
        "bomb.npz": (zipped(npy_header((2, 784)) + zeros), "refused"),
        "bomb.png": (png(60_000, 60_000, 1, packed), "refused"),
        "large for its size.png": (png(9, 9, 1, packed), "refused"),
        "wide.npy": (npy_header((1, 10**6)) + bytes(10**6), "refused"),
        "wide.csv": (b"1," * 10**6, "refused"),
        "endless.csv": (b"1" * (100 << 20), "refused"),
        "nul.csv": (zeros[: 1 << 24] + b"1", "refused"),
    }


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's peak memory")
@pytest.mark.process
def test_hostile_files_take_little_memory(tmp_path):
    files = hostile_files()
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", PROGRAM, *(str(tmp_path / name) for name in files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    ends = dict(zip(files, map(str.split, done.stdout.splitlines()), strict=True))
    assert {name: end for name, (end, _) in ends.items()} == {
        name: end for name, (_, end) in files.items()
    }
    assert max(int(megabytes) for _, megabytes in ends.values()) < 64, ends
