"""Convert the parameters of the estimators into a network, an optimizer, a schedule and a plan."""

from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from fastnn.engine import ENGINES
from fastnn.model.initializers import he_normal
from fastnn.model.layers import ACTIVATIONS, Dense, Parameters
from fastnn.model.optimizers import OPTIMIZERS, Optimizer, get_optimizer
from fastnn.model.schedules import EPOCH_SCHEDULES, SCHEDULES, Schedule
from fastnn.model.settings import LARGEST_FLOAT, check_normal
from fastnn.network import Network
from fastnn.training.early_stopping import EarlyStopping
from fastnn.training.fit import Callback, check_callbacks
from fastnn.training.plan import Plan

_LARGEST_DECAY = 1 - 2.0**-24  # the largest float32 below 1
_POSITIVE = ("learning_rate_init", "epsilon")
_AT_LEAST_0 = Interval(Real, 0, None, closed="left")

# scikit-learn's table of valid values, with fastnn's own parameters and options.
CONSTRAINTS: dict[str, list[Any]] = neural_network.MLPClassifier._parameter_constraints | {
    "activation": [StrOptions(set(ACTIVATIONS))],
    "solver": [StrOptions(set(OPTIMIZERS))],
    "learning_rate": [StrOptions(set(SCHEDULES)), Schedule],
    "early_stopping": ["boolean", EarlyStopping],
    "weight_decay": [None, _AT_LEAST_0],
    "weight_init": [StrOptions({"glorot_uniform", "he_normal"})],
    "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
    "scoring": [None, str, callable],
    "callbacks": [None, list, tuple],
    "engine": [StrOptions(set(ENGINES))],
    "n_threads": [None, Interval(Integral, 1, None, closed="left")],
}


def structure_of(estimator: Any, inputs: int, outputs: int) -> dict[str, Any]:
    """Return the arguments of `fastnn.model.layers.dense_layers`.

    Raises
    ------
    ValueError
        If the size of a hidden layer is not positive.
    """
    sizes, dropout = estimator.hidden_layer_sizes, estimator.dropout
    hidden = list(sizes) if np.iterable(sizes) else [sizes]
    if any(size <= 0 for size in hidden):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
    return {
        "sizes": [inputs, *hidden, outputs],
        "activation": estimator.activation,
        "dropout": list(dropout) if np.iterable(dropout) else dropout,
    }


def new_network_of(
    estimator: Any, inputs: int, outputs: int, parameters: Parameters | None
) -> Network:
    """Return a network with these weights or, if they are None, with random initial weights."""
    rng = check_random_state(estimator.random_state)
    structure = structure_of(estimator, inputs, outputs)
    network = Network(**structure, loss=estimator._objective().name)
    if parameters is not None:
        network.parameters = parameters
    elif estimator.weight_init == "he_normal":
        network.parameters = he_normal(network.layers, _seed(rng))
    else:
        is_logistic = estimator.activation == "logistic"
        network.parameters = _glorot_uniform(network.layers, rng, is_logistic)
    network.seed = _seed(rng)
    return network


def _glorot_uniform(
    layers: tuple[Dense, ...], rng: np.random.RandomState, is_logistic: bool
) -> Parameters:
    """Draw weights and biases from U(-r, r) with r² = 6 / (I + O), exactly as scikit-learn does.

    For the logistic function, scikit-learn uses r² = 2 / (I + O). The formula for the weights is
    equation 16 of Glorot & Bengio 2010.
    """
    parameters = []
    for layer in layers:
        r = np.sqrt((2.0 if is_logistic else 6.0) / (layer.inputs + layer.outputs))
        w = rng.uniform(-r, r, (layer.inputs, layer.outputs))
        parameters.append((w, rng.uniform(-r, r, layer.outputs)))
    return parameters


def _seed(rng: np.random.RandomState) -> int:
    return int(rng.randint(np.iinfo(np.int32).max))


def _float32_setting(estimator: Any, name: str) -> float:
    """Return a parameter as a float, or raise a ValueError if float32 cannot represent it."""
    value = getattr(estimator, name)
    if not 0 <= value <= LARGEST_FLOAT:
        raise ValueError(f"{name} must be a number that float32 can represent, got {value!r}")
    check_normal(name, value, or_zero=name not in _POSITIVE)
    return float(value)


