"""The examples in the docstrings."""

import doctest
from importlib import import_module
from pkgutil import walk_packages

import pytest

import fastnn

MODULES = [module.name for module in walk_packages(fastnn.__path__, "fastnn.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(import_module(name)).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    count = sum(len(test.examples) for name in MODULES for test in finder.find(import_module(name)))
    assert count > 5
