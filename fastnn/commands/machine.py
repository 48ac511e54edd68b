"""The processor and the software of a run."""

import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def cpu_name() -> str:
    """Return the name of the processor, or at least its architecture."""
    name = ""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True).stdout
    with suppress(OSError):  # the file is Linux's
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next((line.partition(":")[2] for line in lines if "model name" in line), "")
    name = name or platform.processor()
    return " ".join(name.split()) or platform.machine() or "unknown processor"


def versions() -> dict[str, str]:
    """Return the versions of fastnn, Python, NumPy, Numba and scikit-learn."""
    from importlib.metadata import PackageNotFoundError, version

    from fastnn import __version__

    found = {"fastnn": __version__, "python": platform.python_version()}
    for package in ("numpy", "numba", "scikit-learn"):
        with suppress(PackageNotFoundError):  # the reference engine only needs NumPy
            found[package] = version(package)
    return found