def optimizer_of(estimator: Any) -> Optimizer:
    """Return the optimizer that `solver` and its parameters define.

    "momentum" and "nesterov" are "sgd" with the given kind of momentum.

    Raises
    ------
    ValueError
        If a parameter is too large or too small for float32.
    """
    solver = estimator.solver
    if solver == "lbfgs":
        return get_optimizer(solver)
    decay = None if estimator.weight_decay is None else _float32_setting(estimator, "weight_decay")
    rate = _float32_setting(estimator, "learning_rate_init")
    shared = {"learning_rate": rate, "weight_decay": decay}
    if solver in ("adam", "adamw"):
        moments = {
            "beta1": min(_float32_setting(estimator, "beta_1"), _LARGEST_DECAY),
            "beta2": min(_float32_setting(estimator, "beta_2"), _LARGEST_DECAY),
            "eps": _float32_setting(estimator, "epsilon"),
        }
        return get_optimizer(solver, **shared, **moments)
    if estimator.momentum == 0:
        return get_optimizer("sgd", **shared)
    nesterov = {"momentum": False, "nesterov": True}.get(solver, bool(estimator.nesterovs_momentum))
    # `get_optimizer` rejects a momentum of 1. `Optimizer` accepts it, as scikit-learn does.
    momentum = _float32_setting(estimator, "momentum")
    return replace(get_optimizer("momentum", **shared), momentum=momentum, nesterov=nesterov)


def schedule_of(estimator: Any, incremental: bool) -> Schedule:
    """Return the schedule that `learning_rate` defines.

    As in scikit-learn, the strings "invscaling" and "adaptive" have no effect on Adam and L-BFGS.
    A `Schedule` of that name affects Adam too.

    Raises
    ------
    ValueError
        If the schedule depends on the length of training and `incremental` is true, or if the
        solver is L-BFGS, which has no learning rate.
    """
    schedule, solver = estimator.learning_rate, estimator.solver
    if isinstance(schedule, str):
        is_for_sgd = schedule in ("invscaling", "adaptive")
        name = "constant" if is_for_sgd and solver in ("adam", "adamw", "lbfgs") else schedule
        power_t = float(estimator.power_t) if name == "invscaling" else 0.5
        schedule = Schedule(name, power_t=power_t)
    if solver == "lbfgs" and schedule != Schedule():
        raise ValueError(f"solver='lbfgs' has no learning_rate, got {estimator.learning_rate!r}")
    if incremental and (schedule.name in EPOCH_SCHEDULES or schedule.warmup_epochs):
        raise ValueError(f"partial_fit does not support learning_rate={estimator.learning_rate!r}")
    return schedule


def stopping_rule_of(estimator: Any) -> EarlyStopping | None:
    """Return the stopping rule; None trains for `max_iter` epochs.

    As in scikit-learn, training stops when the validation score no longer improves or, without
    early stopping, when the loss no longer improves. L-BFGS has its own convergence test. With a
    schedule that depends on `max_iter`, only early stopping ends training before.
    """
    rule = estimator.early_stopping
    if isinstance(rule, EarlyStopping):
        return rule
    if estimator.solver == "lbfgs":
        return None
    # scikit-learn accepts bools as numbers, `EarlyStopping` does not: + converts them.
    patience, tol = +estimator.n_iter_no_change, float(estimator.tol)
    if rule:
        return EarlyStopping("val_score", patience, tol)
    schedule = estimator.learning_rate
    if (schedule.name if isinstance(schedule, Schedule) else schedule) in EPOCH_SCHEDULES:
        return None
    return EarlyStopping("loss", patience, tol * reported_outputs(estimator), restore_best=False)


def reported_outputs(estimator: Any) -> int:
    """Return the number by which to divide a loss to get the loss that scikit-learn reports.

    scikit-learn reports the squared error as the mean over the outputs, and every other loss as
    their sum.
    """
    return estimator.n_outputs_ if estimator._objective().name == "squared_error" else 1


def plan_of(estimator: Any, rule: EarlyStopping | None, incremental: bool) -> Plan:
    """Return the settings of a fit with this stopping rule.

    Raises
    ------
    ValueError
        If a parameter is not supported by the solver or not representable in float32.
    """
    batch_size: Any = 200 if estimator.batch_size == "auto" else estimator.batch_size
    return Plan(
        epochs=1 if incremental else int(estimator.max_iter),
        batch_size="full" if estimator.solver == "lbfgs" else batch_size,
        optimizer=optimizer_of(estimator),
        schedule=schedule_of(estimator, incremental),
        l2=_float32_setting(estimator, "alpha"),
        l2_is_shared=True,
        shuffle=estimator.shuffle,
        seed=estimator._network.seed,
        early_stopping=rule,
        max_evaluations=int(estimator.max_fun),
        tolerance=float(estimator.tol),
    )


def callbacks_of(estimator: Any) -> list[Callback]:
    """Return the callbacks, or raise a TypeError if one is not a `fastnn.Callback`."""
    try:
        return list(check_callbacks(estimator.callbacks or ()))
    except TypeError as error:
        raise TypeError(f"{error}; use set_callbacks for callbacks of scikit-learn") from None
