"""Fits whose weights have a known hash; ``python hashed_fits.py 1 2`` prints the hashes as JSON.

The arguments are numbers of threads.
"""

import json
import sys
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from fastnn import Network

ROWS, INPUTS, CLASSES = 1300, 75, 5  # more than two chunks; no multiple of a vector


def integers(*shape: int) -> np.ndarray:
    """Return fixed scrambled numbers from 0 to 2**24 - 1, from integer arithmetic alone."""
    numbers = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(1)
    for factor in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9):
        numbers = (numbers ^ (numbers >> np.uint64(29))) * np.uint64(factor)
    return (numbers >> np.uint64(40)).astype(np.int64).reshape(shape)


def features(kind: str) -> Any:
    """Return features (ROWS, INPUTS): "dense", "zeros" (80 % zeros), or "sparse" (those in CSR)."""
    noise = integers(ROWS, INPUTS)
    if kind == "dense":
        return ((noise % 2048 - 1024) / 1024).astype(np.float32)
    pixels = np.where(noise % 5 == 0, noise // 5 % 256, 0).astype(np.uint8)
    return pixels if kind == "zeros" else csr_array(pixels)


# By name: the features, the network's settings, the fit's settings.
FITS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dense": ("dense", {}, {}),
    "zeros skipped": ("zeros", {"input_scale": 1 / 255}, {}),
    "sparse rows": ("sparse", {"input_scale": 1 / 255}, {}),
    "full batch": ("dense", {}, {"batch_size": "full", "learning_rate": 0.5, "epochs": 8}),
    "momentum, tanh, clipped": (
        "zeros",
        {"input_scale": 1 / 255, "activation": "tanh"},
        {"optimizer": "momentum", "clip_norm": 0.5, "l2": 0.01},
    ),
    "Adam, dropout, GELU": (
        "dense",
        {"activation": ["gelu", "logistic"], "dropout": [0.1, 0.4, 0.2]},
        {"optimizer": "adamw", "batch_size": 600, "epochs": 4},
    ),
    "Poisson": ("dense", {"loss": "poisson"}, {"learning_rate": 0.01}),
    "sparse, Adam, dropout": (
        "sparse",
        {"input_scale": 1 / 255, "activation": "leaky_relu", "dropout": 0.2},
        {"optimizer": "adam"},
    ),
}


def weights_hash(name: str, threads: int) -> str:
    kind, of_network, of_fit = FITS[name]
    network = Network([INPUTS, 50, 17, CLASSES], **of_network)
    targets = features("dense")[:, :CLASSES]
    if network.loss.takes_labels:
        targets = targets.argmax(axis=1)
    else:
        targets = np.abs(targets)  # Poisson's targets are at least 0
    settings = {"epochs": 2, "batch_size": 100, "threads": threads} | of_fit
    network.fit(features(kind), targets, **settings)
    return network.weights_sha256()


if __name__ == "__main__":
    counts = map(int, sys.argv[1:])
    print(json.dumps({n: {name: weights_hash(name, n) for name in FITS} for n in counts}, indent=1))
