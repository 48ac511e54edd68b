"""Damaged and hostile files: every reader raises its own errors, in little time and memory.

A seeded generator makes the files from intact ones; the message of a failure has the number of
the file. Half of the files have changed bytes. In the others the content is changed, and checksums
and lengths are corrected, so that readers find the damage later.
"""

import gzip
import io
import json
import os
import shutil
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from forged_files import forged, joined, parts
from PIL import Image

import fastnn
from fastnn.data.files.detection import read_rows
from fastnn.data.files.idx import read_idx, read_idx_rows
from fastnn.data.files.npy import read_npy
from fastnn.data.files.npz import load_npz, read_npz
from fastnn.data.files.pictures import SIGNATURE, read_png
from fastnn.data.files.table import read_table
from fastnn.training.checkpoint_file import read_snapshot

SECONDS, MEMORY = 1.0, 64 << 20
EXAMPLES = 100, 500  # by default, and with the tests that take seconds
MANY = int(os.environ.get("FASTNN_FUZZ", "100_000"))  # of each format, in the long form
MEASURED = 25  # the memory of every 25th example is traced in the short form
INPUTS = 16
SQUARE = 64  # of a picture: 8 x 8

# Values that often cause errors as a size, a count or an offset.
NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 64, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24)
NUMBERS += (2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
FIELDS = ("<B", "<H", "<I", "<Q", ">H", ">I")
WORDS = (b"nan", b"inf", b"1e999", b"-0", b'"', b"\n", b"\r", b",", b"\0", b"\xff\xfe", b"{", b"]")
WORDS += (b"PK\x03\x04", b"IDAT", b"IEND", b"\x93NUMPY", b"(99999999999,)", b"|O", b"<f8", b"True")

Change = Callable[[np.random.Generator, bytes], bytes]


# ---- changes --------------------------------------------------------------------------------


def changed(rng: np.random.Generator, data: bytes) -> bytes:
    """Change a few places: cut, flip, insert, delete, copy from elsewhere, overwrite a number."""
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data) + 1))
        if rng.random() < 0.5:  # the first bytes matter most
            at = min(at, int(rng.integers(128)))
        kind, some = rng.integers(8), int(rng.integers(1, 17))
        if kind == 0:
            data = data[:at]
        elif kind == 1 and data[at:]:
            data = data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + rng.bytes(some) + data[at:]
        elif kind == 3:
            data = data[:at] + data[at + some :]
        elif kind == 4:
            start = int(rng.integers(len(data) + 1))
            data = data[:at] + data[start : start + 8 * some] + data[at:]
        elif kind == 5:
            word = WORDS[rng.integers(len(WORDS))]
            data = data[:at] + word + data[at + len(word) * int(rng.integers(2)) :]
        else:
            field = FIELDS[rng.integers(len(FIELDS))]
            size = struct.calcsize(field)
            number = NUMBERS[rng.integers(len(NUMBERS))] % 256**size
            data = data[:at] + struct.pack(field, number) + data[at + size :]
    return data


def repacked_gzip(rng: np.random.Generator, data: bytes) -> bytes:
    return gzip.compress(changed(rng, gzip.decompress(data)), 1)


def repacked_png(rng: np.random.Generator, data: bytes) -> bytes:
    """Change the chunks of a PNG, or their compressed data."""
    chunks, at = [], len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    number = int(rng.integers(len(chunks)))
    kind, body = chunks[number]
    if kind == b"IDAT" and rng.random() < 0.5:
        body = zlib.compress(changed(rng, zlib.decompress(body)), 1)
    else:
        body = changed(rng, body)
    chunks[number] = kind, body
    if rng.random() < 0.3:
        kinds = [b"tRNS", b"PLTE", b"IDAT", b"IHDR", b"tEXt", b"acTL", b"fdAT", b"iCCP", b"IEND"]
        extra = kinds[rng.integers(len(kinds))], rng.bytes(int(rng.integers(40)))
        chunks.insert(int(rng.integers(len(chunks) + 1)), extra)
    packed = (
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks
    )
    return SIGNATURE + b"".join(packed)


