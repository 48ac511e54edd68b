"""Conversion of fitted estimators to scikit-learn's estimators and back."""

import copy
import math
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import make_constraint
from sklearn.utils.validation import check_is_fitted

_SOLVERS = {  # scikit-learn's parameters for solvers that only fastnn has
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd", "nesterovs_momentum": True},
}
_FITTED = (
    "n_features_in_", "feature_names_in_", "classes_", "n_layers_", "n_outputs_",
    "out_activation_", "n_iter_", "t_", "loss_", "loss_curve_", "best_loss_",
    "validation_scores_", "best_validation_score_",
)  # fmt: skip


def to_sklearn(estimator: Any) -> Any:
    """Return the estimator of scikit-learn, as `ExchangeMixin.to_sklearn` documents.

    The attributes that scikit-learn sets at the start of a fit are set here, because
    `partial_fit` and a warm start need them.
    """
    kind, network = _sklearn_class(type(estimator)), estimator._network
    theirs = kind(**_valid_parameters(kind, _sklearn_parameters(kind, estimator)))
    parameters, dtype = network.parameters, estimator._dtype
    theirs.coefs_ = [w.astype(dtype) for w, _ in parameters]
    theirs.intercepts_ = [b.astype(dtype) for _, b in parameters]
    theirs._best_coefs = [w.copy() for w in theirs.coefs_]
    theirs._best_intercepts = [b.copy() for b in theirs.intercepts_]
    theirs._no_improvement_count = 0
    _copy_fitted(estimator, theirs)
    if theirs.best_loss_ is None and not theirs.early_stopping:
        theirs.best_loss_ = min(filter(math.isfinite, theirs.loss_curve_), default=math.inf)
    if issubclass(kind, ClassifierMixin):
        if len(theirs.classes_) == 1:
            raise ValueError("y had only one class: scikit-learn would predict two probabilities")
        y = np.eye(theirs.n_outputs_, dtype=int) if estimator._is_multilabel else theirs.classes_
        theirs._label_binarizer = LabelBinarizer().fit(y)
    return theirs


def _sklearn_class(ours: type) -> Any:
    is_classifier = issubclass(ours, ClassifierMixin)
    return neural_network.MLPClassifier if is_classifier else neural_network.MLPRegressor


def _sklearn_parameters(kind: Any, estimator: Any) -> dict[str, Any]:
    """Return an estimator's parameters, translated for scikit-learn where it has an equivalent.

    Raises
    ------
    ValueError
        If scikit-learn lacks the activations of the hidden layers.
    """
    parameters = estimator.get_params(deep=False)
    parameters |= _SOLVERS.get(parameters["solver"], {})
    used = sorted({layer.activation for layer in estimator._network.layers[:-1]})
    if not used:  # without hidden layers, the activation has no effect
        return parameters
    parameters["activation"] = used[0]
    if len(used) > 1 or "activation" not in _valid_parameters(kind, parameters):
        raise ValueError(
            "scikit-learn has one activation for all hidden layers (identity, logistic, tanh or "
            f"relu), not {', '.join(used)}"
        )
    return parameters


def _valid_parameters(kind: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return copies of the parameters that a class has and whose values it accepts."""
    constraints = kind._parameter_constraints
    return {
        name: copy.deepcopy(parameters[name])
        for name in parameters.keys() & set(kind._get_param_names())
        if any(make_constraint(one).is_satisfied_by(parameters[name]) for one in constraints[name])
    }


def _copy_fitted(source: Any, target: Any) -> None:
    for name in _FITTED:
        if name in vars(source):
            setattr(target, name, copy.copy(getattr(source, name)))


def from_sklearn(ours: Any, fitted: Any) -> Any:
    """Return an estimator of the class `ours`, as `ExchangeMixin.from_sklearn` documents."""
    kind = _sklearn_class(ours)
    if not isinstance(fitted, kind):
        raise TypeError(
            f"from_sklearn takes a fitted sklearn.neural_network.{kind.__name__}, "
            f"got {type(fitted).__module__}.{type(fitted).__qualname__}"
        )
    check_is_fitted(fitted)
    parameters = {name: getattr(fitted, name) for name in kind._get_param_names()}
    estimator = ours(**_valid_parameters(ours, parameters))
    if issubclass(kind, ClassifierMixin):
        estimator.classes_ = fitted.classes_
        estimator._is_multilabel = fitted._label_binarizer.y_type_.startswith("multilabel")
    link = estimator._objective().link
    if link != fitted.out_activation_:  # one class, or the loss was changed after the fit
        raise ValueError(
            f"the output activation is {fitted.out_activation_!r}, but must be {link!r} for the "
            "classes and the loss of the estimator"
        )
    estimator.coefs_, estimator.intercepts_ = fitted.coefs_, fitted.intercepts_
    dtype = fitted.coefs_[0].dtype
    estimator._begin(fitted.n_features_in_, fitted.n_outputs_, dtype, keep=True)
    _copy_fitted(fitted, estimator)
    if not hasattr(fitted, "best_loss_"):  # scikit-learn's L-BFGS does not set it
        estimator.best_loss_ = fitted.loss_
    return estimator
