"""scikit-learn's multi-layer perceptrons on fastnn's engines: its words outside, ours inside."""

from fastnn.estimators.classifier import MLPClassifier as MLPClassifier
from fastnn.estimators.regressor import MLPRegressor as MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
