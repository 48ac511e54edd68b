"""A fitted estimator as scikit-learn's own, and the other way round."""

import copy
import math
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import make_constraint
from sklearn.utils.validation import check_is_fitted

_SOLVERS = {  # of ours, what scikit-learn calls them
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd", "nesterovs_momentum": True},
}
_FITTED = (
    "n_features_in_", "feature_names_in_", "classes_", "n_layers_", "n_outputs_",
    "out_activation_", "n_iter_", "t_", "loss_", "loss_curve_", "best_loss_",
    "validation_scores_", "best_validation_score_",
)  # fmt: skip


def to_sklearn(estimator: Any) -> Any:
    """Return scikit-learn's estimator in the place of ours; `ExchangeMixin.to_sklearn` says how.

    What scikit-learn would set when a fit begins is set here, so that `partial_fit` and a warm
    start find it.
    """
    kind, network = _kind_of(type(estimator)), estimator._network
    theirs = kind(**_known(kind, _named_for(kind, estimator)))
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
            raise ValueError("scikit-learn would predict two probabilities for the one class")
        y = np.eye(theirs.n_outputs_, dtype=int) if estimator._is_multilabel else theirs.classes_
        theirs._label_binarizer = LabelBinarizer().fit(y)
    return theirs


def _kind_of(ours: type) -> Any:
    is_classifier = issubclass(ours, ClassifierMixin)
    return neural_network.MLPClassifier if is_classifier else neural_network.MLPRegressor


def _named_for(kind: Any, estimator: Any) -> dict[str, Any]:
    """Return an estimator's parameters, as far as possible in scikit-learn's words.

    Raises
    ------
    ValueError
        If scikit-learn lacks what the hidden layers compute.
    """
    given = estimator.get_params(deep=False)
    given |= _SOLVERS.get(given["solver"], {})
    used = sorted({layer.activation for layer in estimator._network.layers[:-1]})
    if not used:  # no predictions depend on it
        return given
    given["activation"] = used[0]
    if len(used) > 1 or "activation" not in _known(kind, given):
        raise ValueError(
            "scikit-learn has one activation for all hidden layers, identity, logistic, tanh or "
            f"relu: it cannot express {', '.join(used)}"
        )
    return given


def _known(kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return copies of those parameters that are scikit-learn's, with values that it takes."""
    constraints = kind._parameter_constraints
    return {
        name: copy.deepcopy(given[name])
        for name in given.keys() & set(kind._get_param_names())
        if any(make_constraint(one).is_satisfied_by(given[name]) for one in constraints[name])
    }


def _copy_fitted(source: Any, target: Any) -> None:
    for name in _FITTED:
        if name in vars(source):
            setattr(target, name, copy.copy(getattr(source, name)))


def from_sklearn(ours: Any, fitted: Any) -> Any:
    """Return an estimator of this class of ours; `ExchangeMixin.from_sklearn` says how."""
    kind = _kind_of(ours)
    if not isinstance(fitted, kind):
        given = type(fitted)
        raise TypeError(
            f"from_sklearn takes a fitted sklearn.neural_network.{kind.__name__}, "
            f"got {given.__module__}.{given.__qualname__}"
        )
    check_is_fitted(fitted)
    estimator = ours(**_known(ours, {n: getattr(fitted, n) for n in kind._get_param_names()}))
    if issubclass(kind, ClassifierMixin):
        estimator.classes_ = fitted.classes_
        estimator._is_multilabel = fitted._label_binarizer.y_type_.startswith("multilabel")
    link = estimator._objective().link
    if link != fitted.out_activation_:  # one class, or a loss that was set after the fit
        raise ValueError(
            f"with its classes and loss the outputs would be activated by {link!r}, "
            f"not by {fitted.out_activation_!r}"
        )
    estimator.coefs_, estimator.intercepts_ = fitted.coefs_, fitted.intercepts_
    dtype = fitted.coefs_[0].dtype
    estimator._begin(fitted.n_features_in_, fitted.n_outputs_, dtype, keep=True)
    _copy_fitted(fitted, estimator)
    if not hasattr(fitted, "best_loss_"):  # L-BFGS
        estimator.best_loss_ = fitted.loss_
    return estimator
