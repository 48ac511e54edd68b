"""Multi-layer Perceptron classifier."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils import column_or_1d, compute_class_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    check_classification_targets,
    type_of_target,
    unique_labels,
)

from fastnn.data.conversion import check_class_weight
from fastnn.estimators.base import BaseMLP
from fastnn.estimators.parameters import CONSTRAINTS
from fastnn.model.losses import LOSSES, Loss
from fastnn.model.schedules import Schedule
from fastnn.training.early_stopping import EarlyStopping
from fastnn.training.fit import Callback


class MLPClassifier(ClassifierMixin, BaseMLP):
    """Multi-layer Perceptron classifier.

    This model minimizes the log-loss function using L-BFGS or stochastic gradient descent. It has
    all parameters, methods and attributes of scikit-learn's `MLPClassifier`, with the same
    meaning. It computes in float32; predictions are float64 unless X and `coefs_` are float32.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(100,)
        The ith element represents the number of neurons in the ith hidden layer.
    activation : {'identity', 'logistic', 'tanh', 'relu', 'leaky_relu', 'gelu'}, default='relu'
        Activation function for the hidden layers.
    solver : {'lbfgs', 'sgd', 'momentum', 'nesterov', 'adam', 'adamw'}, default='adam'
        The solver for weight optimization. 'lbfgs' is a quasi-Newton method that uses all samples
        at once. 'sgd' is stochastic gradient descent with `momentum` and `nesterovs_momentum`.
        'momentum' is 'sgd' with ``nesterovs_momentum=False``, 'nesterov' is 'sgd' with
        ``nesterovs_momentum=True``. 'adam' is the optimizer of Kingma & Ba 2015, 'adamw' adds
        decoupled `weight_decay` (Loshchilov & Hutter 2019).
    alpha : float, default=0.0001
        Strength of the L2 regularization term ``alpha / 2 * ||w||^2``. The term is divided by the
        number of samples in a batch when added to the loss. With 'adamw' it is added to the weight
        decay; set ``alpha=0`` to have only the weight decay.
    batch_size : int or 'auto', default='auto'
        Size of minibatches for stochastic optimizers; 'auto' is ``min(200, n_samples)``. Not used
        when solver='lbfgs'.
    learning_rate : {'constant', 'invscaling', 'adaptive', 'cosine', 'one_cycle'} or Schedule, \
            default='constant'
        Learning rate schedule for weight updates.

        - 'constant' is `learning_rate_init`.
        - 'invscaling' divides the learning rate by ``(t_ + 1) ** power_t`` at the start of each
          epoch. 'adaptive' divides it by 5 each time training stops improving. As in
          scikit-learn, both have no effect when solver='adam' or 'adamw'.
        - 'cosine' and 'one_cycle' cover `max_iter` epochs. Only `early_stopping` can stop
          training earlier.
        - A `fastnn.Schedule` affects 'adam' and 'adamw', too, and can start with a linear warm-up.

        'lbfgs' has no learning rate: 'cosine', 'one_cycle' and a `Schedule` that is not constant
        raise an error.
    learning_rate_init : float, default=0.001
        The initial learning rate. Not used when solver='lbfgs'.
    power_t : float, default=0.5
        The exponent for inverse scaling. Only used when learning_rate='invscaling'.
    max_iter : int, default=200
        Maximum number of iterations. For stochastic solvers, this is the number of epochs, not of
        gradient steps.
    shuffle : bool, default=True
        Whether to shuffle samples in each iteration. Not used when solver='lbfgs'.
    random_state : int, RandomState instance, default=None
        Determines random number generation for weights and bias initialization (the same weights
        as scikit-learn's), the order of the samples, the validation split and dropout. Pass an
        int for bit-identical results across multiple function calls and any number of threads.
    tol : float, default=1e-4
        Tolerance for the optimization. Training stops when the loss, or with early stopping the
        validation score, has not improved by at least `tol` for more than `n_iter_no_change`
        consecutive epochs. 'lbfgs' stops when no component of the gradient exceeds it.
    verbose : bool, default=False
        Whether to print the loss of every epoch to stdout.
    warm_start : bool, default=False
        When set to True, reuse the solution of the previous call to fit as initialization,
        including the state of the optimizer. Otherwise, erase the previous solution.
    momentum : float, default=0.9
        Momentum for gradient descent update, between 0 and 1. Only used when solver='sgd',
        'momentum' or 'nesterov'.
    nesterovs_momentum : bool, default=True
        Whether to use Nesterov's momentum. Only used when solver='sgd' and momentum > 0.
    early_stopping : bool or EarlyStopping, default=False
        Whether to stop training when the validation score is not improving. If True, set aside
        `validation_fraction` of the training data, stratified by class, and restore the weights of
        the best epoch; as in scikit-learn, True has no effect when solver='lbfgs'. A
        `fastnn.EarlyStopping` selects the metric to monitor ("val_score", "val_loss",
        "val_accuracy", "loss" or "accuracy"), the minimum improvement and the patience, which
        replace `tol` and `n_iter_no_change`, and whether to restore the best weights.
    validation_fraction : float, default=0.1
        The proportion of training data to set aside as validation set for early stopping, in
        [0, 1). Not used if `fit` gets validation data.
    beta_1, beta_2 : float, default=0.9 and 0.999
        Exponential decay rates for estimates of first and second moment vector in Adam, in
        [0, 1). Only used when solver='adam' or 'adamw'.
    epsilon : float, default=1e-8
        Value for numerical stability in Adam. Only used when solver='adam' or 'adamw'.
    n_iter_no_change : int, default=10
        Maximum number of consecutive epochs without an improvement of at least `tol`. Not used
        when solver='lbfgs'.
    max_fun : int, default=15000
        Maximum number of loss function calls. Only used when solver='lbfgs'.
    class_weight : dict, 'balanced' or None, default=None
        Weights associated with classes in the form ``{class_label: weight}``, multiplied with
        `sample_weight`. 'balanced' gives all classes the same total weight.
    weight_decay : float, default=None
        Decoupled weight decay. None means 0.01 for 'adamw' and 0 for other solvers. Not used when
        solver='lbfgs'.
    weight_init : {'glorot_uniform', 'he_normal'}, default='glorot_uniform'
        Distribution of the initial weights: uniform as in scikit-learn (Glorot & Bengio 2010), or
        normal with variance ``2 / fan_in`` and biases of 0 (He et al. 2015), as suits 'relu'.
    dropout : float or array-like of float, default=0.0
        Probability with which training sets a value to 0. One number applies to the outputs of
        every hidden layer, but not to the features. A list has one number for the features and one
        for the outputs of each hidden layer. Not supported by 'lbfgs'.
    scoring : str, callable or None, default=None
        The scorer, as in scikit-learn, that computes "val_score" and `validation_scores_`. None
        means the accuracy.
    callbacks : list of Callback, default=None
        `fastnn.Callback` objects, which run during training. For callbacks of scikit-learn, use
        `set_callbacks`.
    engine : {'numba', 'numpy'}, default='numba'
        'numba' is the fast engine, in compiled code. 'numpy' is the reference engine.
    n_threads : int, default=None
        Number of threads of the Numba engine. A given number is always used, if the process may
        use as many. With None the engine uses up to all CPUs that the process may use, and fewer
        for little work.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels; for an indicator matrix, the numbers of its columns.
    loss_ : float
        The loss of the last epoch: the mean over its batches, each computed before its update.
    best_loss_ : float or None
        The minimum loss reached by the solver throughout fitting; None with early stopping.
    loss_curve_ : list of float
        The loss of every epoch of all calls of `fit` or `partial_fit` that continue training.
    validation_scores_ : list of float or None
        The validation score after every epoch; None without validation data.
    best_validation_score_ : float or None
        The best validation score.
    history_ : dict of str to list of float
        All metrics of every epoch, with the names of `fastnn.Network.fit`.
    t_ : int
        The number of training samples seen by the solver during fitting; 0 for 'lbfgs'.
    coefs_, intercepts_ : list of ndarray
        The weights (fan_in, fan_out) and biases (fan_out,) of each layer: float32 if X was
        float32, else float64. The arrays are read-only, but they can be replaced: predictions and
        further training use the new ones. During a fit they are the weights from its start.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`. Defined only if all names are strings.
    n_iter_ : int
        The number of iterations (epochs for stochastic solvers) of the last fit.
    n_layers_ : int
        Number of layers, including the input and output layers.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        Name of the output activation function.

    Notes
    -----
    Differences from scikit-learn: `warm_start` keeps the state of the optimizer; the split for
    early stopping is always stratified; `loss_` of weighted samples is their weighted mean over
    the epoch; if y has only one class, `predict_proba` returns one column.

    Examples
    --------
    >>> from fastnn import MLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(engine="numpy", max_iter=1000, random_state=0).fit(X, y)
    >>> clf.predict(X[::50])
    array([0, 1, 2])
    >>> bool(clf.score(X, y) > 0.95)
    True
    """

    _parameter_constraints = CONSTRAINTS | {
        "class_weight": [None, dict, StrOptions({"balanced"})],
    }
    loss = "log_loss"

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Schedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool | EarlyStopping = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: Mapping[Any, float] | str | None = None,
        weight_decay: float | None = None,
        weight_init: str = "glorot_uniform",
        dropout: float | Sequence[float] = 0.0,
        scoring: str | Callable[..., float] | None = None,
        callbacks: Sequence[Callback] | None = None,
        engine: str = "numba",
        n_threads: int | None = None,
    ) -> None:
        self._store(locals())

    def _objective(self) -> Loss:
        """Return the log loss: logistic for two classes and for multilabel targets."""
        is_logistic = self._is_multilabel or len(self.classes_) == 2
        return LOSSES["logistic" if is_logistic else "cross_entropy"]

    def _encoded(self, y: Any, new: bool, incremental: bool, name: str = "y") -> np.ndarray:
        """Return class numbers (n,), or an indicator matrix (n, labels) of 0 and 1.

        A new fit sets `classes_`; `partial_fit` has set them before.
        """
        if hasattr(y, "toarray"):  # a sparse indicator matrix
            y = y.toarray()
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        _check_object_labels(y, name)
        kind = type_of_target(y, input_name=name)
        if kind not in ("binary", "multiclass", "multilabel-indicator"):
            check_classification_targets(y)
            raise ValueError("Multioutput target data is not supported with label binarization")
        is_multilabel = y.ndim == 2
        # `unique_labels` numbers the columns of an indicator matrix and turns objects into strings.
        is_special = is_multilabel or y.dtype == object
        present = unique_labels(y) if is_special else np.unique(y)
        if new:
            self._is_multilabel = is_multilabel
        if new and not incremental:
            self.classes_ = present
        elif not incremental and set(present) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous "
                f"call to fit. Previously got {self.classes_}, `y` has {present}"
            )
        elif len(np.setdiff1d(present, self.classes_)) or is_multilabel != self._is_multilabel:
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {present}."
            )
        return y if is_multilabel else np.searchsorted(self.classes_, y)

    def _decoded(self, targets: np.ndarray) -> np.ndarray:
        if self._is_multilabel:
            return targets.astype(np.int64)
        return self.classes_[targets.astype(np.intp).ravel()]

    def _class_weights(self, incremental: bool) -> Any:
        given = self.class_weight
        if given is None:
            return None
        if self._is_multilabel:
            raise ValueError("class_weight is not supported for multilabel targets.")
        if isinstance(given, str):
            if incremental:
                raise ValueError(
                    "class_weight 'balanced' is not supported for partial_fit. Use the weights "
                    "that compute_class_weight('balanced', classes=classes, y=y) gives for all of "
                    "y."
                )
            return given
        for label, weight in given.items():
            check_class_weight(label, weight)
        weights = compute_class_weight(given, classes=self.classes_, y=self.classes_)
        return dict(enumerate(weights))

    @available_if(BaseMLP._is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Update the model with a single iteration over the given data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            The target values: class labels or an indicator matrix.
        sample_weight : array-like of shape (n_samples,), default=None
            Sample weights, at least 0.
        classes : array-like of shape (n_classes,), default=None
            Classes across all calls to partial_fit. Required for the first call, optional for
            subsequent calls. y does not need to contain all of them.

        Returns
        -------
        self : object
            Trained MLP model.

        Raises
        ------
        ValueError
            If a parameter or the data are invalid, or if the weights become non-finite.
        """
        if classes is not None:
            _check_object_labels(classes, "classes")
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def predict(self, X: Any) -> np.ndarray:
        """Predict using the multi-layer perceptron classifier.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            The predicted classes.
        """
        outputs = self._predictions(X)
        is_softmax = self._objective().takes_labels
        return self._decoded(outputs.argmax(axis=1) if is_softmax else outputs > 0.5)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Estimate class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        y_prob : ndarray of shape (n_samples, n_classes)
            The predicted probabilities, with columns in the order of `classes_`. Rows sum to 1,
            except for multilabel targets, where each label has its own probability.
        """
        outputs = self._predictions(X)
        if self._is_multilabel:
            return outputs
        if self._objective().takes_labels:  # float32 rows sum to 1 to within rounding
            return outputs / outputs.sum(axis=1, keepdims=True)
        return np.hstack([1 - outputs, outputs])

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the log of probability estimates.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        log_y_prob : ndarray of shape (n_samples, n_classes)
            The predicted log-probability, equivalent to ``log(predict_proba(X))``.
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: multilabel targets are supported."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _check_object_labels(labels: Any, name: str) -> None:
    """Raise a ValueError if labels of dtype object are not all strings; it names their types."""
    values = np.asarray(labels).ravel()
    if values.dtype != object or all(isinstance(value, str) for value in values):
        return
    types = [type(value).__name__ for value in values]
    rows = [types.index(name) for name in dict.fromkeys(types)][:3]
    found = " and ".join(f"{types[row]} ({repr(values[row])[:40]} at {row})" for row in rows)
    raise ValueError(
        f"Unknown label type: {name} has dtype object and contains {found}; labels must all be "
        "strings or have a numeric dtype: convert them, for example with astype(int)"
    )
