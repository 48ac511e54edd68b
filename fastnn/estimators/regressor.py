"""A multi-layer perceptron that predicts numbers."""

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
    """Multi-layer perceptron regressor: scikit-learn's, on fastnn's engines.

    All of scikit-learn's parameters, methods and attributes are here and mean the same. The
    arithmetic is in float32; weights and answers are float64 all the same, where X is not float32.

    Parameters
    ----------
    loss : {'squared_error', 'poisson', 'absolute_error', 'huber'}, default='squared_error'
        What is minimised: half the squared error, half the Poisson deviance of the exponential
        of the outputs, the absolute error, or Huber's loss with its bend at 1.
    hidden_layer_sizes : int or array-like of int, default=(100,)
        The width of each hidden layer.
    activation : {'identity', 'logistic', 'tanh', 'relu', 'leaky_relu', 'gelu'}, default='relu'
        The activation function of the hidden layers.
    solver : {'lbfgs', 'sgd', 'momentum', 'nesterov', 'adam', 'adamw'}, default='adam'
        The optimizer. 'sgd' has the momentum that `momentum` and `nesterovs_momentum` say;
        'momentum' and 'nesterov' are 'sgd' whatever the latter says. 'adamw' is 'adam' with
        `weight_decay`. 'lbfgs' takes all samples at once.
    alpha : float, default=0.0001
        Strength of the L2 penalty ``alpha / 2 * ||w||^2``, which the samples of a batch share.
        It holds for 'adamw' too: 0 leaves the weight decay alone.
    batch_size : int or 'auto', default='auto'
        Samples that an update learns from; 'auto' is ``min(200, n_samples)``. Not for 'lbfgs'.
    learning_rate : {'constant', 'invscaling', 'adaptive', 'cosine', 'one_cycle'} or \
            Schedule, default='constant'
        How the learning rate changes. 'invscaling' divides it by ``(t_ + 1) ** power_t`` when an
        epoch begins, 'adaptive' by 5 whenever training has stopped to improve; both do nothing
        to 'adam' and 'adamw', as in scikit-learn. 'cosine' and 'one_cycle' span `max_iter`
        epochs of any optimizer but 'lbfgs', and only early stopping ends them before. A
        `fastnn.Schedule` has a warm-up too, and always counts.
    learning_rate_init : float, default=0.001
        The learning rate to begin with. Not for 'lbfgs'.
    power_t : float, default=0.5
        The exponent of 'invscaling'.
    max_iter : int, default=200
        Epochs, at most; of 'lbfgs', iterations.
    shuffle : bool, default=True
        Whether to take the samples in another order every epoch.
    random_state : int, RandomState instance, default=None
        Decides the initial weights, which are scikit-learn's, the order of the samples, what
        is set aside for validation and what dropout drops. An int gives the same bits every
        time, on any number of threads.
    tol : float, default=1e-4
        Training ends once the loss, or with early stopping the validation score, has not
        improved by this for more than `n_iter_no_change` epochs. 'lbfgs' ends where no
        component of the gradient is larger.
    verbose : bool, default=False
        Whether to print the loss of every epoch.
    warm_start : bool, default=False
        Whether a further call of `fit` goes on where the last one ended, with the optimizer's
        state, or begins anew.
    momentum : float, default=0.9
        Momentum of 'sgd', 'momentum' and 'nesterov', from 0 to 1.
    nesterovs_momentum : bool, default=True
        Whether the momentum of 'sgd' is Nesterov's.
    early_stopping : bool or EarlyStopping, default=False
        Whether to set a fraction of the data aside, and to end once the score on it stops
        improving, with the weights of the best epoch. A `fastnn.EarlyStopping` says which figure
        is monitored ("val_score", "val_loss", "val_r2" or "loss"), the patience, the least
        improvement, and whether the best weights are restored, in place of `tol` and
        `n_iter_no_change`. True does nothing to 'lbfgs', as in scikit-learn.
    validation_fraction : float, default=0.1
        The fraction that is set aside where early stopping needs one and `fit` gets no data to
        validate on.
    beta_1, beta_2 : float, default=0.9 and 0.999
        How slowly Adam's means of the gradient and of its square decay, from 0 to below 1.
    epsilon : float, default=1e-8
        What Adam adds to the root of the latter.
    n_iter_no_change : int, default=10
        Epochs without improvement that are put up with.
    max_fun : int, default=15000
        How often 'lbfgs' may compute the loss.
    weight_decay : float, default=None
        Decoupled weight decay of all optimizers but 'lbfgs'; None is 0.01 for 'adamw', else 0.
    weight_init : {'glorot_uniform', 'he_normal'}, default='glorot_uniform'
        How initial weights are drawn: as scikit-learn draws them, or normally with variance
        ``2 / fan_in`` and biases 0, which suits 'relu'.
    dropout : float or array-like of float, default=0.0
        The share of values that training sets to 0: of every hidden layer's outputs, or, of the
        input and then of each hidden layer.
    scoring : str, callable or None, default=None
        What "val_score" and `validation_scores_` measure: a scorer as scikit-learn has them;
        None is the R².
    callbacks : list of Callback, default=None
        `fastnn.Callback`s that watch the fit; `set_callbacks` takes scikit-learn's own.
    engine : {'numba', 'numpy'}, default='numba'
        The fast engine or the reference.
    n_threads : int, default=None
        Threads of the Numba engine, at most; None is all that the process may use, and as few
        as are fastest.

    Attributes
    ----------
    loss_ : float
        The loss of the last epoch: the mean over its batches, each measured before its update.
    best_loss_ : float or None
        The lowest loss of an epoch; None with early stopping.
    loss_curve_ : list of float
        The loss of every epoch of every call.
    validation_scores_ : list of float or None
        The validation score after every epoch, if there was validation.
    best_validation_score_ : float or None
        The highest of them.
    history_ : dict of str to list of float
        All figures of every epoch, as `fastnn.Network.fit` names them.
    t_ : int
        The number of training samples seen; 'lbfgs' counts none.
    coefs_, intercepts_ : list of ndarray
        The weights (fan_in, fan_out) and biases (fan_out,) of each layer, float32 if X was,
        else (uint8, integers and float16 too) float64. Writing to one of these arrays is an
        error; putting another in its place is not, and predictions follow it. To callbacks they
        are those that the fit began with, until it ends; predictions are always up to date.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if X had any that are all strings.
    n_iter_ : int
        Epochs, or iterations, of the last call.
    n_layers_ : int
        Number of layers, input and output among them.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        The activation function of the outputs.

    Notes
    -----
    Where it departs from scikit-learn: `warm_start` keeps the optimizer's state; the loss of
    weighted samples is their weighted mean over the epoch.

    Examples
    --------
    >>> from fastnn import MLPRegressor
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(n_samples=200, n_features=20, random_state=1)
    >>> regr = MLPRegressor(engine="numpy", max_iter=2000, tol=0.1, random_state=1).fit(X, y)
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
            How much each sample counts, at least 0.

        Returns
        -------
        self : object
            The trained estimator.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> np.ndarray:
        """Predict the target values of samples.

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
        """Say that several outputs at once can be learned."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
