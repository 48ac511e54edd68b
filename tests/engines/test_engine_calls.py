"""The result of a call does not depend on earlier calls of the same engine."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from scipy.sparse import random_array

from fastnn.data.conversion import as_features
from fastnn.data.features import select_rows
from fastnn.data.rows import Data
from fastnn.engine import Engine, get_engine
from fastnn.epoch import Epoch, Progress
from fastnn.model.initializers import initial_parameters
from fastnn.model.layers import dense_layers
from fastnn.model.optimizers import get_optimizer

SIZES, ROWS = [20, 17, 5, 3], 70
LAYERS = dense_layers(SIZES, dropout=(0.2, 0.3, 0.0))


def forms(rng: np.random.Generator) -> dict[str, Data]:
    """Return data with features in all forms, with and without weights."""
    labels = rng.integers(0, 3, ROWS, np.int32)
    x = rng.standard_normal((ROWS, 20), dtype=np.float32)
    csr = random_array((ROWS, 20), density=0.2, rng=rng, format="csr").astype(np.float32)
    return {
        "dense": Data(x, labels),
        "weighted": Data(x[::-1].copy(), labels, rng.uniform(0.5, 2, ROWS).astype(np.float32)),
        "zeros": Data(x * (x > 0.8), labels),
        "bytes": Data(rng.integers(0, 256, (ROWS, 20), np.uint8), 2 - labels),
        "sparse": Data(as_features(csr, 20), labels),
        "selected": Data(select_rows(x, rng.integers(0, ROWS, 40)), labels[:40]),
        "few": Data(x[:9].copy(), labels[:9], np.linspace(0, 1, 9, dtype=np.float32)),
    }


EPOCHS: dict[str, dict[str, Any]] = {
    "batches": {"batch_size": 16, "seed": 2**63 + 1, "number": 3},
    "clipped": {"clip_norm": 0.01},
    "l2": {"l2": 0.3},
    "shared l2": {"l2": 0.3, "l2_is_shared": True, "batch_size": 32},
    "nesterov": {"optimizer": get_optimizer("nesterov", momentum=0.5)},
    "adamw": {"optimizer": get_optimizer("adamw", weight_decay=0.5), "updates_before": 4},
}


def train(engine: Engine, data: Data, **settings: Any) -> list[Any]:
    """Train; return the progress, the parameters and the state."""
    rows = len(data.x)
    settings = {"batch_size": rows, "learning_rate": 0.1} | settings
    settings["batch_size"] = min(rows, settings["batch_size"])
    epoch = Epoch(data, np.arange(rows)[::-1].copy(), **settings)
    progress = engine.run_chunk(epoch, Progress(), rows)
    return [*progress, engine.get_parameters(), engine.get_state(2)]


def calls(rng: np.random.Generator) -> dict[str, Callable[[Engine], Any]]:
    """Return calls of an engine by their names."""
    data = forms(rng)
    made: dict[str, Callable[[Engine], Any]] = {}
    for name, each in data.items():
        made[f"evaluate {name}"] = lambda engine, each=each: engine.evaluate(each)
        made[f"train {name}"] = lambda engine, each=each: train(engine, each)
    for name in ("dense", "weighted", "sparse", "selected"):
        x, each = data[name].x, data[name]
        made[f"predict {name}"] = lambda engine, x=x: engine.predict(x)
        made[f"gradient {name}"] = lambda engine, each=each: engine.loss_and_grad(each, l2=0.1)
    for name, settings in EPOCHS.items():
        made[f"train {name}"] = lambda engine, more=settings: train(engine, data["dense"], **more)
    return made


def bits(value: Any) -> Any:
    """Replace arrays by their bytes, so that values can be compared."""
    if isinstance(value, list | tuple):
        return [bits(each) for each in value]
    return value.tobytes() if isinstance(value, np.ndarray) else value


def test_earlier_calls_do_not_change_results(engine: str, rng: np.random.Generator) -> None:
    """Each call gives the same bits in a new engine and after any other call."""
    made = calls(rng)
    parameters = initial_parameters(LAYERS, 0)

    def fresh() -> Engine:
        return get_engine(engine, LAYERS, input_scale=0.5, threads=None)

    def called(running: Engine, name: str) -> Any:
        running.set_parameters(parameters)
        running.set_state([])
        return bits(made[name](running))

    alone = {name: called(fresh(), name) for name in made}
    assert len({repr(result) for result in alone.values()}) == len(made)  # all are different
    pairs = list(combinations(made, 2))
    if engine == "numpy":  # it is slow, and has little state
        pairs = pairs[::6]
    used = fresh()
    for pair in pairs:
        for name in pair:  # also the first again, in the next pair
            assert called(used, name) == alone[name], f"{name}, among {pair}"
