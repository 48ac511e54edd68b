"""The fast engine, compiled by Numba. Read `regions` first; `gemm` has the matrix products."""

import os

from fastnn.system.address_space import check_libraries


def _check_environment() -> None:
    """Raise a ValueError or a MemoryError if Numba cannot be imported."""
    text = os.environ.get("NUMBA_NUM_THREADS", "").strip()
    if text and not (text.isdecimal() and int(text) > 0):
        raise ValueError(f"NUMBA_NUM_THREADS must be a whole number of at least 1, got {text!r}")
    check_libraries("numba")


_check_environment()
