"""Data sets: where they are looked for, how they are fetched, and what is refused."""

import contextlib
import gzip
import hashlib
import io
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fastnn.data.sets import load_dataset
from fastnn.data.sets.sources import SETS, IdxFile, IdxSet
from fastnn.errors import DataError

CLOSED_PORT = "http://127.0.0.1:9/"
NAMES = [file.name for file in SETS["mnist"].files]


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">2x2B{array.ndim}I", 8, array.ndim, *array.shape) + array.tobytes()


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Keep the user's cache, environment and proxies out of the tests; return the cache's place."""
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda app: tmp_path / "cache" / app)
    return tmp_path / "cache" / "fastnn"


@pytest.fixture(autouse=True)
def tiny(monkeypatch) -> dict[str, bytes]:
    """Replace MNIST by a set of a few 2x3 images that has no mirror; return its four files."""
    rng = np.random.default_rng(0)
    arrays = []
    for n in (5, 4):
        arrays += [rng.integers(0, 256, (n, 2, 3), np.uint8), np.arange(n, dtype=np.uint8) % 3]
    contents = dict(zip(NAMES, map(idx_bytes, arrays), strict=True))
    files = tuple(
        IdxFile(
            name,
            *(hashlib.sha256(c).hexdigest() for c in (content, packed(content))),
            len(packed(content)),
        )
        for name, content in contents.items()
    )
    monkeypatch.setitem(
        SETS, "mnist", IdxSet("MNIST", files, SETS["mnist"].folders, (CLOSED_PORT,))
    )
    return contents


def put(directory: Path, files: dict[str, bytes], suffix: str = "") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / (name + suffix)).write_bytes(packed(content) if suffix else content)
    return directory


def refusal(*args, **kwargs) -> str:
    """Return the one-line message with which load_dataset refuses."""
    with pytest.raises(DataError) as caught:
        load_dataset(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Finding and verifying


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw"])
def test_layouts(tmp_path, tiny, folder, suffix):
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
def test_names_with_dots_and_folders_of_their_own(tmp_path, tiny, folder, outer, inner, suffix):
    root = tmp_path / "data" / folder
    for name in NAMES:
        put(root / outer(name) if outer else root, {inner(name): tiny[name]}, suffix)
    data = load_dataset("mnist", tmp_path / "data")
    assert (data.source, len(data.x_train)) == (str(root), 5)


def test_as_kaggle_unpacks_it(tmp_path, tiny):
    put(tmp_path, {dotted(name): content for name, content in tiny.items()})
    for name in NAMES:
        put(tmp_path / name, {dotted(name): tiny[name]})
    assert load_dataset("mnist", tmp_path).source == str(tmp_path)


def test_raw_and_compressed_files_may_be_mixed(tmp_path, tiny):
    put(tmp_path / "data", {name: tiny[name] for name in NAMES[:2]})
    put(tmp_path / "data", {name: tiny[name] for name in NAMES[2:]}, ".gz")
    assert load_dataset("mnist", str(tmp_path / "data")).x_test.shape == (4, 6)


def test_fashion_mnist_lies_beside_mnist(tmp_path, tiny, monkeypatch):
    fashion = {name: content[:-1] + b"\2" for name, content in tiny.items()}
    files = tuple(IdxFile(n, hashlib.sha256(c).hexdigest(), "", 0) for n, c in fashion.items())
    folders = SETS["fashion-mnist"].folders
    monkeypatch.setitem(SETS, "fashion-mnist", IdxSet("Fashion-MNIST", files, folders, ()))
    put(tmp_path / "data", tiny)
    assert "is not Fashion-MNIST's file but MNIST's" in refusal("fashion-mnist", tmp_path / "data")
    put(tmp_path / "data/fashion-mnist", fashion)
    assert load_dataset("fashion-mnist", tmp_path / "data").x_train[-1, -1] == 2
    assert load_dataset("mnist", tmp_path / "data").x_train[-1, -1] == tiny[NAMES[0]][-1]


def test_search_order(tmp_path, tiny, cache, monkeypatch):
    in_cache = put(cache / "mnist", tiny)
    assert load_dataset("mnist").source == str(in_cache)
    in_environment = put(tmp_path / "env", tiny)
    monkeypatch.setenv("FASTNN_DATA", str(in_environment))
    assert load_dataset("mnist").source == load_dataset("auto").source == str(in_environment)
    given = put(tmp_path / "given", tiny)
    assert load_dataset("mnist", given).source == str(given)
    (in_environment / NAMES[3]).unlink()
    assert load_dataset("mnist").source == str(in_cache)


def test_system_directories(tmp_path, tiny, monkeypatch):
    where = put(tmp_path / "system", tiny, ".gz")
    known = SETS["mnist"]
    monkeypatch.setitem(
        SETS, "mnist", IdxSet("MNIST", known.files, known.folders, (), (str(where),))
    )
    assert load_dataset("mnist").source == str(where)


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_a_data_dir_is_searched_alone(tmp_path, tiny, cache, name):
    put(cache / "mnist", tiny)
    put(tmp_path / "data", {n: tiny[n] for n in NAMES[:3]})
    message = refusal(name, tmp_path / "data")
    assert message.startswith(f"{tmp_path / 'data'}: lacks MNIST's t10k-labels-idx1-ubyte (")


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_a_file_that_is_found_must_be_right(tmp_path, tiny, cache, name):
    path = put(cache / "mnist", tiny, ".gz") / f"{NAMES[1]}.gz"
    other = tiny[NAMES[1]][:-1] + b"\7"
    path.write_bytes(packed(other))
    message = refusal(name)
    for part in (str(path), *(hashlib.sha256(c).hexdigest() for c in (other, tiny[NAMES[1]]))):
        assert part in message
    path.write_bytes(packed(other)[:-1])
    assert refusal(name).startswith(f"{path}: damaged gzip")


def test_directories_that_are_none(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    assert refusal("mnist", file) == f"{file}: is not a directory"
    assert refusal("auto", tmp_path / "x") == f"{tmp_path / 'x'}: does not exist"
    monkeypatch.setenv("FASTNN_DATA", str(file))
    assert refusal("auto") == f"FASTNN_DATA={file}: is not a directory"


def test_unknown_names():
    expected = "choose auto, mnist, fashion-mnist, digits or a path ending in .npz"
    assert refusal("cifar").endswith(expected)


@pytest.mark.mnist
def test_the_real_mnist(mnist):
    data = mnist
    assert data.x_train.shape == (60_000, 784) and data.x_test.shape == (10_000, 784)
    train_counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test_counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.y_train).tolist() == train_counts
    assert np.bincount(data.y_test).tolist() == test_counts
    assert data.x_train.flags.c_contiguous and data.n_classes == 10


@pytest.mark.process
def test_the_import_is_cheap():
    heavy = "pooch requests rich sklearn platformdirs pandas"
    code = f"import sys, fastnn.data.sets; print(sys.modules.keys() & set({heavy.split()}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# Digits


def test_digits():
    data, again = load_dataset("digits"), load_dataset("digits")
    assert data.x_train.shape == (1437, 64) and data.x_test.shape == (360, 64)
    assert data.x_train.dtype == np.uint8 and data.x_train.max() == 16 and data.scale == 1 / 16
    assert data.y_train.dtype == np.int32 and data.x_train.flags.c_contiguous
    assert (data.image_shape, data.n_classes, data.note) == ((8, 8), 10, None)
    counts = np.bincount(data.y_train) + np.bincount(data.y_test)
    np.testing.assert_allclose(np.bincount(data.y_test), counts / 5, atol=1)
    np.testing.assert_array_equal(data.x_train, again.x_train)
    np.testing.assert_array_equal(data.y_test, again.y_test)


# Fetching


class _Handler(BaseHTTPRequestHandler):
    """Serves /good/NAME.gz, and the same file spoilt in the manner that another folder names."""

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        _, manner, name = self.path.split("/")
        content = packed(self.server.files[name.removesuffix(".gz")])
        if manner.startswith("hang") or (manner == "stall" and body):
            self.server.release.wait(10)
            return
        self.send_response({"gone": 404, "circle": 302}.get(manner, 200))
        self.send_header("Location", self.path)
        if manner in ("labelled", "bomb", "squeezed"):
            self.send_header("Content-Encoding", "gzip")
        if manner == "squeezed":
            content = packed(content)
        if manner not in ("more", "bomb", "ends", "drip", "steady"):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if manner in ("drip", "steady") and body:
            while not self.server.release.wait(0.02):
                self.wfile.write(content[:1])
        elif body:
            spoilt = {
                "short": content[:20],
                "ends": content[:20],
                "wrong": bytes(len(content)),
                "more": content * 2,
                "bomb": packed(bytes(1 << 20)),
            }
            self.wfile.write(spoilt.get(manner, content))

    def handle(self):
        with contextlib.suppress(ConnectionError):  # of readers that have gone
            super().handle()

    def log_message(self, *args):
        self.server.requests.append(self.requestline)


@pytest.fixture
def mirrors(tiny, monkeypatch):
    """Give a function that makes mirrors, by their manners, the sources of MNIST."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.files, server.release, server.requests = tiny, threading.Event(), []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def use(*manners: str) -> list[str]:
        urls = tuple(f"http://127.0.0.1:{server.server_port}/{manner}/" for manner in manners)
        known = SETS["mnist"]
        monkeypatch.setitem(SETS, "mnist", IdxSet("MNIST", known.files, known.folders, urls))
        return server.requests

    yield use
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def files_in(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("*")}


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_fetched_once(mirrors, cache, name, caplog, capsys):
    requests = mirrors("good")
    data = load_dataset(name, progress=True)
    assert (data.name, data.source, data.note) == ("mnist", "127.0.0.1", None)
    assert files_in(cache / "mnist") == {f"{n}.gz" for n in NAMES}
    n_requests = len(requests)
    assert load_dataset(name).source == str(cache / "mnist")
    assert len(requests) == n_requests
    assert not caplog.records and capsys.readouterr() == ("", "")


