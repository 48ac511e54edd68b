"""Fixtures of the tests of the command lines."""

import os
from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(params=[80, 20])
def terminal(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """Open a pseudo-terminal of the given width; return both ends."""
    termios, fcntl = pytest.importorskip("termios"), pytest.importorskip("fcntl")
    ours, theirs = os.openpty()
    size = np.array([24, request.param, 0, 0], np.uint16).tobytes()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    yield ours, theirs
    os.close(ours)
