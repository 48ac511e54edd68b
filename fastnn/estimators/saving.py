"""How a model file describes an estimator, apart from its network.

The description is a JSON object:

- ``kind``: "MLPClassifier" or "MLPRegressor";
- ``parameters``: the parameters of the constructor by name, in the form that `_READERS` documents;
- ``dtype``: the dtype of `coefs_`, "float32" or "float64";
- ``feature_names``: a list of strings, or null;
- ``classes``: the class labels and their dtype, or null for a regressor;
- ``n_iter_``, ``t_``: integers;
- ``curves``: lists of floats by name. The file stores them as tensors, which keep NaN and infinity.
"""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import is_classifier

from fastnn.data.conversion import check_class_weight
from fastnn.errors import ModelFileError
from fastnn.model.schedules import Schedule
from fastnn.network import Network
from fastnn.storage.strict_json import (
    check_keys,
    get_count,
    get_list,
    get_typed,
    prefix_errors,
    short_repr,
)
from fastnn.training.early_stopping import EarlyStopping, StoppingState

LABEL_LIMIT = 1 << 23  # characters of all class labels, each as long as the longest

_NAMES = ("kind", "parameters", "dtype", "feature_names", "classes", "n_iter_", "t_", "curves")
_NUMBERS = ("loss_", "best_loss_", "best_validation_score_")  # stored as curves of one item
_CURVES = ("loss_curve_", "validation_scores_")
_HISTORY = "history_."  # prefix of the curves in `history_`
_LABEL_TYPES = {"b": bool, "i": int, "u": int, "f": float, "U": str}  # by dtype.kind
_LABEL_DTYPE = re.compile("bool|u?int(?:8|16|32|64)|float(?:16|32|64)|U(?P<width>[1-9][0-9]{0,6})")


# ---- estimators -----------------------------------------------------------------------------


def describe(estimator: Any) -> dict[str, Any]:
    """Return the description of a fitted estimator.

    Parameters that JSON cannot express, such as callbacks, are left out.

    Raises
    ------
    TypeError
        If the estimator is an instance of a subclass that fastnn does not define.
    ModelFileError
        If the dtype of the classes cannot be stored.
    """
    kind = type(estimator)
    if not kind.__module__.startswith("fastnn.estimators."):
        raise TypeError(
            "a model file can store fastnn's MLPClassifier or MLPRegressor, not "
            f"{kind.__module__}.{kind.__qualname__}"
        )
    parameters = estimator.get_params(deep=False)
    del parameters["callbacks"]
    stored = {}
    for name, value in parameters.items():
        with suppress(TypeError):
            stored[name] = _to_json(value)
    names = getattr(estimator, "feature_names_in_", None)
    return {
        "kind": kind.__name__,
        "parameters": stored,
        "dtype": estimator._dtype.name,
        "feature_names": None if names is None else names.tolist(),
        "classes": _describe_classes(estimator) if is_classifier(estimator) else None,
        "n_iter_": int(estimator.n_iter_),
        "t_": int(estimator.t_),
        "curves": _describe_curves(estimator),
    }


def restore(kinds: Sequence[type], stored: dict[str, Any], network: Network) -> Any:
    """Return the estimator with this description and this network.

    Parameters
    ----------
    kinds : sequence of type
        The classes to choose from.

    Raises
    ------
    ModelFileError
        If a value is invalid, or does not match the network.
    """
    check_keys(stored, _NAMES, "the estimator")
    table = {kind.__name__: kind for kind in kinds}
    name = get_typed(stored, "kind", str)
    if name not in table:
        raise ModelFileError(f"kind is {short_repr(name)}, expected {' or '.join(table)}")
    estimator = _construct(table[name], get_typed(stored, "parameters", dict))
    state: dict[str, Any] = {"n_iter_": get_count(stored, "n_iter_"), "t_": get_count(stored, "t_")}
    state |= _read_curves(get_typed(stored, "curves", dict))
    state |= _read_features(stored, network.layers[0].inputs)
    if is_classifier(estimator):
        state |= _read_classes(get_typed(stored, "classes", dict), network)
    elif stored["classes"] is not None or network.loss.score != "r2":
        raise ModelFileError(f"a regressor cannot have classes or the loss {network.loss.name}")
    state |= {"n_layers_": len(network.layers) + 1, "n_outputs_": network.layers[-1].outputs}
    state |= {"out_activation_": network.loss.link, "_network": network}
    state["_stopping"] = ("", StoppingState(), 1.0)  # early stopping starts from the beginning
    estimator.__setstate__(state)
    return estimator


# ---- parameters -----------------------------------------------------------------------------


