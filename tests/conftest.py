"""Fixtures that many tests share."""

import os

import numpy as np
import pytest

from fastnn.datasets import Dataset, load_dataset


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
