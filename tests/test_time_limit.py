"""A test that waits for what never comes fails, and does not wait for ever."""

import os
import queue
import time

import pytest
from command_line import posix, time_limit


@posix
def test_a_wait_on_a_pipe_ends():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "wb"):
        for wait in (pipe.readline, queue.Queue().get):
            start = time.monotonic()
            with pytest.raises(pytest.fail.Exception, match="takes more than 0.05 s"):
                with time_limit(0.05):
                    wait()
            assert time.monotonic() - start < 5
