"""`fastnn.plots.window`: figures in notebooks and windows, and where there is neither."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastnn.plots.curves import new_figure
from fastnn.plots.window import show

SECONDS = pytest.mark.process  # importing pyplot takes seconds


def test_notebook_displays_a_png(monkeypatch: pytest.MonkeyPatch) -> None:
    displayed: list[tuple[bytes, int]] = []
    notebook = SimpleNamespace(Image=lambda png, width: (png, width), display=displayed.append)
    shell = SimpleNamespace(kernel="a kernel")
    ipython = SimpleNamespace(get_ipython=lambda: shell, display=notebook, version_info=(9, 0))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    assert show(new_figure(1))
    ((png, width),) = displayed
    assert png.startswith(b"\x89PNG") and width == 900


class Window(FigureManagerBase):
    """A window of an invented toolkit, whose event loop calls `in_loop`."""

    in_loop: Callable[[Figure], None]

    def show(self) -> None:
        """Do nothing; the base class warns that there is no window."""

    @classmethod
    def start_main_loop(cls) -> None:
        from matplotlib import pyplot

        cls.in_loop(pyplot.gcf())


class Canvas(FigureCanvasAgg):
    required_interactive_framework = "headless"  # accepted with and without a display
    manager_class = Window


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return a function that sets matplotlib's backend; "toolkit" is an invented one."""
    from matplotlib import pyplot

    module: Any = ModuleType("toolkit")
    module.FigureCanvas = Canvas
    monkeypatch.setitem(sys.modules, "toolkit", module)
    yield lambda name: pyplot.switch_backend("module://toolkit" if name == "toolkit" else name)
    assert pyplot.get_fignums() == []
    pyplot.switch_backend("agg")


@SECONDS
def test_window_shows_the_figure_and_ctrl_c_closes_it(
    backend: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import pyplot

    figure, seen = new_figure(1), []

    def in_loop(shown: Figure) -> None:
        seen.append((shown, threading.active_count()))
        signal.raise_signal(signal.SIGINT)
        assert pyplot.get_fignums() == []

    monkeypatch.setattr(Window, "in_loop", in_loop, raising=False)
    before, threads = signal.getsignal(signal.SIGINT), threading.active_count()
    backend("toolkit")
    assert show(figure)
    assert seen == [(figure, threads)]
    assert signal.getsignal(signal.SIGINT) is before


@SECONDS
def test_backends_without_windows_show_nothing(backend: Callable[[str], None]) -> None:
    backend("agg")
    assert not show(new_figure(1))


@SECONDS
def test_other_threads_open_no_window(backend: Callable[[str], None]) -> None:
    backend("toolkit")
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(show(new_figure(1))))
    thread.start()
    thread.join()
    assert results == [False]
