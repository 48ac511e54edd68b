"""System calls that fail on purpose."""

import os
from collections.abc import Callable
from typing import Any


def failing(name: str, at: int, error: BaseException, calls: list[str]) -> Callable[..., Any]:
    """Return a function of `os` whose call number `at` raises an error.

    The call has no effect, but for `close`, which closes the file. `calls` receives the names.
    """
    call = getattr(os, name)

    def fail(*args: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == at:
            if name == "close":
                call(*args)
            raise error
        return call(*args, **options)

    return fail
