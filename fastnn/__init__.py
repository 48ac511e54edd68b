"""Small neural networks on a CPU: faster than scikit-learn's, reproducible to the bit."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastnn.data.sets import Dataset as Dataset
    from fastnn.data.sets import load_dataset as load_dataset
    from fastnn.errors import CheckpointError as CheckpointError
    from fastnn.errors import DataError as DataError
    from fastnn.errors import DivergenceError as DivergenceError
    from fastnn.errors import ModelFileError as ModelFileError
    from fastnn.estimators import MLPClassifier as MLPClassifier
    from fastnn.estimators import MLPRegressor as MLPRegressor
    from fastnn.estimators.onnx_converters import (
        register_onnx_converters as register_onnx_converters,
    )
    from fastnn.loading import load as load
    from fastnn.model.optimizers import Optimizer as Optimizer
    from fastnn.model.schedules import Schedule as Schedule
    from fastnn.network import Network as Network
    from fastnn.training.callbacks import LogFile as LogFile
    from fastnn.training.callbacks import ProgressBar as ProgressBar
    from fastnn.training.checkpoint import Checkpoint as Checkpoint
    from fastnn.training.early_stopping import EarlyStopping as EarlyStopping
    from fastnn.training.fit import Callback as Callback

__version__ = "0.1.0"

# The module that defines each public name. It is imported when the name is first used.
_MODULES = {
    "Callback": "fastnn.training.fit",
    "Checkpoint": "fastnn.training.checkpoint",
    "CheckpointError": "fastnn.errors",
    "DataError": "fastnn.errors",
    "Dataset": "fastnn.data.sets",
    "DivergenceError": "fastnn.errors",
    "EarlyStopping": "fastnn.training.early_stopping",
    "LogFile": "fastnn.training.callbacks",
    "MLPClassifier": "fastnn.estimators",
    "MLPRegressor": "fastnn.estimators",
    "ModelFileError": "fastnn.errors",
    "Network": "fastnn.network",
    "Optimizer": "fastnn.model.optimizers",
    "ProgressBar": "fastnn.training.callbacks",
    "Schedule": "fastnn.model.schedules",
    "load": "fastnn.loading",
    "load_dataset": "fastnn.data.sets",
    "register_onnx_converters": "fastnn.estimators.onnx_converters",
}
__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
