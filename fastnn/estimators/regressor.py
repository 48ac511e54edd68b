"""Multi-layer Perceptron regressor."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from fastnn.estimators.base import BaseMLP
from fastnn.estimators.parameters import CONSTRAINTS
from fastnn.model.losses import LOSSES, Loss
from fastnn.model.schedules import Schedule
from fastnn.training.early_stopping import EarlyStopping
from fastnn.training.fit import Callback


class MLPRegressor(RegressorMixin, BaseMLP):
    """Multi-layer Perceptron regressor.

    This model minimizes the loss function using L-BFGS or stochastic gradient descent. It has all
    parameters, methods and attributes of scikit-learn's `MLPRegressor`, with the same meaning. It
    computes in float32; predictions are float64 unless X and `coefs_` are float32.

    Parameters
    ----------
    loss : {'squared_error', 'poisson', 'absolute_error', 'huber'}, default='squared_error'
        The loss function to use when training the weights: half the squared error, half the
        Poisson deviance with the exponential as output activation, the absolute error, or
        Huber's loss with the threshold 1.
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
        `validation_fraction` of the training data and restore the weights of the best epoch; as in
        scikit-learn, True has no effect when solver='lbfgs'. A `fastnn.EarlyStopping` selects the
        metric to monitor ("val_score", "val_loss", "val_r2" or "loss"), the minimum improvement
        and the patience, which replace `tol` and `n_iter_no_change`, and whether to restore the
        best weights.
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
        means R².
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
    Differences from scikit-learn: `warm_start` keeps the state of the optimizer; `loss_` of
    weighted samples is their weighted mean over the epoch.

    Examples
    --------
    >>> from fastnn import MLPRegressor
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(n_samples=200, n_features=20, random_state=1)
    >>> regr = MLPRegressor(engine="numpy", solver="lbfgs", random_state=1).fit(X, y)
    >>> regr.predict(X[:2]).shape
    (2,)
    >>> bool(regr.score(X, y) > 0.98)
    True
    """

    _parameter_constraints = CONSTRAINTS | {
        "loss": [StrOptions({"squared_error", "poisson", "absolute_error", "huber"})],
    }

    def __init__(
        self,
        loss: str = "squared_error",
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
        return LOSSES[self.loss]

    def _encoded(self, y: np.ndarray, new: bool, incremental: bool, name: str = "y") -> np.ndarray:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return y

    def _decoded(self, targets: np.ndarray) -> np.ndarray:
        return targets[:, 0] if targets.shape[1] == 1 else targets

    @available_if(BaseMLP._is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Update the model with a single iteration over the given data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The target values.
        sample_weight : array-like of shape (n_samples,), default=None
            Sample weights, at least 0.

        Returns
        -------
        self : object
            Trained MLP model.

        Raises
        ------
        ValueError
            If a parameter or the data are invalid, or if the weights become non-finite.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> np.ndarray:
        """Predict using the multi-layer perceptron model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The predicted values.
        """
        return self._decoded(self._predictions(X))

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: multi-output targets are supported."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
