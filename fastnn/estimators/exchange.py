"""How a fitted estimator leaves this process, and how it comes back."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils.validation import check_is_fitted

from fastnn.estimators.saving import restored, stored_of
from fastnn.estimators.sklearn_exchange import from_sklearn, to_sklearn
from fastnn.network import Network
from fastnn.storage.model_file import model_from_network, write_model
from fastnn.storage.onnx_export import classifier_graph, regression_graph, write_onnx
from fastnn.storage.strict_json import prefix_errors
from fastnn.system.files import FilePath


class ExchangeMixin(BaseEstimator):
    """What `BaseMLP` has for pickles, for ONNX and for scikit-learn."""

    classes_: np.ndarray
    _is_multilabel: bool
    _network: Network
    _take_weights: Callable[[], None]
    _show_weights: Callable[[], None]

    def save(self, path: FilePath) -> None:
        """Write the fitted estimator to a file, which `fastnn.load` reads: whole, or not at all.

        With it come all parameters that are plain values; what is not, such as callbacks, a
        RandomState or a function, is the default when it comes back. The fitted attributes come
        too, but neither the optimizer's state nor how long early stopping has waited: a further
        fit begins anew there. `fastnn.storage.model_file` describes the file.

        Parameters
        ----------
        path : str or PathLike

        Raises
        ------
        NotFittedError
            If it is not fitted.
        ModelFileError
            If a weight is not finite, a parameter is not such as `fit` takes, or the classes are
            neither bools, numbers nor strings.
        OSError
            If the file cannot be written.
        """
        check_is_fitted(self, "_network")
        self._take_weights()
        with prefix_errors(path):
            stored = stored_of(self)
            restored([type(self)], stored, self._network)  # what is written can be read
        write_model(path, model_from_network(self._network, stored))

    def to_onnx(self, path: FilePath) -> None:
        """Write the fitted estimator as an ONNX model, as `fastnn.storage.onnx_export` says.

        It takes X (N, n_features) float32. A classifier's has the outputs `label`, int64 or
        strings (N,), of an indicator matrix int64 (N, n_labels), and `probabilities` (N,
        n_classes) float32; a regressor's has `variable` (N, n_outputs) float32.
        `fastnn.estimators.onnx_converters` exports whole pipelines.

        Parameters
        ----------
        path : str or PathLike
            The file, which is written whole or not at all.

        Raises
        ------
        ModuleNotFoundError
            If the package onnx is not installed.
        OSError
            If the file cannot be written.
        """
        check_is_fitted(self, "_network")
        write_onnx(self._onnx_graph(), path)

    def _onnx_graph(self, classes: np.ndarray | None = None) -> Any:
        """Return the graph; other labels may take the place of `classes_`."""
        self._take_weights()
        if not is_classifier(self):
            return regression_graph(self._network, "variable")
        if self._is_multilabel:
            return classifier_graph(self._network)
        return classifier_graph(self._network, self.classes_ if classes is None else classes)

    def to_sklearn(self) -> Any:
        """Return scikit-learn's fitted MLPClassifier or MLPRegressor in the place of this one.

        It predicts the same, up to float32's rounding, and can be fitted further, but for the
        state of the optimizer, which begins anew. What it has no parameter for, and what training
        alone depends on and scikit-learn does not know, such as the solver 'adamw' or Huber's
        loss, it has as scikit-learn has it by default.

        Returns
        -------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor

        Raises
        ------
        ValueError
            If scikit-learn would predict something else: it has neither GELU nor leaky ReLU, one
            activation for all layers, and two probabilities for y of one class.
        """
        check_is_fitted(self, "_network")
        self._take_weights()
        return to_sklearn(self)

    @classmethod
    def from_sklearn(cls, fitted: Any) -> Self:
        """Return an estimator that predicts what a fitted one of scikit-learn does.

        Up to float32's rounding. It has the same parameters and fitted attributes and can be
        fitted further, but for the state of the optimizer, which begins anew.

        Parameters
        ----------
        fitted : sklearn.neural_network.MLPClassifier or MLPRegressor
            Of the same kind.

        Raises
        ------
        TypeError
            If it is something else.
        NotFittedError
            If it is not fitted.
        ValueError
            If it was fitted to y of one class, for which it predicts two probabilities, or its
            parameters no longer fit its weights.
        """
        return from_sklearn(cls, fitted)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what shows the network's weights: they would be there twice."""
        state = dict(super().__getstate__())
        if "_network" in state:
            self._take_weights()
            for name in ("coefs_", "intercepts_", "_exposed"):
                del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Show the weights again."""
        super().__setstate__(state)
        if "_network" in state:
            self._show_weights()
