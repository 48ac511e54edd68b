"""Data sets: their search path, downloads, verification, and errors."""

import contextlib
import gzip
import hashlib
import io
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fastnn.data.sets import load_dataset
from fastnn.data.sets.sources import FILE_NAMES as NAMES
from fastnn.data.sets.sources import SETS
from fastnn.errors import DataError

CLOSED_PORT = "http://127.0.0.1:9/"


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">2x2B{array.ndim}I", 8, array.ndim, *array.shape) + array.tobytes()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Isolate tests from the user's cache, environment and proxies; return the cache's path."""
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda app: tmp_path / "cache" / app)
    return tmp_path / "cache" / "fastnn"


@pytest.fixture(autouse=True)
def tiny(monkeypatch) -> dict[str, bytes]:
    """Replace MNIST by a few 2x3 images without a mirror; return the four files."""
    rng = np.random.default_rng(0)
    arrays = []
    for n in (5, 4):
        arrays += [rng.integers(0, 256, (n, 2, 3), np.uint8), np.arange(n, dtype=np.uint8) % 3]
    contents = dict(zip(NAMES, map(idx_bytes, arrays), strict=True))
    known = {
        "sha256": tuple(map(sha256, contents.values())),
        "gzip_bytes": tuple(len(packed(content)) for content in contents.values()),
        "mirrors": (CLOSED_PORT,),
    }
    monkeypatch.setitem(SETS, "mnist", replace(SETS["mnist"], **known))
    return contents


def put(directory: Path, files: dict[str, bytes], suffix: str = "") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / (name + suffix)).write_bytes(packed(content) if suffix else content)
    return directory


def refusal(*args, **kwargs) -> str:
    """Return the error message of load_dataset; assert that it is one line."""
    with pytest.raises(DataError) as caught:
        load_dataset(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- search and verification --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw"])
def test_finds_files_in_usual_folders(tmp_path, tiny, folder, suffix):
    where = put(tmp_path / "data" / folder, tiny, suffix)
    data = load_dataset("mnist", tmp_path / "data")
    assert data.source == str(where)
    assert data.x_train.shape == (5, 6) and data.x_train.dtype == np.uint8
    assert data.x_train.tobytes() == tiny[NAMES[0]][16:]
    assert data.x_test.shape == (4, 6) and data.x_test.flags.c_contiguous
    assert data.y_train.tolist() == [0, 1, 2, 0, 1] and data.y_train.dtype == np.int32
    assert (data.image_shape, data.n_classes, data.scale) == ((2, 3), 3, 1 / 255)
    assert (data.name, data.note) == ("mnist", None)


def dotted(name: str) -> str:
    return name.replace("-idx", ".idx")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("outer", [None, str, dotted])
@pytest.mark.parametrize("inner", [str, dotted])
@pytest.mark.parametrize("folder", ["", "mnist"])
def test_finds_names_with_dots_in_folders_of_the_same_name(
    tmp_path, tiny, folder, outer, inner, suffix
):
    root = tmp_path / "data" / folder
    for name in NAMES:
        put(root / outer(name) if outer else root, {inner(name): tiny[name]}, suffix)
    data = load_dataset("mnist", tmp_path / "data")
    assert (data.source, len(data.x_train)) == (str(root), 5)


def test_finds_files_as_kaggle_unpacks_them(tmp_path, tiny):
    put(tmp_path, {dotted(name): content for name, content in tiny.items()})
    for name in NAMES:
        put(tmp_path / name, {dotted(name): tiny[name]})
    assert load_dataset("mnist", tmp_path).source == str(tmp_path)


def test_reads_raw_and_gzipped_files_together(tmp_path, tiny):
    put(tmp_path / "data", {name: tiny[name] for name in NAMES[:2]})
    put(tmp_path / "data", {name: tiny[name] for name in NAMES[2:]}, ".gz")
    assert load_dataset("mnist", str(tmp_path / "data")).x_test.shape == (4, 6)


def test_finds_fashion_mnist_beside_mnist(tmp_path, tiny, monkeypatch):
    fashion = {name: content[:-1] + b"\2" for name, content in tiny.items()}
    known = replace(SETS["fashion-mnist"], sha256=tuple(map(sha256, fashion.values())))
    monkeypatch.setitem(SETS, "fashion-mnist", known)
    put(tmp_path / "data", tiny)
    assert "is a file of MNIST, not of Fashion-MNIST" in refusal("fashion-mnist", tmp_path / "data")
    put(tmp_path / "data/fashion-mnist", fashion)
    assert load_dataset("fashion-mnist", tmp_path / "data").x_train[-1, -1] == 2
    assert load_dataset("mnist", tmp_path / "data").x_train[-1, -1] == tiny[NAMES[0]][-1]


def test_searches_environment_before_cache(tmp_path, tiny, cache, monkeypatch):
    in_cache = put(cache / "mnist", tiny)
    assert load_dataset("mnist").source == str(in_cache)
    in_environment = put(tmp_path / "env", tiny)
    monkeypatch.setenv("FASTNN_DATA", str(in_environment))
    assert load_dataset("mnist").source == load_dataset("auto").source == str(in_environment)
    given = put(tmp_path / "given", tiny)
    assert load_dataset("mnist", given).source == str(given)
    (in_environment / NAMES[3]).unlink()
    assert load_dataset("mnist").source == str(in_cache)


def test_searches_system_directories(tmp_path, tiny, monkeypatch):
    where = put(tmp_path / "system", tiny, ".gz")
    known = replace(SETS["mnist"], mirrors=(), system_dirs=(str(where),))
    monkeypatch.setitem(SETS, "mnist", known)
    assert load_dataset("mnist").source == str(where)


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_searches_only_a_given_directory(tmp_path, tiny, cache, name):
    put(cache / "mnist", tiny)
    put(tmp_path / "data", {n: tiny[n] for n in NAMES[:3]})
    message = refusal(name, tmp_path / "data")
    assert message.startswith(
        f"no MNIST in '{tmp_path / 'data'}': missing t10k-labels-idx1-ubyte ("
    )


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_rejects_files_with_another_hash(tmp_path, tiny, cache, name):
    path = put(cache / "mnist", tiny, ".gz") / f"{NAMES[1]}.gz"
    other = tiny[NAMES[1]][:-1] + b"\7"
    path.write_bytes(packed(other))
    message = refusal(name)
    for part in (str(path), sha256(other), sha256(tiny[NAMES[1]])):
        assert part in message
    path.write_bytes(packed(other)[:-1])
    assert refusal(name).startswith(f"{path}: is damaged gzip")


def test_rejects_paths_that_are_not_directories(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    assert refusal("mnist", file) == f"{file}: is not a directory"
    assert refusal("auto", tmp_path / "x") == f"{tmp_path / 'x'}: does not exist"
    monkeypatch.setenv("FASTNN_DATA", str(file))
    assert refusal("auto") == f"FASTNN_DATA={file}: is not a directory"


def test_rejects_unknown_names():
    expected = "choose auto, mnist, fashion-mnist, digits or a path ending in .npz"
    assert refusal("cifar").endswith(expected)


@pytest.mark.mnist
def test_loads_the_real_mnist(mnist):
    data = mnist
    assert data.x_train.shape == (60_000, 784) and data.x_test.shape == (10_000, 784)
    train_counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test_counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.y_train).tolist() == train_counts
    assert np.bincount(data.y_test).tolist() == test_counts
    assert data.x_train.flags.c_contiguous and data.n_classes == 10


@pytest.mark.process
def test_import_loads_no_heavy_library():
    heavy = "pooch requests rich sklearn platformdirs pandas"
    code = f"import sys, fastnn.data.sets; print(sys.modules.keys() & set({heavy.split()}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# ---- digits -------------------------------------------------------------------------------------


def test_loads_the_digits_with_a_fixed_split():
    data, again = load_dataset("digits"), load_dataset("digits")
    assert data.x_train.shape == (1437, 64) and data.x_test.shape == (360, 64)
    assert data.x_train.dtype == np.uint8 and data.x_train.max() == 16 and data.scale == 1 / 16
    assert data.y_train.dtype == np.int32 and data.x_train.flags.c_contiguous
    assert (data.image_shape, data.n_classes, data.note) == ((8, 8), 10, None)
    counts = np.bincount(data.y_train) + np.bincount(data.y_test)
    np.testing.assert_allclose(np.bincount(data.y_test), counts / 5, atol=1)
    np.testing.assert_array_equal(data.x_train, again.x_train)
    np.testing.assert_array_equal(data.y_test, again.y_test)


# ---- downloads ----------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    """Serve /good/NAME.gz, and the same file with the defect that another folder names."""

    def do_GET(self):
        _, defect, name = self.path.split("/")
        content = packed(self.server.files[name.removesuffix(".gz")])
        if defect.startswith("hang"):
            self.server.release.wait(10)
            return
        self.send_response({"gone": 404, "circle": 302}.get(defect, 200))
        self.send_header("Location", self.path)
        if defect in ("labelled", "bomb", "squeezed"):
            self.send_header("Content-Encoding", "gzip")
        if defect == "squeezed":
            content = packed(content)
        if defect not in ("more", "bomb", "ends", "drip", "steady"):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if defect in ("drip", "steady"):
            while not self.server.release.wait(0.02):
                self.wfile.write(content[:1])
        elif defect == "stall":
            self.server.release.wait(10)
        else:
            damaged = {
                "short": content[:20],
                "ends": content[:20],
                "wrong": bytes(len(content)),
                "other": packed(b"other")[: len(content)].ljust(len(content), b"\0"),
                "more": content * 2,
                "bomb": packed(bytes(1 << 20)),
            }
            self.wfile.write(damaged.get(defect, content))

    def handle(self):
        with contextlib.suppress(ConnectionError):  # the client may have left
            super().handle()

    def log_message(self, *args):
        self.server.requests.append(self.requestline)


@pytest.fixture
def mirrors(tiny, monkeypatch):
    """Return a function that sets the mirrors of MNIST by their defects."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.files, server.release, server.requests = tiny, threading.Event(), []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def use(*defects: str) -> list[str]:
        urls = tuple(f"http://127.0.0.1:{server.server_port}/{defect}/" for defect in defects)
        monkeypatch.setitem(SETS, "mnist", replace(SETS["mnist"], mirrors=urls))
        return server.requests

    yield use
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def files_in(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("*")}


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_downloads_once(mirrors, cache, name, caplog, capsys):
    requests = mirrors("good")
    data = load_dataset(name, progress=True)
    assert (data.name, data.source, data.note) == ("mnist", "127.0.0.1", None)
    assert files_in(cache / "mnist") == {f"{n}.gz" for n in NAMES}
    n_requests = len(requests)
    assert load_dataset(name).source == str(cache / "mnist")
    assert len(requests) == n_requests
    assert not caplog.records and capsys.readouterr() == ("", "")


