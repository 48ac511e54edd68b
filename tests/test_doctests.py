"""Every example in a docstring runs, and every public name has one."""

import doctest
import inspect
from importlib import import_module
from pkgutil import walk_packages

import pytest

import fastnn

MODULES = [module.name for module in walk_packages(fastnn.__path__, "fastnn.")]
OPTIONAL = {"fastnn.estimators.onnx_converters": "skl2onnx"}  # packages that examples need


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    assert doctest.testmod(import_module(name)).failed == 0


def test_every_public_name_has_an_example():
    names = [name for name in fastnn.__all__ if name != "__version__"]
    public = {name: getattr(fastnn, name) for name in names}
    missing = [name for name, thing in public.items() if ">>> " not in (inspect.getdoc(thing) or "")]
    assert missing == []
