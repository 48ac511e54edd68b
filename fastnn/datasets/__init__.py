"""Data sets: MNIST, Fashion-MNIST, scikit-learn's digits, and arrays from an .npz file."""

from fastnn.data.files.idx import read_idx
from fastnn.datasets.dataset import Dataset
from fastnn.datasets.sets import load_dataset

__all__ = ["Dataset", "load_dataset", "read_idx"]