def repacked_zip(rng: np.random.Generator, data: bytes) -> bytes:
    """Change a member of an archive or its name."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        infos = old.infolist()
        chosen = infos[rng.integers(len(infos))].filename
        for info in infos:
            content, name = old.read(info), info.filename
            if name == chosen and rng.random() < 0.1:
                name = rng.choice(["x", "../x.npy", "y_test", "é\ud7ff.npy"])
            elif name == chosen:
                content = changed(rng, content)
            new.writestr(str(name), content, info.compress_type)
    return out.getvalue()


VALUES = (None, True, 0, -1, 2**62, 10**30, 0.5, 1e308, "", "relu", [], [1], [[]], {}, [0.0] * 3)


def changed_json(rng: np.random.Generator, value: object) -> object:
    """Change, remove or replace one value somewhere inside."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = str(rng.choice(sorted(value)))
        if rng.random() < 0.1:
            return {key: each for key, each in value.items() if key != name}
        return value | {name: changed_json(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = int(rng.integers(len(value)))
        new = [] if rng.random() < 0.1 else [changed_json(rng, value[at])]
        return value[:at] + new + value[at + 1 :]
    if isinstance(value, str) and rng.random() < 0.5:
        return changed(rng, value.encode()).decode(errors="replace")
    return VALUES[rng.integers(len(VALUES))]


def reforged(rng: np.random.Generator, data: bytes) -> bytes:
    """Change the header of a model file, or a number in its tensors."""
    if rng.random() < 0.3:
        header, rest = parts(data)
        return joined(changed(rng, json.dumps(header).encode()), rest)

    def change(description: dict, entries: dict) -> bytes | None:
        whole = description if rng.random() < 0.8 else entries
        new = changed_json(rng, dict(whole))
        whole.clear()
        whole.update(new if isinstance(new, dict) else {})
        return None

    (key,) = parts(data)[0]["__metadata__"]
    return forged(data, change, key)


# ---- intact files and their readers -------------------------------------------------------------


def idx() -> list[bytes]:
    pixels = bytes(range(3 * INPUTS))
    return [struct.pack(">4B3I", 0, 0, 8, 3, 3, 4, 4) + pixels,
            struct.pack(">4B2I", 0, 0, 8, 2, 3, INPUTS) + pixels]  # fmt: skip


def npy() -> list[bytes]:
    arrays = [np.arange(48.0).reshape(3, 16), np.arange(48, dtype="u1").reshape(3, 4, 4)]
    arrays += [np.asfortranarray(arrays[0]), arrays[0].astype(">f2")]
    files = []
    for version in ((1, 0), (2, 0)):
        for array in arrays:
            file = io.BytesIO()
            np.lib.format.write_array(file, array, version)
            files.append(file.getvalue())
    return files


def npz() -> list[bytes]:
    x, y = np.arange(64, dtype="u1").reshape(4, 16), np.arange(4) % 2
    arrays = {"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2]}
    files = []
    for save in (np.savez, np.savez_compressed):
        for given in (arrays, {"x": x.astype("f4")}, {"a": np.asfortranarray(x / 2)}):
            file = io.BytesIO()
            save(file, **given)
            files.append(file.getvalue())
    return files


def table() -> list[bytes]:
    line = ",".join(f"{i / 8}" for i in range(INPUTS))
    names = ",".join(f'"a {i}"' for i in range(INPUTS))
    return [f"{line}\n{line}\n".encode(), f"{names}\r\n{line}\r\n".encode(),
            ("\ufeff" + ",".join(f'" {i}"' for i in range(INPUTS))).encode()]  # fmt: skip


def png() -> list[bytes]:
    pixels = np.full((9, 12), 255, np.uint8)
    pixels[2:7, 4:6] = 0
    images = [Image.fromarray(pixels).convert(mode) for mode in ("L", "1", "P", "RGB", "RGBA")]
    images += [Image.fromarray(pixels.astype(np.uint16) * 257), Image.fromarray(pixels[:8, :8])]
    files = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "PNG")
        files.append(file.getvalue())
    return files


def models() -> list[bytes]:
    x, y = np.eye(4).repeat(3, axis=0), np.arange(12) % 3
    settings = {"hidden_layer_sizes": (3,), "engine": "numpy"}
    settings |= {"tol": 1e9, "n_iter_no_change": 1}  # so that training stops at once
    trained = [
        fastnn.Network([3, 4, 2], activation="tanh", dropout=0.5),
        fastnn.Network([2, 3, 3, 1], loss="huber", input_scale=0.5),
        fastnn.MLPClassifier(**settings, early_stopping=True).fit(x, y),
        fastnn.MLPClassifier(**settings).fit(x, np.array(["a", "b", "c"])[y]),
        fastnn.MLPRegressor(**settings).fit(x, y),
    ]
    path, files = Path("seed.safetensors"), []
    for model in trained:
        model.save(path)
        files.append(path.read_bytes())
    return files


def fit_some(path: Path, **options: bool) -> None:
    """Fit with checkpoints in the directory of the file."""
    x, y = np.eye(4, dtype=np.float32).repeat(3, axis=0), np.arange(12) % 3
    network = fastnn.Network([4, 3, 3], dropout=0.5)
    network.fit(
        x, y, epochs=3, batch_size=5, optimizer="adam", engine="numpy", validation_data=(x, y),
        early_stopping=fastnn.EarlyStopping(patience=2),
        callbacks=[fastnn.Checkpoint(path.parent, **options)],
    )  # fmt: skip


def checkpoints() -> list[bytes]:
    fit_some(Path("seeds/file"))
    return [path.read_bytes() for path in sorted(Path("seeds").iterdir())]


def read_all_rows(path: Path, inputs: int = INPUTS) -> None:
    """Read a file of any format completely."""
    for block in read_rows(str(path), inputs):
        assert block.shape[1] == inputs


def read_picture(path: Path) -> None:
    read_all_rows(path, SQUARE)


def use(*readers: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a function that gives a file to several readers, each of which may refuse it."""

    def read(path: Path) -> None:
        for reader in readers:
            try:
                reader(path)
            except fastnn.DataError as error:
                assert_one_line(error)

    return read


def assert_one_line(error: Exception) -> None:
    assert str(error) and "\n" not in str(error) and len(str(error)) < 2000


def read_csv(path: Path) -> None:
    with path.open("rb") as file:
        for block in read_table(file, INPUTS):
            assert np.isfinite(block).all()


def load_model(path: Path) -> None:
    """Load a model and predict, unless the file is refused."""
    try:
        model = fastnn.load(path)
    except fastnn.ModelFileError as error:
        assert_one_line(error)
        return
    network = getattr(model, "_network", model)
    network.use_engine("numpy")
    if model is not network:
        model.set_params(engine="numpy")
    with np.errstate(all="ignore"):
        model.predict(np.zeros((2, network.layers[0].inputs), np.float32))


def resume(path: Path) -> None:
    """Read a checkpoint and resume training from it."""
    try:
        read_snapshot(path)
    except fastnn.ModelFileError as error:
        assert_one_line(error)
    place = path.parent / "fit"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    shutil.copy(path, place / sorted(path.parent.glob("seeds/*"))[0].name)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "a checkpoint is skipped", UserWarning)
            fit_some(place / "file", resume=True)
    except (fastnn.CheckpointError, fastnn.DivergenceError) as error:
        assert_one_line(error)


class Format(NamedTuple):
    """Intact files of a format, a function that changes their content, and their reader."""

    seeds: Callable[[], list[bytes]]
    change: Change
    read: Callable[[Path], None]


IDX = use(read_idx, lambda path: list(read_idx_rows(path, INPUTS)), read_all_rows)
NPZ = use(load_npz, lambda path: list(read_npz(path, INPUTS)), read_all_rows)
FORMATS = {
    "idx": Format(idx, changed, IDX),
    "gzip": Format(lambda: [gzip.compress(each) for each in idx()], repacked_gzip, IDX),
    "npy": Format(npy, changed, use(lambda path: list(read_npy(path, INPUTS)), read_all_rows)),
    "npz": Format(npz, repacked_zip, NPZ),
    "csv": Format(table, changed, use(read_csv, read_all_rows)),
    "png": Format(png, repacked_png, use(lambda path: read_png(path, SQUARE), read_picture)),
    "model": Format(models, reforged, load_model),
    "checkpoint": Format(checkpoints, reforged, resume),
}

every_format = pytest.mark.parametrize("name", FORMATS)


def example(form: Format, seeds: list[bytes], number: int) -> bytes:
    """Return the damaged file with this number; the number seeds the damage."""
    rng = np.random.default_rng(number)
    seed = seeds[number % len(seeds)]
    return (form.change if number // len(seeds) % 2 else changed)(rng, seed)


# ---- the tests --------------------------------------------------------------------------------


@every_format
def test_reads_intact_files(name, folder):
    readers = {
        "npz": lambda path: list(read_npz(path, INPUTS)),
        "png": read_picture,
        "model": fastnn.load,
        "checkpoint": read_snapshot,
    }
    reader = readers.get(name, read_all_rows)
    for data in FORMATS[name].seeds():
        Path("file").write_bytes(data)
        reader(Path("file"))


@every_format
@pytest.mark.parametrize(
    "numbers",
    [range(EXAMPLES[0]), pytest.param(range(*EXAMPLES), marks=pytest.mark.process)],
    ids=["first", "more"],
)
def test_damaged_files(name, numbers, folder):
    form, path = FORMATS[name], folder / "file"
    seeds = form.seeds()
    for number in numbers:
        path.write_bytes(example(form, seeds, number))
        if number % MEASURED == MEASURED - 1:
            peak = traced_peak(form.read, path)
            assert peak <= MEMORY, f"example {number} takes {peak:,} bytes"
        else:
            guarded(form.read, path, number)


def guarded(read: Callable[[Path], None], path: Path, number: int) -> None:
    """Read a file; name it if that raises an unexpected error."""
    try:
        read(path)
    except Exception as error:
        raise AssertionError(f"example {number} raises {error!r}") from error


def traced_peak(read: Callable[[Path], None], path: Path) -> int:
    """Return the peak of the memory that Python's allocators give while a file is read."""
    tracemalloc.start()
    try:
        read(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's peak memory")
@every_format
def test_many_damaged_files(name, folder, capsys):
    """Here the memory of C libraries counts as well, and so does processor time."""
    form, path = FORMATS[name], folder / "file"
    seeds, worst_seconds, worst_memory = form.seeds(), 0.0, 0
    path.write_bytes(seeds[0])
    form.read(path)  # imports the libraries that are needed
    for number in range(MANY):
        path.write_bytes(example(form, seeds, number))
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, start = resident("VmRSS"), time.process_time()
        guarded(form.read, path, number)
        seconds, memory = time.process_time() - start, resident("VmHWM") - before
        assert seconds <= SECONDS, f"example {number} takes {seconds:.1f} s"
        assert memory <= MEMORY, f"example {number} takes {memory:,} bytes"
        worst_seconds, worst_memory = max(worst_seconds, seconds), max(worst_memory, memory)
    with capsys.disabled():
        print(f"\n{name}: {MANY:,} files, at most {worst_seconds:.3f} s, {worst_memory:,} bytes")


def resident(mark: str) -> int:
    """Return a size of this process's memory in bytes, from Linux's status file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(mark))
