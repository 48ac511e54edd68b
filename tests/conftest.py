"""Fixtures that many tests share."""

import os
import signal

import numpy as np
import pytest

from fastnn.datasets import Dataset, load_dataset

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what runs in the background, and every process that the tests interrupt
    # would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(params=["numba", "numpy"])
def engine(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def images() -> Dataset:
    """MNIST where `FASTNN_DATA` has it, else the digits that scikit-learn brings."""
    directory = os.environ.get("FASTNN_DATA")
    return load_dataset("mnist", directory) if directory else load_dataset("digits")
