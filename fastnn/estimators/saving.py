"""What a model file holds of an estimator besides its network: plain values, strictly read.

JSON has no tuples, no NaN and no names but texts. An object with one name stands for such a value:
``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``, ``{"float": "inf"}``, and ``{"Schedule":
{...}}`` and ``{"EarlyStopping": {...}}`` for fastnn's own records.
"""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

import numpy as np
from sklearn.base import is_classifier

from fastnn.errors import ModelFileError
from fastnn.model.schedules import Schedule
from fastnn.model.settings import COUNT_LIMIT
from fastnn.network import Network
from fastnn.storage.strict_json import check_keys, get_list, get_typed, prefix_errors, short_repr
from fastnn.training.early_stopping import EarlyStopping, Standing

LABEL_LIMIT = 1 << 23  # characters of all classes, each as long as the longest

_RECORDS: dict[str, Any] = {"EarlyStopping": EarlyStopping, "Schedule": Schedule}
_ITEMS = {"b": bool, "i": int, "u": int, "f": float, "U": str}  # of an array's kind
_LABELS = re.compile("bool|u?int(?:8|16|32|64)|float(?:16|32|64)|U(?P<width>[1-9][0-9]{0,6})")


# ---- plain values ---------------------------------------------------------------------------


def encoded(value: Any) -> Any:
    """Return a plain value as JSON has it; of NumPy's scalars and arrays, what Python has.

    Raises
    ------
    TypeError
        If it is no plain value.
    """
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encoded(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encoded(key), encoded(item)] for key, item in value.items()]}
    if type(value) in _RECORDS.values():
        record = {field.name: encoded(getattr(value, field.name)) for field in fields(value)}
        return {type(value).__name__: record}
    raise TypeError(f"{type(value).__qualname__} is no plain value")


def decoded(value: Any) -> Any:
    """Return what `encoded` was given.

    Raises
    ------
    ModelFileError
        If it is nothing that `encoded` returns.
    """
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag, content = next(iter(value.items())) if len(value) == 1 else ("", None)
    if tag == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if tag == "tuple" and isinstance(content, list):
        return tuple(decoded(content))
    if tag == "dict" and isinstance(content, list):
        pairs = decoded(content)
        if all(type(pair) is list and len(pair) == 2 for pair in pairs):
            with suppress(TypeError):  # a key that cannot be one
                return {key: item for key, item in pairs}
    if tag in _RECORDS and isinstance(content, dict):
        check_keys(content, [field.name for field in fields(_RECORDS[tag])], tag)
        try:
            return _RECORDS[tag](**{name: decoded(item) for name, item in content.items()})
        except ValueError as error:
            raise ModelFileError(str(error)[:200]) from error
    raise ModelFileError(f"{short_repr(value)} stands for nothing")


# ---- estimators -----------------------------------------------------------------------------


def stored_of(estimator: Any) -> dict[str, Any]:
    """Return what is to be stored of a fitted estimator, as JSON has it.

    Parameters that are no plain values, such as callbacks, are left out.

    Raises
    ------
    TypeError
        If it is of a class that is not fastnn's.
    ModelFileError
        If its classes have a type that is not stored, or its figures could not be read back.
    """
    kind, fitted = type(estimator), vars(estimator)
    if not kind.__module__.startswith("fastnn.estimators."):
        raise TypeError(
            "a model file holds an MLPClassifier or an MLPRegressor of fastnn's, not "
            f"{kind.__module__}.{kind.__qualname__}"
        )
    parameters = {}
    for name, value in estimator.get_params(deep=False).items():
        with suppress(TypeError):
            parameters[name] = encoded(value)
    names = fitted.get("feature_names_in_")
    attributes = {
        "dtype": estimator._dtype.name,
        "feature_names": None if names is None else names.tolist(),
        "classes": _stored_classes(estimator) if is_classifier(estimator) else None,
        **{name: encoded(fitted[name]) for name in _FIGURES},
    }
    _figures(attributes)
    stored = {"kind": kind.__name__, "parameters": parameters, "attributes": attributes}
    return stored | {"curves": _stored_curves(estimator)}


def restored(kinds: Sequence[type], stored: dict[str, Any], network: Network) -> Any:
    """Return the estimator that `stored_of` was given, of one of these classes.

    Raises
    ------
    ModelFileError
        If something stored is wrong, or does not go with the network.
    """
    check_keys(stored, ("kind", "parameters", "attributes", "curves"), "the estimator")
    table = {kind.__name__: kind for kind in kinds}
    name = get_typed(stored, "kind", str)
    if name not in table:
        raise ModelFileError(f"kind is {short_repr(name)}, where {' or '.join(table)} is needed")
    estimator = _constructed(table[name], get_typed(stored, "parameters", dict))
    attributes = get_typed(stored, "attributes", dict)
    check_keys(attributes, ("dtype", "feature_names", "classes", *_FIGURES), "the estimator")
    state = _figures(attributes) | _curves(get_typed(stored, "curves", dict))
    state |= _features(attributes, network.layers[0].inputs)
    if is_classifier(estimator):
        state |= _classes(get_typed(attributes, "classes", dict), network)
    elif attributes["classes"] is not None or network.loss.score != "r2":
        raise ModelFileError(f"a regressor has neither classes nor the loss {network.loss.name}")
    estimator.__setstate__(
        state
        | {
            "_network": network,
            "_standing": ("", Standing(), 1.0),  # nothing is known of the fits before
            "n_layers_": len(network.layers) + 1,
            "n_outputs_": network.layers[-1].outputs,
            "out_activation_": network.loss.link,
        }
    )
    return estimator


