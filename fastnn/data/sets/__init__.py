"""Data sets: MNIST, Fashion-MNIST, scikit-learn's digits, and arrays from an .npz file."""

from fastnn.data.dataset import Dataset
from fastnn.data.files.idx import read_idx
from fastnn.data.sets.sets import load_dataset

__all__ = ["Dataset", "load_dataset", "read_idx"]