def test_a_mirror_that_calls_files_encoded_is_taken_as_it_sends_them(mirrors, cache):
    mirrors("labelled")
    assert load_dataset("mnist").name == "mnist"


def test_only_what_is_missing_is_fetched(mirrors, tiny, cache):
    requests = mirrors("good")
    put(cache / "mnist", {name: tiny[name] for name in NAMES[:3]})
    load_dataset("mnist")
    assert [line.split()[1] for line in requests] == [f"/good/{NAMES[3]}.gz"]


@pytest.mark.parametrize("name", ["mnist", "auto"])
@pytest.mark.parametrize("manner", ["gone", "wrong", "short"])
def test_the_second_mirror_helps_out(mirrors, cache, manner, name):
    mirrors(manner, "good")
    assert load_dataset(name).name == "mnist"
    assert files_in(cache / "mnist") == {f"{n}.gz" for n in NAMES}


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("gone", "404"),
        ("wrong", "sent a different file: its SHA-256 is not "),
        ("short", "20 bytes read"),
        ("ends", "sent 20 of the file's "),
        ("more", "sent more than the "),
        ("bomb", "sent more than the "),  # of what its Content-Encoding would unpack to
        ("squeezed", "sent "),
        ("stall", "sent less than 8,192 bytes within 0.05 s"),
        ("drip", "sent less than 8,192 bytes"),
        ("steady", "took more than 0.1 s"),
        ("circle", "Exceeded 30 redirects"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_why(mirrors, cache, monkeypatch, manner, reason):
    if manner in ("stall", "drip"):
        monkeypatch.setattr("fastnn.data.sets.download.STALL_LIMIT", 0.05)
    if manner == "steady":
        monkeypatch.setattr("fastnn.data.sets.download.PIECE", 1)
        monkeypatch.setattr("fastnn.data.sets.download.TOTAL_LIMIT", 0.1)
    mirrors(manner)
    start = time.monotonic()
    message = refusal("mnist")
    assert time.monotonic() - start < 2
    for part in (str(cache / "mnist"), f"/{manner}/", reason, "--data-dir", "FASTNN_DATA"):
        assert part in message
    assert "--dataset digits" in message
    assert not files_in(cache / "mnist")
    data = load_dataset("auto")
    assert data.name == "digits" and f"/{manner}/" in data.note
    assert not files_in(cache / "mnist")


def test_a_user_without_a_home_directory(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda app: Path("~/.cache") / app)
    message = refusal("mnist")
    assert "is not fetched, because this user has no home directory" in message
    assert "--data-dir" in message
    data = load_dataset("auto")
    assert data.name == "digits" and "no home directory" in data.note
    monkeypatch.setenv("FASTNN_DATA", str(put(tmp_path / "data", tiny)))
    assert load_dataset("auto").name == "mnist"


def test_without_a_network_auto_takes_the_digits():
    data = load_dataset("auto")
    assert data.name == "digits" and data.x_train.shape == (1437, 64)
    assert "8x8 digits" in data.note and "Connection refused" in data.note
    assert "--data-dir" in data.note and "\n" not in data.note


def test_silent_mirrors_do_not_add_up(mirrors, monkeypatch):
    load_dataset("digits")  # its import is not what is timed here
    monkeypatch.setattr("fastnn.data.sets.download.REACH_LIMIT", 0.4)
    mirrors("hang-1", "hang-2", "hang-3")
    start = time.monotonic()
    data = load_dataset("auto")
    assert time.monotonic() - start < 3 * 0.4  # what they would add up to
    assert data.name == "digits" and data.note.count("no answer within 0.4 s") == 3


def test_a_silent_mirror_does_not_hold_up_a_good_one(mirrors):
    mirrors("hang", "good")
    start = time.monotonic()
    assert load_dataset("auto").name == "mnist"
    assert time.monotonic() - start < 2.0


def test_progress_is_shown_on_a_terminal(mirrors, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    mirrors("good")
    load_dataset("mnist", progress=True)
    assert NAMES[0] in sys.stderr.getvalue()
