"""The identity of a fit: each changed item is an error that names it."""

import re
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn import Checkpoint, CheckpointError, EarlyStopping, Network
from fastnn.data.rows import Data
from fastnn.model.optimizers import OPTIMIZERS
from fastnn.model.schedules import Schedule
from fastnn.training import checkpoint as checkpoints
from fastnn.training.fit import Fit
from fastnn.training.plan import Plan
from fastnn.training.state import Prepared

NETWORK: dict[str, Any] = {"layers": [3, 4, 2], "input_scale": 0.5, "loss": "logistic"}
PLAN = Plan(
    4, 10, OPTIMIZERS["adam"], Schedule("cosine"), clip_norm=2.0, early_stopping=EarlyStopping()
)


def rows(seed: int, count: int) -> Data:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3)).astype(np.float32)
    y = rng.integers(0, 2, (count, 2)).astype(np.float32)
    return Data(x, y, np.ones(count, np.float32))


def fit_of(
    network: Any = (), engine: str = "numba", data: Any = (), plan: Any = (), validation: Any = ()
) -> Fit:
    """Return the same fit each time, with the given changes."""
    settings = NETWORK | dict(network)
    built = Network(settings.pop("layers"), **settings)
    built.use_engine(engine, threads=1)
    given = [
        rows(seed, count)._replace(**dict(part)) for seed, count, part in
        ((0, 40, data), (1, 20, validation))
    ]  # fmt: skip
    settings = replace(PLAN, **dict(plan))
    return Fit(built, Prepared(built.layers, built.loss, *given, settings, True))


def changed(array: np.ndarray) -> np.ndarray:
    """Return a copy of the array whose last number is the next larger one."""
    array = array.copy()
    array.reshape(-1)[-1] = np.nextafter(array.reshape(-1)[-1], np.float32(9))
    return array


def optimizer(**changes: Any) -> dict[str, Any]:
    """Change Adam's fields, even those that its constructor rejects."""
    other = copy(PLAN.optimizer)
    for name, value in changes.items():
        object.__setattr__(other, name, value)
    return {"plan": {"optimizer": other}}


def schedule(**changes: Any) -> dict[str, Any]:
    return {"plan": {"schedule": replace(PLAN.schedule, **changes)}}


def stopping(**changes: Any) -> dict[str, Any]:
    return {"plan": {"early_stopping": EarlyStopping(**changes)}}


TRAINING, VALIDATION = rows(0, 40), rows(1, 20)
# All changes of a fit that an item detects, by its name.
CHANGES: dict[str, list[dict[str, Any]]] = {
    "layers": [{"network": {"layers": [3, 5, 2]}}],
    "activation": [{"network": {"activation": "tanh"}}],
    "dropout": [{"network": {"dropout": (0, 0.1)}}],
    "loss": [{"network": {"loss": "squared_error"}}],
    "input_scale": [{"network": {"input_scale": 0.25}}],
    "engine": [{"engine": "numpy"}],
    "seed": [{"plan": {"seed": 1}}],
    "epochs": [{"plan": {"epochs": 5}}],
    "batch_size": [{"plan": {"batch_size": 20}}],
    "l2": [{"plan": {"l2": 1e-4}}],
    "l2_is_shared": [{"plan": {"l2_is_shared": True}}],
    "clip_norm": [{"plan": {"clip_norm": 0.0}}, {"plan": {"clip_norm": 2.0000002}}],
    "shuffle": [{"plan": {"shuffle": False}}],
    "early_stopping": [
        {"plan": {"early_stopping": None}},
        stopping(monitor="loss"),
        stopping(patience=9),
        stopping(min_delta=0.0),
        stopping(restore_best=False),
    ],
    "optimizer": [optimizer(rule="momentum")],
    "learning_rate": [optimizer(learning_rate=0.002)],
    "momentum": [optimizer(momentum=0.8)],
    "nesterov": [optimizer(nesterov=True)],
    "beta1": [optimizer(beta1=0.8)],
    "beta2": [optimizer(beta2=0.99)],
    "eps": [optimizer(eps=1e-7)],
    "weight_decay": [optimizer(weight_decay=0.1)],
    "schedule": [schedule(name="one_cycle")],
    "warmup_epochs": [schedule(warmup_epochs=1.5)],
    "power_t": [schedule(power_t=0.25)],
    "training rows": [{"data": rows(0, 39)._asdict()}],
    "training features": [{"data": {"x": changed(TRAINING.x)}}],
    "training targets": [{"data": {"targets": changed(TRAINING.targets)}}],
    "training weights": [
        {"data": {"weights": None}},
        {"data": {"weights": changed(np.ones(40, np.float32))}},
    ],
    "validation rows": [{"validation": rows(1, 19)._asdict()}],
    "validation features": [{"validation": {"x": changed(VALIDATION.x)}}],
    "validation targets": [{"validation": {"targets": changed(VALIDATION.targets)}}],
    "validation weights": [{"validation": {"weights": None}}],
}
# Identity that the tests change by a patch: versions, by module and name, and parts of arithmetic.
VERSIONS = {"fastnn": (checkpoints, "__version__"), "numpy": (np, "__version__")}
ARITHMETIC = ("numba", "fused multiply-add")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the checkpoint of the unchanged fit."""
    folder, fit = tmp_path_factory.mktemp("identity") / "fit", fit_of()
    checkpoint = Checkpoint(folder)
    fit.callbacks = (checkpoint,)
    with fit.attach(), checkpoint.context():
        checkpoint.write(fit.snapshot())
    return folder


def differences(folder: Path, fit: Fit) -> set[str]:
    """Return the names of the items that differ from the checkpoint."""
    try:
        checkpoint = Checkpoint(folder, resume=True)
        fit.callbacks = (checkpoint,)
        with fit.attach(), checkpoint.context():
            return set()
    except CheckpointError as error:
        items = str(error).partition(": cannot resume: ")[2].split("; ")
        return {re.split(" differ$| is ", each)[0] for each in items}


def test_changes_cover_every_item() -> None:
    items = checkpoints.identity_of(fit_of())
    assert set(items) == {*CHANGES, *VERSIONS, *ARITHMETIC}
    names = checkpoints.identity_of(fit_of(plan={"schedule": Schedule("invscaling")}))
    assert set(items) - set(names) == {"epochs"}  # only some schedules depend on it


def test_accepts_the_same_fit(written: Path) -> None:
    assert differences(written, fit_of()) == set()


@pytest.mark.parametrize("name", CHANGES)
def test_names_each_item_that_differs(name: str, written: Path) -> None:
    others = {"engine": {"BLAS", *ARITHMETIC}}
    for which in ("training", "validation"):
        others[f"{which} rows"] = {f"{which} {each}" for each in ("features", "targets", "weights")}
    for change in CHANGES[name]:
        assert differences(written, fit_of(**change)) == {name} | others.get(name, set()), change


@pytest.mark.parametrize("name", VERSIONS)
def test_names_a_version_that_differs(
    name: str, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = fit_of()
    monkeypatch.setattr(*VERSIONS[name], "9.9")
    assert differences(written, fit) == {name}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_names_arithmetic_that_differs(name: str, written: Path) -> None:
    fit = fit_of()
    fit.engine.arithmetic = {**fit.engine.arithmetic, name: "other"}
    assert differences(written, fit) == {name}


def test_names_missing_validation_data(written: Path) -> None:
    fit = fit_of()
    fit.validation = None
    assert differences(written, fit) == {
        f"validation {each}" for each in ("rows", "features", "targets", "weights")
    }
