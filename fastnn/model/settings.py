"""Check settings: whether they are in range and float32 can represent them."""

from numbers import Real
from operator import index
from typing import Any

BELOW_ONE = 1 - 2**-25  # float32 rounds this and larger numbers below 1 to 1
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


def check_number(name: str, value: Any, *, limit: float | None = None) -> None:
    """Raise a ValueError unless a setting is a number of at least 0 and less than `limit`."""
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    if not is_real or not value >= 0 or (limit is not None and value >= limit):
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def check_setting(name: str, value: Any) -> None:
    """Raise a ValueError that names a setting, if it is out of its range in float32."""
    below_one, positive = name in _BELOW_ONE, name in _POSITIVE
    try:
        number = -1.0 if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        number = -1.0
    too_large = number >= BELOW_ONE if below_one else number > LARGEST_FLOAT
    if too_large or not number >= 0 or (positive and number == 0):
        text = "positive number" if positive else "number of at least 0"
        text = "number of at least 0 and less than 1" if below_one else text
        raise ValueError(f"{name} must be a {text}, got {value!r}")
    check_normal(name, value, or_zero=not positive)


def check_normal(name: str, value: Any, *, or_zero: bool = True) -> None:
    """Raise a ValueError that names a setting if it is a denormal in float32.

    Compiled kernels flush denormals to 0 and NumPy does not, so the engines would differ.
    """
    if 0 < float(value) < SMALLEST_NORMAL:
        raise ValueError(f"{name} must be {normal_range(or_zero=or_zero)}, got {value!r}")


def normal_range(*, or_zero: bool) -> str:
    """Return a text for the range without float32's denormals."""
    return f"{'0 or ' if or_zero else ''}at least {SMALLEST_NORMAL:.3g} (float32's smallest normal)"