def _constructed(kind: Any, parameters: dict[str, Any]) -> Any:
    """Return an estimator with these parameters, if they are such as `fit` would take."""
    known = kind._get_param_names()
    values = {}
    for name, value in parameters.items():
        if name not in known:
            raise ModelFileError(f"{kind.__name__} has no parameter {short_repr(name)}")
        with prefix_errors(name):
            values[name] = decoded(value)
    estimator = kind(**values)
    try:
        estimator._validate_params()
    except (TypeError, ValueError) as error:
        raise ModelFileError(str(error)[:200]) from error
    return estimator


def _features(attributes: dict[str, Any], inputs: int) -> dict[str, Any]:
    """Return what is known of X: its columns, their names, and the dtype that answers have."""
    dtype = get_typed(attributes, "dtype", str)
    if dtype not in ("float32", "float64"):
        raise ModelFileError(f"dtype is {short_repr(dtype)}, where float32 or float64 is needed")
    state = {"_dtype": np.dtype(dtype), "n_features_in_": inputs}
    if attributes["feature_names"] is not None:
        names = get_list(attributes, "feature_names", str)
        if len(names) != inputs:
            raise ModelFileError(f"feature_names are {len(names)}, where {inputs} are needed")
        state["feature_names_in_"] = np.array(names, object)
    return state


# ---- what a fit reports ---------------------------------------------------------------------


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < COUNT_LIMIT


def _is_number(value: Any) -> bool:
    return type(value) is float


def _or_none(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_right(value)


_FIGURES = {
    "n_iter_": _is_count,
    "t_": _is_count,
    "loss_": _is_number,
    "best_loss_": _or_none(_is_number),
    "best_validation_score_": _or_none(_is_number),
}
_OF_HISTORY = "history_."  # before the name of a figure


def _figures(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that tell how a fit went."""
    figures = {}
    for name, is_right in _FIGURES.items():
        with prefix_errors(name):
            figures[name] = decoded(attributes[name])
        if not is_right(figures[name]):
            raise ModelFileError(f"{name} is {short_repr(figures[name])}, which no fit reports")
    return figures


def _stored_curves(estimator: Any) -> dict[str, list[float]]:
    """Return what fits reported epoch by epoch, by names: lists of floats."""
    curves = {"loss_curve_": estimator.loss_curve_}
    if estimator.validation_scores_ is not None:
        curves["validation_scores_"] = estimator.validation_scores_
    curves |= {f"{_OF_HISTORY}{name}": curve for name, curve in estimator.history_.items()}
    return {name: [float(value) for value in curve] for name, curve in curves.items()}


def _curves(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that hold what fits reported epoch by epoch."""
    state: dict[str, Any] = {"validation_scores_": None, "history_": {}}
    for name in stored:
        curve = get_list(stored, name, float)
        if name.startswith(_OF_HISTORY):
            state["history_"][name.removeprefix(_OF_HISTORY)] = curve
        elif name in ("loss_curve_", "validation_scores_"):
            state[name] = curve
        else:
            raise ModelFileError(f"curves has {short_repr(name)}, which does not belong there")
    if "loss_curve_" not in state:
        raise ModelFileError("curves has no loss_curve_")
    return state


# ---- classes --------------------------------------------------------------------------------


def _stored_classes(estimator: Any) -> dict[str, Any]:
    classes = estimator.classes_
    is_text = classes.dtype.kind == "U"
    dtype = f"U{classes.dtype.itemsize // 4}" if is_text else classes.dtype.name
    if not _LABELS.fullmatch(dtype):
        raise ModelFileError(f"classes of dtype {dtype} cannot be stored")
    return {
        "dtype": dtype,
        "values": classes.tolist(),
        "is_multilabel": estimator._is_multilabel,
    }


def _classes(stored: dict[str, Any], network: Network) -> dict[str, Any]:
    """Return the classes, in order, that go with a network's outputs."""
    check_keys(stored, ("dtype", "values", "is_multilabel"), "classes")
    name, is_multilabel = get_typed(stored, "dtype", str), get_typed(stored, "is_multilabel", bool)
    match = _LABELS.fullmatch(name)
    if match is None:
        raise ModelFileError(f"classes are of dtype {short_repr(name)}, which is not stored")
    dtype = np.dtype(name)
    values = get_list(stored, "values", _ITEMS[dtype.kind])
    if len(values) * int(match["width"] or 1) > LABEL_LIMIT:
        raise ModelFileError(f"classes take more than {LABEL_LIMIT:,} characters")
    try:
        with np.errstate(over="ignore"):
            classes = np.array(values, dtype)
    except OverflowError as error:
        raise ModelFileError(f"classes are not of dtype {name}") from error
    if classes.tolist() != values or not (classes[1:] > classes[:-1]).all():
        raise ModelFileError(f"classes are not of dtype {name}, or not in order")
    outputs, count = network.layers[-1].outputs, len(values)
    is_binary = count == 2 and not is_multilabel
    loss = "logistic" if is_binary or is_multilabel else "cross_entropy"
    fits = outputs <= count if is_multilabel else outputs == (1 if is_binary else count)
    if network.loss.name != loss or not fits:
        raise ModelFileError(
            f"{count} classes do not go with {outputs} outputs and the loss {network.loss.name}"
        )
    return {"classes_": classes, "_is_multilabel": is_multilabel}
