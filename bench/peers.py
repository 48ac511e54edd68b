"""The peers, each used in its fastest way: ``python peers.py NAME --case JSON ...``.

The process trains one peer for several epochs and prints the mean loss and the seconds of each as
a line of JSON. Every peer starts from the same weights and visits the samples in the same order.
The features (scaled float32; uint8 for fastnn's two engines, as its users have them) and the orders
are prepared before the timer starts; gathering a batch's rows is part of the epoch. `compare.py`
starts these processes and checks that their losses agree.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from peer_frameworks import jax_scan, torch_compiled, torch_eager
from peer_numpy import numpy_in_place
from peer_work import SEED, Case, Epochs, Work

from fastnn.network import Network
from fastnn.training.fit import Callback

# ---- fastnn, and its reference engine in NumPy ----------------------------------------------


class Clock(Callback):
    """Record the time after each epoch; all of `Network.fit` counts, including the shuffle."""

    def __init__(self) -> None:
        self.readings = [time.perf_counter()]

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Record the time."""
        self.readings.append(time.perf_counter())


def own_engine(engine: str, work: Work) -> Epochs:
    """Train by `Network.fit`; the first epoch, a warm-up, includes the check of the input.

    The Numba engine chooses its number of threads, at most that of `compare.py`.
    """
    network = Network(work.case.sizes, input_scale=work.data.scale, seed=SEED)
    clock = Clock()
    history = network.fit(
        work.data.x_train,
        work.data.y_train,
        epochs=work.epochs,
        batch_size=work.batch_rows,
        learning_rate=work.case.learning_rate,
        engine=engine,
        callbacks=[clock],
    )
    return zip(history["loss"], np.diff(clock.readings).tolist(), strict=True)


# ---- scikit-learn ---------------------------------------------------------------------------


class GivenOrder(np.random.RandomState):
    """Replace scikit-learn's shuffle at the start of each epoch: set the order, record the time.

    scikit-learn shuffles the order of the last epoch, so the new order is given relative to it.
    """

    def give(self, orders: list[np.ndarray]) -> "GivenOrder":
        """Set the orders of the epochs."""
        before = [np.arange(len(orders[0])), *orders]
        places = zip(before, orders, strict=False)
        self.places = [np.argsort(last)[order] for last, order in places]
        self.readings: list[float] = []
        return self

    def shuffle(self, x: np.ndarray) -> None:
        """Replace 0, 1, 2 ... by the order of an epoch."""
        self.readings.append(time.perf_counter())
        x[:] = self.places[len(self.readings) - 1]


def scikit_learn(work: Work) -> Epochs:
    """Time scikit-learn's loop over epochs and batches, without its input checks."""
    from sklearn.neural_network import MLPClassifier

    # One epoch more: its start is the end of the last one.
    orders = [work.order(epoch) for epoch in range(work.epochs + 1)]
    model = MLPClassifier(
        hidden_layer_sizes=work.case.sizes[1:-1],
        solver="sgd",
        alpha=0.0,
        momentum=0.0,
        nesterovs_momentum=False,
        learning_rate_init=work.case.learning_rate,
        max_iter=len(orders),
        n_iter_no_change=len(orders) + 1,  # never stop early
    )
    labels = work.data.y_train
    model.partial_fit(
        work.x[:1], labels[:1], classes=np.arange(work.case.sizes[-1])
    )  # creates the weights
    model.coefs_, model.intercepts_ = (list(part) for part in zip(*work.parameters, strict=True))
    clock = GivenOrder().give(orders)
    model.set_params(random_state=clock, warm_start=True, batch_size=work.batch_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the few epochs
        model.fit(work.x, labels)
    losses = model.loss_curve_[1 : work.epochs + 1]  # the first is that of partial_fit
    return zip(losses, np.diff(clock.readings).tolist(), strict=True)


# ---- the table of peers, and the process ----------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A peer: its title, the package that it needs, its training function and a description."""

    title: str
    package: str
    train: Callable[[Work], Epochs]
    how: str

    def lacks(self) -> str:
        """Return why the peer cannot run here, or an empty text."""
        module = {"scikit-learn": "sklearn"}.get(self.package, self.package)
        if importlib.util.find_spec(module) is None:
            return f"{self.package} is not installed"
        compilers = (os.environ.get("CXX", "g++"), "g++", "clang++")
        if self.train is torch_compiled and not any(map(shutil.which, compilers)):
            return "there is no C++ compiler"
        return ""


PEERS = {
    "fastnn": Peer(
        "fastnn",
        "numba",
        lambda work: own_engine("numba", work),
        "`Network.fit` on uint8, its shuffle and its checks included",
    ),
    "reference": Peer(
        "reference engine",
        "numpy",
        lambda work: own_engine("numpy", work),
        "fastnn's engine in plain NumPy, made to be read, driven in the same way",
    ),
    "numpy": Peer(
        "NumPy",
        "numpy",
        numpy_in_place,
        "the same equations at their fastest: every result goes into a buffer that is there",
    ),
    "scikit-learn": Peer(
        "scikit-learn",
        "scikit-learn",
        scikit_learn,
        "the epochs inside `MLPClassifier.fit` (sgd, momentum 0, alpha 0) on float32",
    ),
    "torch": Peer(
        "PyTorch",
        "torch",
        torch_eager,
        "eager `nn.Sequential` and `optim.SGD`; no DataLoader, rows are gathered by index",
    ),
    "torch.compile": Peer(
        "torch.compile",
        "torch",
        torch_compiled,
        "the whole step as one graph: gather, `torch.func.grad_and_value`, update",
    ),
    "jax": Peer(
        "JAX", "jax", jax_scan, "`jit` of an epoch, `lax.scan` over its batches, weights donated"
    ),
}


def blas_kernels() -> list[str]:
    """Return NumPy's BLAS library and its kernels for this CPU."""
    from threadpoolctl import threadpool_info

    return [
        f"{pool['internal_api']} {pool['version']}, {pool.get('architecture', 'unknown')} kernels"
        for pool in threadpool_info()
        if pool["user_api"] == "blas" and "numpy" in pool["filepath"]
    ]


def main() -> int:
    """Train the peer of the command line and print the result."""
    parser = argparse.ArgumentParser(description="Train one peer; compare.py calls this.")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--case", type=Case.from_json, required=True, help="`Case.to_json`")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    data = options.case.data()
    work = Work(options.case, data, options.epochs, options.threads)
    losses, seconds = zip(*PEERS[options.peer].train(work), strict=True)
    found = {"losses": losses, "seconds": seconds, "rows": work.rows, "blas": blas_kernels()}
    print(json.dumps(found | {"data": f"{data.name}, from {data.source}"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
