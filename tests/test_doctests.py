"""The examples in docstrings run, and public names have examples."""

import doctest
import inspect
from importlib import import_module
from pkgutil import walk_packages

import pytest

import fastnn

MODULES = [module.name for module in walk_packages(fastnn.__path__, "fastnn.")]
WITHOUT_EXAMPLE = {"Callback", "Dataset", "EarlyStopping", "LogFile", "ProgressBar", "Schedule"}
OPTIONAL = {"fastnn.estimators.onnx_converters": "skl2onnx"}  # packages that examples need


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    assert doctest.testmod(import_module(name)).failed == 0


def test_every_public_name_has_an_example():
    """Exceptions need none."""
    missing = set()
    for name in fastnn.__all__:
        thing = getattr(fastnn, name)
        is_exception = inspect.isclass(thing) and issubclass(thing, Exception)
        if name != "__version__" and not is_exception and ">>> " not in inspect.getdoc(thing):
            missing.add(name)
    assert missing <= WITHOUT_EXAMPLE
