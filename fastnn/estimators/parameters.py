"""scikit-learn's parameters, allowed values and all, as fastnn's: optimizer, schedule, plan."""

from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions

from fastnn.engine import ENGINES
from fastnn.model.initializers import he_normal
from fastnn.model.layers import ACTIVATIONS, Dense, Parameters
from fastnn.model.optimizers import OPTIMIZERS, Optimizer, get_optimizer
from fastnn.model.schedules import SCHEDULES, Schedule
from fastnn.model.settings import LARGEST_FLOAT, check_normal
from fastnn.network import Network
from fastnn.training.early_stopping import EarlyStopping
from fastnn.training.fit import Callback, check_callbacks
from fastnn.training.plan import Plan

_AT_LEAST_0 = Interval(Real, 0, None, closed="left")
_ABOVE_0 = Interval(Real, 0, None, closed="neither")
_SHARE = Interval(Real, 0, 1, closed="left")
_COUNT = Interval(Integral, 1, None, closed="left")

_PLANNED = ("cosine", "one_cycle")  # schedules that end where `max_iter` does
_LARGEST_SHARE = 1 - 2.0**-24  # float32's largest number below 1
_POSITIVE = ("learning_rate_init", "epsilon")

CONSTRAINTS: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", _COUNT],
    "activation": [StrOptions(set(ACTIVATIONS))],
    "solver": [StrOptions(set(OPTIMIZERS))],
    "alpha": [_AT_LEAST_0],
    "batch_size": [StrOptions({"auto"}), _COUNT],
    "learning_rate": [StrOptions(set(SCHEDULES)), Schedule],
    "learning_rate_init": [_ABOVE_0],
    "power_t": [_AT_LEAST_0],
    "max_iter": [_COUNT],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [_AT_LEAST_0],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean", EarlyStopping],
    "validation_fraction": [_SHARE],
    "beta_1": [_SHARE],
    "beta_2": [_SHARE],
    "epsilon": [_ABOVE_0],
    "n_iter_no_change": [_COUNT, Options(Real, {np.inf})],
    "max_fun": [_COUNT],
    "weight_decay": [None, _AT_LEAST_0],
    "weight_init": [StrOptions({"glorot_uniform", "he_normal"})],
    "dropout": [_SHARE, "array-like"],
    "scoring": [None, str, callable],
    "callbacks": [None, list, tuple],
    "engine": [StrOptions(set(ENGINES))],
    "n_threads": [None, _COUNT],
}


def structure_of(estimator: Any, inputs: int, outputs: int) -> dict[str, Any]:
    """Return what `fastnn.model.layers.dense_layers` takes.

    Raises
    ------
    ValueError
        If a hidden layer's width is not above 0.
    """
    given, dropout = estimator.hidden_layer_sizes, estimator.dropout
    hidden = list(given) if np.iterable(given) else [given]
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
    """Make a network, of these weights or such as `weight_init` and `random_state` say."""
    rng = check_random_state(estimator.random_state)
    structure = structure_of(estimator, inputs, outputs)
    network = Network(**structure, loss=estimator._objective().name)
    if parameters is not None:
        network.parameters = parameters
    elif estimator.weight_init == "he_normal":
        network.parameters = he_normal(network.layers, _seed(rng))
    else:
        is_logistic = estimator.activation == "logistic"
        network.parameters = _scikit_learns_weights(network.layers, rng, is_logistic)
    network.seed = _seed(rng)
    return network


def _scikit_learns_weights(
    layers: tuple[Dense, ...], rng: np.random.RandomState, is_logistic: bool
) -> Parameters:
    """Draw what scikit-learn draws: U(-r, r), biases too, r² = 6 / (I + O) as Glorot has it.

    For the logistic function it takes 2 for 6.
    """
    parameters = []
    for layer in layers:
        r = np.sqrt((2.0 if is_logistic else 6.0) / (layer.inputs + layer.outputs))
        w = rng.uniform(-r, r, (layer.inputs, layer.outputs))
        parameters.append((w, rng.uniform(-r, r, layer.outputs)))
    return parameters


def _seed(rng: np.random.RandomState) -> int:
    return int(rng.randint(np.iinfo(np.int32).max))


def _held(estimator: Any, name: str) -> float:
    """Return a setting, if float32, in which the engines compute, can hold it."""
    value = getattr(estimator, name)
    if not 0 <= value <= LARGEST_FLOAT:
        raise ValueError(f"{name} must be a number that float32 can hold, got {value!r}")
    check_normal(name, value, or_zero=name not in _POSITIVE)
    return float(value)


