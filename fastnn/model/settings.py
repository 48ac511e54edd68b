"""Checks of settings: their ranges, in float32."""

from operator import index
from typing import Any

BELOW_ONE = 1 - 2**-25  # numbers from here on round to 1 in float32
LARGEST_FLOAT = 2.0**128 - 2.0**104  # largest float32
SMALLEST_NORMAL = 2.0**-126  # smallest normal float32; the kernels flush smaller numbers to 0

COUNT_LIMIT = 2**53  # integers below this are exact in float64 and JSON

_BELOW_ONE = ("momentum", "beta1", "beta2")
_POSITIVE = ("learning_rate", "eps", "input_scale")


def check_integer(value: Any, name: str, *, low: int) -> int:
    """Return a setting as an int of at least `low`, or raise a ValueError that names it."""
    try:
        number = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = -1
    if number < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
    return number


def check_setting(name: str, value: Any) -> None:
    """Raise a ValueError that names a setting, if it is out of its range in float32."""
    if isinstance(value, bool | str) or not _in_range(name, value):
        raise ValueError(f"{name} must be {_range_of(name)}, got {value!r}")
    check_normal(name, value, or_zero=name not in _POSITIVE)


def check_normal(name: str, value: Any, *, or_zero: bool = True) -> None:
    """Raise a ValueError that names a setting if it is a denormal in float32.

    Compiled kernels flush denormals to 0 and NumPy does not, so the engines would differ.
    """
    if 0 < float(value) < SMALLEST_NORMAL:
        raise ValueError(f"{name} must be {normal_range(or_zero=or_zero)}, got {value!r}")


def normal_range(*, or_zero: bool) -> str:
    """Return the text of the range that excludes denormals."""
    return f"{'0 or ' if or_zero else ''}at least {SMALLEST_NORMAL:.3g} (float32's smallest normal)"


def _range_of(name: str) -> str:
    if name in _BELOW_ONE:
        return "a number from 0 to below 1"
    return "a positive number" if name in _POSITIVE else "a number of at least 0"


def _in_range(name: str, value: Any) -> bool:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    if name in _BELOW_ONE:
        return 0 <= number < BELOW_ONE
    return 0 <= number <= LARGEST_FLOAT and (number > 0 or name not in _POSITIVE)