def _scalar(value: Any) -> Any:
    """Return None, a bool, a number or a string in its JSON form.

    NaN and infinity become the strings "nan", "inf" and "-inf".

    Raises
    ------
    TypeError
        If the value is anything else.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(f"{type(value).__qualname__} is not a bool, a number, a string or null")
    is_special = isinstance(value, float) and not math.isfinite(value)
    return repr(value) if is_special else value


def _to_json(value: Any) -> Any:
    """Return the value of a parameter in the form that `_READERS` documents."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if type(value) in (Schedule, EarlyStopping):
        return {name: _scalar(item) for name, item in vars(value).items()}
    if isinstance(value, dict):
        return [[_scalar(label), _scalar(weight)] for label, weight in value.items()]
    if isinstance(value, list | tuple):
        items = [_scalar(item) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    return _scalar(value)


def _number(value: Any) -> Any:
    return math.inf if value == "inf" else value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        check_keys(value, ["tuple"], "the tuple")
        return tuple(_numbers(get_typed(value, "tuple", list)))
    if isinstance(value, list) and not all(type(item) in (int, float) for item in value):
        raise ModelFileError(f"{short_repr(value)} has items that are not numbers")
    return value


def _record(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    check_keys(value, [field.name for field in fields(kind)], kind.__name__)
    return kind(**{name: _number(_scalar(item)) for name, item in value.items()})


def _class_weight(value: Any) -> Any:
    if not isinstance(value, list):
        return _scalar(value)
    for label, weight in value:
        check_class_weight(_scalar(label), weight)
    return dict(value)


# Functions that read the parameters whose JSON form can be a list or an object, or "inf".
# `_construct` then checks the values, as `fit` does.
_READERS: dict[str, Callable[[Any], Any]] = {
    "hidden_layer_sizes": _numbers,  # a number, a list of numbers or {"tuple": [numbers]}
    "dropout": _numbers,
    "learning_rate": partial(_record, Schedule),  # a string or an object with the fields
    "early_stopping": partial(_record, EarlyStopping),  # a bool or an object with the fields
    "class_weight": _class_weight,  # a string, null or a list of [label, weight]
    "n_iter_no_change": _number,  # a number or "inf", as in the fields above
}


def _construct(kind: Any, parameters: dict[str, Any]) -> Any:
    """Return an unfitted estimator with parameters that `fit` accepts."""
    known, values = set(kind._get_param_names()) - {"callbacks"}, {}
    try:
        for name, value in parameters.items():
            if name not in known:
                raise ModelFileError(
                    f"{kind.__name__} has no parameter {short_repr(name)} that files can store"
                )
            with prefix_errors(name):
                values[name] = _READERS.get(name, lambda value: value)(value)
        estimator = kind(**values)
        estimator._validate_params()
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelFileError(str(error)[:200]) from error
    return estimator


# ---- attributes -----------------------------------------------------------------------------


def _read_features(stored: dict[str, Any], inputs: int) -> dict[str, Any]:
    """Return the attributes that describe X: number, names and dtype of the features."""
    dtype = get_typed(stored, "dtype", str)
    if dtype not in ("float32", "float64"):
        raise ModelFileError(f"dtype is {short_repr(dtype)}, expected float32 or float64")
    state = {"_dtype": np.dtype(dtype), "n_features_in_": inputs}
    if stored["feature_names"] is not None:
        names = get_list(stored, "feature_names", str)
        if len(names) != inputs:
            raise ModelFileError(f"feature_names has {len(names)} items, expected {inputs}")
        state["feature_names_in_"] = np.array(names, object)
    return state


def _describe_curves(estimator: Any) -> dict[str, list[float]]:
    """Return losses and scores as lists of floats by name, without those that are None."""
    curves = {name: getattr(estimator, name) for name in (*_NUMBERS, *_CURVES)}
    curves |= {f"{_HISTORY}{name}": curve for name, curve in estimator.history_.items()}
    return {
        name: np.array(curve, float).ravel().tolist()
        for name, curve in curves.items()
        if curve is not None
    }


def _read_curves(stored: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = dict.fromkeys((*_NUMBERS, *_CURVES)) | {"history_": {}}
    for name in stored:
        curve = get_list(stored, name, float)
        if name.startswith(_HISTORY):
            state["history_"][name.removeprefix(_HISTORY)] = curve
        elif name in _CURVES:
            state[name] = curve
        elif name in _NUMBERS and len(curve) == 1:
            state[name] = curve[0]
        else:
            raise ModelFileError(f"curves has {short_repr(name)} with {len(curve)} items")
    for name in ("loss_", "loss_curve_"):
        if state[name] is None:
            raise ModelFileError(f"curves has no {name}")
    return state


def _describe_classes(estimator: Any) -> dict[str, Any]:
    classes = estimator.classes_
    is_text = classes.dtype.kind == "U"
    dtype = f"U{classes.dtype.itemsize // 4}" if is_text else classes.dtype.name
    if not _LABEL_DTYPE.fullmatch(dtype):
        raise ModelFileError(
            f"classes of dtype {dtype} cannot be stored: convert them to numbers or strings"
        )
    return {"dtype": dtype, "values": classes.tolist()}


def _read_classes(stored: dict[str, Any], network: Network) -> dict[str, Any]:
    """Return the attributes of the classes, which are sorted and match the network's outputs."""
    check_keys(stored, ("dtype", "values"), "classes")
    name = get_typed(stored, "dtype", str)
    match = _LABEL_DTYPE.fullmatch(name)
    if match is None:
        raise ModelFileError(
            f"classes have dtype {short_repr(name)}, expected bools, numbers or strings"
        )
    dtype = np.dtype(name)
    values = get_list(stored, "values", _LABEL_TYPES[dtype.kind])
    outputs, count, loss = network.layers[-1].outputs, len(values), network.loss.name
    if count * int(match["width"] or 1) > LABEL_LIMIT:
        raise ModelFileError(f"classes take more than {LABEL_LIMIT:,} characters")
    is_multilabel = loss == "logistic" and outputs > 1
    if loss == "logistic":
        matches = outputs <= count if is_multilabel else count == 2
    else:
        matches = loss == "cross_entropy" and outputs == count and count != 2
    if not matches:
        raise ModelFileError(f"{count} classes do not match {outputs} outputs and the loss {loss}")
    with np.errstate(over="ignore"), suppress(OverflowError):
        classes = np.array(values, dtype)
        if classes.tolist() == values and (classes[1:] > classes[:-1]).all():
            return {"classes_": classes, "_is_multilabel": is_multilabel}
    raise ModelFileError(f"classes do not fit dtype {name}, or are not sorted")
