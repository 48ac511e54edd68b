"""Defaults that docstrings state are the defaults of the signatures."""

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any

import fastnn

LINE = re.compile(r"^ +(\w+(?:, \w+)*) : .*?default[ =](.+)$", re.M)


def documented_defaults() -> Iterator[tuple[Any, str, Any]]:
    """Yield public functions, names of parameters and their documented defaults."""
    for name in fastnn.__all__:
        thing = getattr(fastnn, name)
        members = vars(thing).items() if inspect.isclass(thing) else ()
        methods = [
            member for key, member in members if inspect.isfunction(member) and key[0] != "_"
        ]
        for function in (thing, *methods):
            for names, text in LINE.findall(getattr(function, "__doc__", "") or ""):
                values = text.split(" and ")  # beta_1, beta_2 : float, default 0.9 and 0.999
                for parameter, value in zip(names.split(", "), values, strict=True):
                    yield function, parameter, ast.literal_eval(value)


def test_documented_defaults_equal_the_signatures():
    wrong, count = [], 0
    for function, name, documented in documented_defaults():
        count += 1
        default = inspect.signature(function).parameters[name].default
        if default != documented:
            wrong.append(f"{function.__name__}: {name}={default!r}, documented as {documented!r}")
    assert not wrong
    assert count > 75
