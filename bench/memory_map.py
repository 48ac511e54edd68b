"""Training from a memory map: ``python bench/memory_map.py FOLDER [--quick] [--threads N]``.

Many copies of MNIST with small changes, 2.8 GB as bytes and 1.1 GB as float32, are written to a
new directory in FOLDER, which is deleted at the end. Processes train 784-128-64-10 on each file
for two epochs with batches of 128: from an array in memory, from the map with the file in the
system's cache, and from the map without it. All must have bit-identical losses. "anonymous" is the
peak of the memory without a file behind it. Exit codes are those of compare.py; a peak above 400 MB
or less than 0.9 of the array's speed is a failure, too.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import joblib
import numpy as np
from compare import cpu_name, run_and_print, run_python
from compare_report import grid
from measuring import load_average
from mnist_like import find_or_imitate

from fastnn import Network
from fastnn.commands.options import positive_int

SIZES = (784, 128, 64, 10)
BATCH_ROWS, EPOCHS = 128, 2
COPIES = {"uint8": 60, "float32": 6}
HELD = ("array", "map, cached", "map, cold")
LEAST_SHARE, MOST_MB = 0.9, 400.0  # of the array's speed; of anonymous memory
SAMPLE_SECONDS = 0.005

Record = dict[str, Any]


# ---- the files ------------------------------------------------------------------------------


def write_copies(folder: Path, dtype: str, copies: int) -> None:
    """Write x.npy and y.npy: copies of MNIST's images, each shifted and darkened a little."""
    data = find_or_imitate()
    rows = len(data.x_train)
    shape = (copies * rows, data.x_train.shape[1])
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", dtype, shape)
    rng = np.random.default_rng(0)
    for start in range(0, shape[0], rows):
        shift, darker = rng.integers(-2, 3), np.uint8(rng.integers(0, 5))
        images = np.roll(data.x_train, shift, axis=1)
        images = np.maximum(images, darker) - darker
        x[start : start + rows] = images if dtype == "uint8" else images * np.float32(1 / 255)
    x.flush()
    np.save(folder / "y.npy", np.tile(data.y_train, copies).astype(np.uint8))


def drop_from_cache(path: Path) -> None:
    """Ask the system to remove a file from its cache."""
    with path.open("rb") as file:
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_seconds(path: Path) -> float:
    """Return the seconds that reading a file takes."""
    buffer = bytearray(2**20)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


# ---- a process that trains ------------------------------------------------------------------


class AnonymousMemory(threading.Thread):
    """Sample the anonymous memory of this process; `peak` is in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self) -> None:
        status = Path("/proc/self/status")
        while True:
            line = next(li for li in status.read_text().splitlines() if li.startswith("RssAnon"))
            self.peak = max(self.peak, int(line.split()[1]) * 1024 / 1e6)
            time.sleep(SAMPLE_SECONDS)


def train(folder: Path, held: str, threads: int) -> Record:
    """Train from the files; return the seconds, the memory and the last loss."""
    path = folder / "x.npy"
    memory = AnonymousMemory()
    memory.start()
    x, y = np.load(path, mmap_mode="r"), np.load(folder / "y.npy")
    scale = 1 / 255 if x.dtype == np.uint8 else 1.0
    settings: dict[str, Any] = {"batch_size": BATCH_ROWS, "threads": threads}
    warm = np.array(x[:2048]), y[:2048]
    if held == "array":
        x = np.array(x)
    elif held == "map, cached":
        read_seconds(path)
    else:
        del x  # mapped pages stay in the cache
        drop_from_cache(path)
        x = np.load(path, mmap_mode="r")
    Network(SIZES).fit(*warm, epochs=1, **settings)  # loads the kernels
    network = Network(SIZES, input_scale=scale, seed=0)
    start = time.perf_counter()
    history = network.fit(x, y, epochs=EPOCHS, **settings)
    return {
        "fit": time.perf_counter() - start,
        "epochs": history["seconds"],
        "anonymous": memory.peak,
        "loss": history["loss"][-1].hex(),
    }


# ---- all processes --------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code of the process."""
    cores = joblib.cpu_count()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it still run?")
    parser.add_argument("--rounds", metavar="N", type=positive_int, default=5)
    parser.add_argument("--threads", metavar="N", type=positive_int, default=cores)
    parser.add_argument("--held", choices=HELD, help=argparse.SUPPRESS)  # a process that trains
    options = parser.parse_args(argv)
    if options.held:
        print(json.dumps(train(options.folder, options.held, options.threads)))
        return 0

    def produce() -> tuple[str, bool]:
        pages, goods = zip(*(measure(dtype, options) for dtype in COPIES), strict=True)
        notes = [
            f"- machine: {cpu_name()}; threads: {options.threads}; load: {load_average():.1f}",
            f"- date: {datetime.date.today().isoformat()}",
        ]
        return "\n".join(["# Training from a memory map", *pages, *notes]), all(goods)

    return run_and_print("memory_map.py", options.folder, produce)


def measure(dtype: str, options: argparse.Namespace) -> tuple[str, bool]:
    """Write a file and train from it; return a section, and whether it passes."""
    copies = 2 if options.quick else COPIES[dtype]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_copies(folder, dtype, copies)
        path = folder / "x.npy"
        records: dict[str, list[Record]] = {held: [] for held in HELD}
        reading = []
        for number in range(1 if options.quick else options.rounds):
            drop_from_cache(path)
            reading.append(read_seconds(path))
            for held in (*HELD[number % 3 :], *HELD[: number % 3]):
                command = [__file__, name, "--held", held, "--threads", str(options.threads)]
                said = run_python(command, options.threads).splitlines()[-1]
                records[held].append(json.loads(said))
        size = path.stat().st_size
    lines, good = section(records, size, median(reading))
    return "\n".join([f"\n{copies} copies, {dtype}, {size / 1e9:.1f} GB:\n", *lines, ""]), good


def section(records: dict[str, list[Record]], size: int, reading: float) -> tuple[list[str], bool]:
    """Return the lines about one file, and whether it passes."""

    def middle(held: str, figure: Callable[[Record], float]) -> float:
        return median(map(figure, records[held]))

    array = middle("array", lambda record: sum(record["epochs"]))
    rows = [["rows in", "fit s", "epoch 1 s", "epoch 2 s", "of the array's speed", "anonymous MB"]]
    shares, peaks = {}, {}
    for held in HELD:
        share = array / middle(held, lambda record: sum(record["epochs"]))
        peak = max(record["anonymous"] for record in records[held])
        times = [middle(held, lambda record: record["fit"])]
        times += [middle(held, lambda record, i=i: record["epochs"][i]) for i in range(EPOCHS)]
        rows.append([held, *(f"{t:.2f}" for t in times), f"{share:.2f}", f"{peak:.0f}"])
        shares[held], peaks[held] = share, peak
    same = len({record["loss"] for runs in records.values() for record in runs}) == 1
    first = middle("map, cold", lambda record: record["epochs"][0])
    limit = max(reading, middle("array", lambda record: record["epochs"][0]))
    lines = [
        *grid(rows, 1),
        "",
        f"- the disk alone: {reading:.2f} s, {size / reading / 1e6:,.0f} MB/s; the slower of disk "
        f"and kernel takes {limit / first:.2f} of the first cold epoch",
        f"- losses: {'the same bits' if same else 'NOT THE SAME'}",
    ]
    small = max(peaks[held] for held in HELD[1:]) <= MOST_MB
    return lines, small and same and shares["map, cached"] >= LEAST_SHARE


if __name__ == "__main__":
    sys.exit(main())
