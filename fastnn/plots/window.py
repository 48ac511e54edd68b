"""Show a figure in a notebook or in a window."""

import signal
import sys
from importlib import import_module
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, cast

from fastnn.plots.curves import to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WAKE_MILLISECONDS = 200


def show(figure: "Figure") -> bool:
    """Display a figure below the notebook's cell, or in a window until it is closed.

    Ctrl-C closes the window, too.

    Returns
    -------
    bool
        False if the program neither runs in a notebook nor can open a window.
    """
    if (notebook := _notebook()) is not None:
        notebook.display(notebook.Image(to_png(figure), width=int(figure.bbox.width)))
        return True
    return current_thread() is main_thread() and _show_window(figure)


def _notebook() -> Any:
    """Return the module `IPython.display` if the program runs in a notebook, otherwise None."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    has_kernel = getattr(shell, "kernel", None) is not None  # IPython in a terminal has none
    return import_module("IPython.display") if has_kernel else None


def _show_window(figure: "Figure") -> bool:
    # The only use of pyplot, which finds a toolkit and runs its event loop. All other figures are
    # drawn without it: it needs a display for some backends, and its state belongs to the user.
    from matplotlib import pyplot

    try:
        pyplot.figure(FigureClass=cast(Any, lambda **options: figure))  # a window for it
    except Exception:  # without a display, each toolkit raises its own
        return False
    previous = signal.signal(signal.SIGINT, lambda *_: pyplot.close(figure))
    try:
        if not figure.canvas.required_interactive_framework:  # the backend only writes files
            return False
        timer = figure.canvas.new_timer(interval=_WAKE_MILLISECONDS)
        timer.add_callback(lambda: None)  # Python handles signals only between two events
        timer.start()
        pyplot.show(block=True)
    finally:
        signal.signal(signal.SIGINT, previous)
        pyplot.close(figure)
    return True
