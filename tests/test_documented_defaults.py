"""What a docstring calls a parameter's default is its default."""

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any

import fastnn

LINE = re.compile(r"^ +(\w+(?:, \w+)*) : .*?default[ =](.+)$", re.M)


def documented() -> Iterator[tuple[str, str, Any]]:
    """Yield public functions and their documented defaults, by the parameters' names."""
    for name in fastnn.__all__:
        thing = getattr(fastnn, name)
        members = vars(thing).items() if inspect.isclass(thing) else ()
        methods = [each for key, each in members if inspect.isfunction(each) and key[0] != "_"]
        for function in (thing, *methods):
            for names, told in LINE.findall(getattr(function, "__doc__", "") or ""):
                values = told.split(" and ")  # beta_1, beta_2 : float, default 0.9 and 0.999
                for parameter, value in zip(names.split(", "), values, strict=True):
                    yield function, parameter, ast.literal_eval(value)


def test_a_documented_default_is_the_default():
    wrong, count = [], 0
    for function, name, told in documented():
        count += 1
        default = inspect.signature(function).parameters[name].default
        if default != told:
            wrong.append(f"{function.__name__}: {name} is {default!r}, and documented as {told!r}")
    assert not wrong
    assert count > 75
