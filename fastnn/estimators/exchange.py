"""Save, export, convert and pickle fitted estimators."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils.validation import check_is_fitted

from fastnn.estimators.saving import describe, restore
from fastnn.estimators.sklearn_exchange import from_sklearn, to_sklearn
from fastnn.network import Network
from fastnn.storage.model_file import model_from_network, write_model
from fastnn.storage.onnx_export import classifier_graph, regression_graph, write_onnx
from fastnn.storage.strict_json import prefix_errors
from fastnn.system.files import FilePath


class ExchangeMixin(BaseEstimator):
    """Methods of `BaseMLP` for model files, ONNX, scikit-learn's estimators and pickle."""

    classes_: np.ndarray
    _is_multilabel: bool
    _network: Network
    _update_network: Callable[[], None]
    _update_coefs: Callable[[], None]

    def save(self, path: FilePath) -> None:
        """Write the fitted estimator to a file for `fastnn.load`.

        The file holds the parameters and the fitted attributes. Parameters that JSON cannot
        express, such as callbacks, a RandomState or a function, have their defaults after
        loading. The states of the optimizer and of early stopping are not stored: further training
        starts with new ones. `fastnn.storage.model_file` documents the format.

        Parameters
        ----------
        path : str or PathLike
            The file. It is replaced completely or not at all.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ModelFileError
            If a weight is not finite, `fit` would reject a parameter, or the classes are not
            bools, numbers or strings.
        OSError
            If the file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> import fastnn
        >>> X, y = [[0.0, 0.0], [1.0, 1.0]], ["a", "b"]
        >>> clf = fastnn.MLPClassifier(solver="lbfgs", engine="numpy", random_state=0).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clf.save(f"{folder}/clf.safetensors")
        ...     loaded = fastnn.load(f"{folder}/clf.safetensors")
        >>> loaded.predict(X)
        array(['a', 'b'], dtype='<U1')
        """
        check_is_fitted(self, "_network")
        self._update_network()
        with prefix_errors(path):
            description = describe(self)
            restore([type(self)], description, self._network)  # raises the errors of `load`
        write_model(path, model_from_network(self._network, description))

    def to_onnx(self, path: FilePath) -> None:
        """Export the fitted estimator as an ONNX model.

        The input of the model is X (N, n_features) float32. The outputs of a classifier are
        `label` (N,), int64 or strings, and `probabilities` (N, n_classes) float32; for multilabel
        targets, `label` is (N, n_labels) int64. The output of a regressor is `variable`
        (N, n_outputs) float32. `fastnn.register_onnx_converters` exports pipelines.

        Parameters
        ----------
        path : str or PathLike
            The file. It is replaced completely or not at all.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ModuleNotFoundError
            If the package onnx is not installed.
        OSError
            If the file cannot be written.
        """
        check_is_fitted(self, "_network")
        write_onnx(self._onnx_graph(), path)

    def _onnx_graph(self, classes: np.ndarray | None = None) -> Any:
        """Return the ONNX graph; `classes` replaces `classes_` as the labels."""
        self._update_network()
        if not is_classifier(self):
            return regression_graph(self._network, "variable")
        if self._is_multilabel:
            return classifier_graph(self._network)
        return classifier_graph(self._network, self.classes_ if classes is None else classes)

    def to_sklearn(self) -> Any:
        """Convert the estimator to scikit-learn's fitted MLPClassifier or MLPRegressor.

        The predictions are equal up to float32 rounding. Training can continue, with a new state
        of the optimizer. Parameters that scikit-learn does not have are dropped. Values that it
        does not have and that only affect training, such as the solver 'adamw' or the Huber loss,
        are replaced by scikit-learn's defaults.

        Returns
        -------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If scikit-learn's predictions would differ: the hidden layers use GELU, leaky ReLU or
            different activations, or y had one class.

        Examples
        --------
        >>> from fastnn import MLPRegressor
        >>> regr = MLPRegressor(engine="numpy", solver="lbfgs", random_state=0)
        >>> converted = regr.fit([[0.0], [1.0]], [0.0, 1.0]).to_sklearn()
        >>> type(converted).__module__.split(".")[0]
        'sklearn'
        """
        check_is_fitted(self, "_network")
        self._update_network()
        return to_sklearn(self)

    @classmethod
    def from_sklearn(cls, fitted: Any) -> Self:
        """Convert a fitted estimator of scikit-learn.

        The predictions are equal up to float32 rounding. Parameters and fitted attributes are
        copied. Training can continue, with a new state of the optimizer.

        Parameters
        ----------
        fitted : sklearn.neural_network.MLPClassifier or MLPRegressor
            scikit-learn's estimator with the same name as this class.

        Returns
        -------
        estimator : MLPClassifier or MLPRegressor

        Raises
        ------
        TypeError
            If `fitted` is not an instance of that class.
        NotFittedError
            If `fitted` is not fitted.
        ValueError
            If `fitted` was fitted to only one class (scikit-learn then predicts two
            probabilities), or if its parameters were changed after the fit.

        Examples
        --------
        >>> from fastnn import MLPRegressor
        >>> from sklearn import neural_network
        >>> theirs = neural_network.MLPRegressor(solver="lbfgs", random_state=0)
        >>> theirs = theirs.fit([[0.0], [1.0]], [0.0, 1.0])
        >>> MLPRegressor.from_sklearn(theirs).predict([[0.5]]).shape
        (1,)
        """
        return from_sklearn(cls, fitted)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without `coefs_` and `intercepts_`, which copy the network's."""
        state = dict(super().__getstate__())
        if "_network" in state:
            self._update_network()
            for name in ("coefs_", "intercepts_", "_copies"):
                del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the attributes, including `coefs_` and `intercepts_`."""
        super().__setstate__(state)
        if "_network" in state:
            self._update_coefs()
