"""Fits that tests interrupt: their settings, and a process that forks a child for each fit.

``python fits.py FOLDER`` reads a job from each line, in JSON: ``{"fit": NAME, "checkpoint": DIR,
...}``, or ``{"argv": [...]}`` for the command line. It prints the process number of the child, and
its exit code when it ends. Children inherit the compiled kernels.
"""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import fastnn
from fastnn import Checkpoint, EarlyStopping, Network
from fastnn.commands import running as _cli
from fastnn.commands import train
from fastnn.model.layers import Parameters

# The settings of networks and their fits, by name.
FITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adam, dropout, one cycle": (
        {"dropout": (0.1, 0.2)},
        {"epochs": 20, "optimizer": "adam", "schedule": "one_cycle", "batch_size": 50},
    ),
    "momentum, early stopping": (
        {"activation": "tanh"},
        {
            "epochs": 60,
            "optimizer": "momentum",
            "learning_rate": 0.3,
            "validation_fraction": 0.2,
            "early_stopping": EarlyStopping(patience=5),
        },
    ),
    "several chunks a batch": (
        {"dropout": (0.2, 0.0)},
        {"epochs": 30, "batch_size": 1300, "optimizer": "adamw", "clip_norm": 0.5, "l2": 1e-3},
    ),
    "adaptive, all rows": (
        {},
        {
            "epochs": 30,
            "batch_size": "full",
            "optimizer": "nesterov",
            "learning_rate": 0.9,
            "schedule": "adaptive",
            "early_stopping": EarlyStopping("loss", patience=0, min_delta=0.05),
        },
    ),
}


def fitted(name: str, data: Any, **settings: Any) -> tuple[Network, dict[str, list[float]]]:
    """Train a network; return it with its history, without the seconds."""
    of_network, of_fit = FITS[name]
    network = Network([data.x_train.shape[1], 12, 10], seed=3, input_scale=data.scale, **of_network)
    history = network.fit(
        data.x_train, data.y_train, **{"engine": "numba", "threads": 1} | of_fit | settings
    )
    del history["seconds"]
    return network, history


def digest(parameters: Parameters, history: dict[str, list[float]]) -> str:
    """Return a hash of all parameters and of the history."""
    found = hashlib.sha256(repr(history).encode())
    for pair in parameters:
        for array in pair:
            found.update(array.tobytes())
    return found.hexdigest()


def small_fit(folder: Path, *, resume: bool = False, every: int = 1, **settings: Any) -> str:
    """Fit 40 rows in batches of 10, by default for three epochs; return a hash of the result.

    Checkpoints are written to `folder`, unless its name is empty.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 2, 40)
    network = Network([3, 4, 2], seed=settings.pop("seed", 0))
    more = settings.pop("callbacks", [])
    checkpoints = [Checkpoint(folder, every, resume)] if folder.name else []
    data = settings.pop("data", lambda x, y: (x, y))(x, y)
    settings = {"epochs": 3, "batch_size": 10, "engine": "numpy", "optimizer": "adam"} | settings
    history = network.fit(*data, callbacks=[*more, *checkpoints], **settings)
    return digest(network.parameters, {"loss": history["loss"]})


def names(folder: Path) -> list[str]:
    """Return the sorted names of the files in a folder."""
    return sorted(os.listdir(folder))


def numbers(folder: Path) -> list[int]:
    """Return the numbers of updates of the checkpoints in a folder."""
    return [int(name[len("checkpoint-") :].split(".")[0]) for name in names(folder)]


class Server:
    """The process that forks a child for each job."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(Path(fastnn.__file__).parents[1])},
        )  # fmt: skip

    def start(self, **job: Any) -> int:
        """Start a child; return its process number."""
        assert self.process.stdin is not None
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return self._answer()

    def wait(self) -> int:
        """Wait for the child; return its exit code, or minus the number of a signal."""
        return self._answer()

    def run(self, **job: Any) -> int:
        """Run a child to its end; return its exit code."""
        self.start(**job)
        return self.wait()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def serve(folder: Path) -> None:
    os.chdir(folder)
    data = fastnn.load_dataset("digits")
    fitted("several chunks a batch", data, epochs=1)
    with contextlib.redirect_stdout(io.StringIO()):
        train.main(
            ["--dataset", "digits", "--epochs", "1", "--threads", "1"]
        )  # imports all lazy modules
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            with open("out", "w") as out, contextlib.redirect_stdout(out):
                with open("err", "w") as err, contextlib.redirect_stderr(err):
                    work(json.loads(line), data)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def work(job: dict[str, Any], data: Any) -> None:
    if "argv" in job:
        _cli.leave(train.main(job["argv"]))
    callbacks = [Checkpoint(job["checkpoint"], resume=job["resume"])] if "checkpoint" in job else []
    network, history = fitted(job["fit"], data, callbacks=callbacks)
    Path(job["to"]).write_text(digest(network.parameters, history))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
