"""Calls of the system that fail on purpose."""

import os
from collections.abc import Callable
from typing import Any


def failing(name: str, at: int, error: BaseException, made: list[str]) -> Callable[..., Any]:
    """Return a function of `os` whose call number `at` fails, having done nothing but to close."""
    call = getattr(os, name)

    def fail(*args: Any, **options: Any) -> Any:
        made.append(name)
        if len(made) == at:
            if name == "close":
                call(*args)
            raise error
        return call(*args, **options)

    return fail
