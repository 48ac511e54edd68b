"""scikit-learn's MLPClassifier and MLPRegressor, trained by fastnn's engines."""

from fastnn.system.address_space import check_libraries

check_libraries("numpy", "sklearn")  # before the imports below need their memory

from fastnn.estimators.classifier import MLPClassifier as MLPClassifier  # noqa: E402
from fastnn.estimators.regressor import MLPRegressor as MLPRegressor  # noqa: E402

__all__ = ["MLPClassifier", "MLPRegressor"]