def optimizer_of(estimator: Any) -> Optimizer:
    """Return what `solver` and its settings stand for.

    "sgd" has scikit-learn's momentum, and "momentum" and "nesterov" fix its kind.

    Raises
    ------
    ValueError
        If a setting is too large or too small for float32.
    """
    solver = estimator.solver
    if solver == "lbfgs":
        return get_optimizer(solver)
    decay = None if estimator.weight_decay is None else _held(estimator, "weight_decay")
    rate = _held(estimator, "learning_rate_init")
    shared = {"learning_rate": rate, "weight_decay": decay}
    if solver in ("adam", "adamw"):
        moments = {  # at most the largest float32 below 1
            "beta1": min(_held(estimator, "beta_1"), _LARGEST_SHARE),
            "beta2": min(_held(estimator, "beta_2"), _LARGEST_SHARE),
            "eps": _held(estimator, "epsilon"),
        }
        return get_optimizer(solver, **shared, **moments)
    if estimator.momentum == 0:
        return get_optimizer("sgd", **shared)
    nesterov = {"momentum": False, "nesterov": True}.get(solver, bool(estimator.nesterovs_momentum))
    momentum = _held(estimator, "momentum")  # scikit-learn allows 1
    return replace(get_optimizer("momentum", **shared), momentum=momentum, nesterov=nesterov)


def schedule_of(estimator: Any, incremental: bool) -> Schedule:
    """Return what `learning_rate` stands for.

    As in scikit-learn, "invscaling" and "adaptive" do nothing to Adam and L-BFGS. A `Schedule`
    of that name does, to Adam.

    Raises
    ------
    ValueError
        If the schedule depends on how long training will be, and nobody knows; or if L-BFGS,
        which has no learning rate, is given one of ours.
    """
    schedule, solver = estimator.learning_rate, estimator.solver
    if isinstance(schedule, str):
        is_for_sgd = schedule in ("invscaling", "adaptive")
        name = "constant" if is_for_sgd and solver in ("adam", "adamw", "lbfgs") else schedule
        power_t = float(estimator.power_t) if name == "invscaling" else 0.5
        schedule = Schedule(name, power_t=power_t)
    if solver == "lbfgs" and schedule != Schedule():
        raise ValueError(f"learning_rate={estimator.learning_rate!r} is not for solver='lbfgs'")
    if incremental and (schedule.name in _PLANNED or schedule.warmup_epochs):
        raise ValueError(f"partial_fit does not support learning_rate={estimator.learning_rate!r}")
    return schedule


def stopping_rule_of(estimator: Any) -> EarlyStopping | None:
    """Return when to stop; "val_score" is what scikit-learn's early stopping monitors.

    Without early stopping it is the loss, as scikit-learn reports it. L-BFGS has its own end, and
    a learning rate that is planned until `max_iter` ends there.
    """
    rule = estimator.early_stopping
    if isinstance(rule, EarlyStopping):
        return rule
    if estimator.solver == "lbfgs":
        return None
    # A truth is a number to scikit-learn; its plus makes it one.
    patience, tol = +estimator.n_iter_no_change, float(estimator.tol)
    if rule:
        return EarlyStopping("val_score", patience, tol)
    schedule = estimator.learning_rate
    if (schedule.name if isinstance(schedule, Schedule) else schedule) in _PLANNED:
        return None
    return EarlyStopping("loss", patience, tol * reported_outputs(estimator), restore_best=False)


def reported_outputs(estimator: Any) -> int:
    """Return what scikit-learn divides the loss that it minimises by, to report it.

    It reports the mean over the outputs of squared errors, and the sum of all other losses.
    """
    return estimator.n_outputs_ if estimator._objective().name == "squared_error" else 1


def plan_of(estimator: Any, rule: EarlyStopping | None, incremental: bool) -> Plan:
    """Return the settings of a fit with this rule of early stopping.

    Raises
    ------
    ValueError
        If the solver does not support a setting, or float32 cannot hold it.
    """
    return Plan(
        epochs=1 if incremental else int(estimator.max_iter),
        batch_size=200 if estimator.batch_size == "auto" else int(estimator.batch_size),
        optimizer=optimizer_of(estimator),
        schedule=schedule_of(estimator, incremental),
        l2=_held(estimator, "alpha"),
        l2_is_shared=True,
        shuffle=bool(estimator.shuffle),
        seed=estimator._network.seed,
        early_stopping=rule,
        max_evaluations=int(estimator.max_fun),
        tolerance=float(estimator.tol),
    )


def callbacks_of(estimator: Any) -> list[Callback]:
    """Return the callbacks.

    Raises
    ------
    TypeError
        If one is not a `fastnn.Callback`.
    """
    try:
        return list(check_callbacks(estimator.callbacks or ()))
    except TypeError as error:
        raise TypeError(f"{error}; those of scikit-learn go to set_callbacks") from None
