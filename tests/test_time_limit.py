"""The time limit of a test ends a wait that would never end."""

import os
import queue
import time

import pytest
from command_line import posix, time_limit


@posix
def test_time_limit_ends_waits():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "wb"):
        for wait in (pipe.readline, queue.Queue().get):
            start = time.monotonic()
            with pytest.raises(pytest.fail.Exception, match="takes more than 0.05 s"):
                with time_limit(0.05):
                    wait()
            assert time.monotonic() - start < 5