def test_ignores_a_content_encoding(mirrors, cache):
    mirrors("labelled")
    assert load_dataset("mnist").name == "mnist"


def test_downloads_only_missing_files(mirrors, tiny, cache):
    requests = mirrors("good")
    put(cache / "mnist", {name: tiny[name] for name in NAMES[:3]})
    load_dataset("mnist")
    assert [line.split()[1] for line in requests] == [f"/good/{NAMES[3]}.gz"]


@pytest.mark.parametrize("name", ["mnist", "auto"])
@pytest.mark.parametrize("defect", ["gone", "wrong", "short"])
def test_tries_the_second_mirror(mirrors, cache, defect, name):
    mirrors(defect, "good")
    assert load_dataset(name).name == "mnist"
    assert files_in(cache / "mnist") == {f"{n}.gz" for n in NAMES}


@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        ("gone", "404"),
        ("wrong", "incorrect header check"),
        ("other", "sent a different file: the SHA-256 of its content is not "),
        ("short", "20 bytes read"),
        ("ends", "sent 20 of the file's "),
        ("more", "sent more than the "),
        ("bomb", "sent more than the "),
        ("squeezed", "sent "),
        ("stall", "sent less than 8,192 bytes within 0.05 s"),
        ("drip", "sent less than 8,192 bytes"),
        ("steady", "took more than 0.1 s"),
        ("circle", "Exceeded 30 redirects"),
    ],
)
def test_failed_download_leaves_no_file_and_names_the_reason(
    mirrors, cache, monkeypatch, defect, reason
):
    if defect in ("stall", "drip"):
        monkeypatch.setattr("fastnn.data.sets.download.STALL_LIMIT", 0.05)
        monkeypatch.setattr("fastnn.data.sets.download.REACH_LIMIT", 0.05)
    if defect == "steady":
        monkeypatch.setattr("fastnn.data.sets.download.PIECE", 1)
        monkeypatch.setattr("fastnn.data.sets.download.TOTAL_LIMIT", 0.1)
    mirrors(defect)
    start = time.monotonic()
    message = refusal("mnist")
    assert time.monotonic() - start < 2
    for part in (str(cache / "mnist"), f"/{defect}/", reason, "--data-dir", "FASTNN_DATA"):
        assert part in message
    assert "--dataset digits" in message
    assert not files_in(cache / "mnist")
    data = load_dataset("auto")
    assert data.name == "digits" and f"/{defect}/" in data.note
    assert not files_in(cache / "mnist")


