"""scikit-learn's multi-layer perceptrons on fastnn's engines: its words outside, ours inside."""

from fastnn.system.address_space import check_libraries

check_libraries("numpy", "sklearn")  # before they are imported

from fastnn.estimators.classifier import MLPClassifier as MLPClassifier  # noqa: E402
from fastnn.estimators.regressor import MLPRegressor as MLPRegressor  # noqa: E402

__all__ = ["MLPClassifier", "MLPRegressor"]
