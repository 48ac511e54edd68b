"""Fixtures that many tests share."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from command_line import MNIST, small_arrays, time_limit
from started import unmarked, watch_compilations, watch_processes
from threadpoolctl import threadpool_limits

import fastnn
from fastnn.data.sets import Dataset, load_dataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what runs in the background, and every process that the tests interrupt
    # would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# ---- the same on every machine ----------------------------------------------------------------

os.environ.pop("FASTNN_DATA", None)


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled kernels and Matplotlib's fonts in pytest's cache, and BLAS on one thread."""
    for variable, name in (("NUMBA_CACHE_DIR", "kernels"), ("MPLCONFIGDIR", "matplotlib")):
        if variable not in os.environ:
            os.environ[variable] = str(private_directory(config, name))
    # On matrices this small one BLAS thread is faster than several, which took half of the time.
    import_module("scipy.linalg")  # SciPy may come with its own BLAS
    threadpool_limits(1, user_api="blas")
    watch_processes()
    watch_compilations()


def private_directory(config: pytest.Config, name: str) -> Path:
    """Make a directory in pytest's cache, or a temporary one if there is no cache."""
    cache = getattr(config, "cache", None)  # missing with `-p no:cacheprovider`
    with suppress(OSError, AttributeError):
        directory = cache.mkdir(name)
        directory.chmod(0o700)
        return directory
    temporary = TemporaryDirectory(prefix=f"fastnn-{name}-")
    config.add_cleanup(temporary.cleanup)
    return Path(temporary.name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("mnist") and not MNIST:
        pytest.skip("needs the real MNIST, in the directory that FASTNN_DATA names")


# ---- limits of a test -------------------------------------------------------------------------

TIME_LIMITS = {"long": 3600, "process": 900, "mnist": 900}  # seconds, by a test's marker
TIME_LIMIT = 120


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    marker = next((name for name in TIME_LIMITS if item.get_closest_marker(name)), "")
    test = "" if marker in ("long", "process") else item.nodeid
    with unmarked(test), time_limit(TIME_LIMITS.get(marker, TIME_LIMIT)):
        return (yield)


# ---- fixtures ---------------------------------------------------------------------------------


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(params=["numba", "numpy"])
def engine(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def images() -> Dataset:
    """Load the digits that come with scikit-learn, on every machine."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    """Load the real MNIST; for tests marked `mnist`."""
    return load_dataset("mnist", MNIST)


@pytest.fixture(params=["images", pytest.param("mnist", marks=pytest.mark.mnist)])
def digits_or_mnist(request: pytest.FixtureRequest) -> Dataset:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make one folder for all the examples of a property."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> "list[Figure]":
    """Collect the figures that are saved."""
    from matplotlib.figure import Figure

    saved: list[Figure] = []
    save = Figure.savefig

    def savefig(figure: Figure, *args: Any, **options: Any) -> None:
        saved.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder the current one, beside small.npz; processes find fastnn from there."""
    monkeypatch.setenv("PYTHONPATH", str(Path(fastnn.__file__).parents[1]))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is sent, the command sends
    np.savez(tmp_path / "small.npz", **small_arrays())
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture(scope="session")
def iris() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_iris
    from sklearn.preprocessing import scale

    x, y = load_iris(return_X_y=True)
    return scale(x), y


@pytest.fixture(scope="session")
def cancer() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_breast_cancer
    from sklearn.preprocessing import scale

    x, y = load_breast_cancer(return_X_y=True)
    return scale(x), y


@pytest.fixture(scope="session")
def diabetes() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_diabetes
    from sklearn.preprocessing import scale

    x, y = load_diabetes(return_X_y=True)
    return scale(x), scale(y)