def test_user_without_a_home_directory(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda app: Path("~/.cache") / app)
    message = refusal("mnist")
    assert "is not downloaded, because this user has no home directory" in message
    assert "--data-dir" in message
    data = load_dataset("auto")
    assert data.name == "digits" and "no home directory" in data.note
    monkeypatch.setenv("FASTNN_DATA", str(put(tmp_path / "data", tiny)))
    assert load_dataset("auto").name == "mnist"


def test_auto_loads_the_digits_without_a_network():
    data = load_dataset("auto")
    assert data.name == "digits" and data.x_train.shape == (1437, 64)
    assert "8x8 digits" in data.note and "Connection refused" in data.note
    assert "--data-dir" in data.note and "\n" not in data.note


def test_silent_mirrors_share_the_time_to_answer(mirrors, monkeypatch):
    load_dataset("digits")  # imports scikit-learn, which is not to be timed
    monkeypatch.setattr("fastnn.data.sets.download.REACH_LIMIT", 0.3)
    mirrors("hang-1", "hang-2", "hang-3")
    start = time.monotonic()
    data = load_dataset("auto")
    assert time.monotonic() - start < 2 * 0.3
    assert data.name == "digits" and data.note.count("bytes within 0.1 s") == 3


def test_tries_the_next_mirror_after_a_silent_one(mirrors, monkeypatch):
    monkeypatch.setattr("fastnn.data.sets.download.REACH_LIMIT", 0.4)
    mirrors("hang", "good")
    assert load_dataset("auto").name == "mnist"


def test_shows_progress_on_a_terminal(mirrors, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    mirrors("good")
    load_dataset("mnist", progress=True)
    assert NAMES[0] in sys.stderr.getvalue()
