"""Where compiled kernels are kept from one process to the next.

In a directory named by the hash of all that they are made of and of the processor they are made
for: a change anywhere compiles anew. It is private to the user, because what it holds is
executed, and every file begins with a hash, because one that is damaged would be executed, too.
Numba's own cache follows one source file, and knows neither rule.
"""

import hashlib
import os
import pickle
import re
import shutil
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import config
from numba.core import caching
from numba.core.serialize import dumps
from platformdirs import user_cache_path

from fastnn import batches, layers, losses, randomness
from fastnn.files import write_whole
from fastnn.kernels._simd import CPU, FEATURES

KEPT_DAYS = 90  # the kernels of other versions and processors, after their last use
_HASH_BYTES = hashlib.sha256().digest_size
_told: set[str] = set()


@cache
def source_hash() -> str:
    """Hash every file that compiled code can depend on, and what it is compiled for."""
    digest = hashlib.sha256(repr((numba.__version__, CPU, sorted(FEATURES))).encode())
    elsewhere = [Path(str(module.__file__)) for module in (batches, layers, losses, randomness)]
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *elsewhere]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_directory() -> Path:
    """Where these kernels' machine code is kept; NUMBA_CACHE_DIR moves it."""
    root = Path(config.CACHE_DIR).absolute() if config.CACHE_DIR else user_cache_path("fastnn")
    return root / f"kernels-{source_hash()}"


def is_cached() -> bool:
    """Return whether an earlier process left compiled kernels of this version."""
    directory = cache_directory()
    return not _fault(directory) and any(directory.glob("*.kernel"))


def usable() -> bool:
    """Make the directory, and return whether it is fit for kernels; if not, say so once."""
    directory = cache_directory()
    with suppress(OSError):  # which shows in what is there
        if directory.is_absolute() and not directory.exists():
            _make(directory)
            _remove_old(directory)
    if fault := _fault(directory):
        _tell_unkept(directory, fault)
    return not fault


def _tell_unkept(directory: Path, why: str) -> None:
    tell(
        f"compiled kernels cannot be kept in {directory}: {why}; every process will take some "
        "seconds to start, unless NUMBA_CACHE_DIR names a folder of your own"
    )


def tell(message: str) -> None:
    """Warn of what makes a start slow, once."""
    if message not in _told:
        _told.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def _make(directory: Path) -> None:
    """Make a directory, and those above it, for this user alone, whatever the umask."""
    if not directory.parent.exists():
        _make(directory.parent)
    with suppress(FileExistsError):
        directory.mkdir(0o700)
        directory.chmod(0o700)


def _fault(directory: Path) -> str:
    """Say why a directory is not fit for what will be executed, if it is not."""
    if not directory.is_absolute():  # as platformdirs has it then
        return "this user has no home directory"
    try:
        own, above = directory.lstat(), directory.parent.stat()
    except OSError as error:
        return f"it cannot be made or read ({error.strerror})"
    if not stat.S_ISDIR(own.st_mode):
        return "it is not a directory"
    if hasattr(os, "getuid"):
        if own.st_uid != os.getuid():
            return "it belongs to another user"
        if own.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return "its mode is not 0700"
        replaceable = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
        if replaceable or above.st_uid not in (os.getuid(), 0):
            return "another user could put a directory in its place"
    return "" if os.access(directory, os.R_OK | os.X_OK) else "it cannot be read"


def _remove_old(directory: Path) -> None:
    """Remove what other versions have left beside a new directory and long not used."""
    for other in directory.parent.iterdir():
        if not re.fullmatch("kernels-[0-9a-f]{16}", other.name) or other == directory:
            continue
        with suppress(OSError):
            status = other.lstat()
            old = status.st_mtime < time.time() - KEPT_DAYS * 86_400
            if old and stat.S_ISDIR(status.st_mode):
                shutil.rmtree(other, ignore_errors=True)


class _Locator(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):
    """Tells Numba of our directory, which has been checked."""

    def __init__(self, function: Callable, file: str) -> None:
        self._lineno = function.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def ensure_cache_path(self) -> None:
        """Leave the directory as it is."""

    def get_source_stamp(self) -> str:
        """Return nothing: the directory's name has it."""
        return ""


class _KernelFile:
    """What Numba keeps of a function, a file for each processor.

    Numba would have two, an index and the code, which several processes at once can mix up.
    """

    def __init__(self, cache_path: str, filename_base: str, source_stamp: str) -> None:
        self._start = f"{cache_path}{os.sep}{filename_base}"

    def _path(self, key: Any) -> Path:
        return Path(f"{self._start}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.kernel")

    def load(self, key: Any) -> Any:
        """Return what was saved; None if there is nothing, or it is damaged."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        saved = content[_HASH_BYTES:]
        if hashlib.sha256(saved).digest() != content[:_HASH_BYTES]:
            tell(f"compiled kernels in {path.parent} are damaged, and are compiled anew")
            return None
        with suppress(OSError):
            os.utime(path.parent)  # it is in use
        return pickle.loads(saved)

    def save(self, key: Any, data: Any) -> None:
        """Write a file, or put it in a damaged one's place; say so once if that cannot be."""
        content, path = dumps(data), self._path(key)
        try:
            write_whole(path, [hashlib.sha256(content).digest(), content])
            path.chmod(0o600)
        except OSError as error:  # what an image of a system brings can be read all the same
            _tell_unkept(path.parent, str(error.strerror))


_OURS: tuple[tuple[Any, str, Any], ...] = (
    (config, "CACHE_LOCATOR_CLASSES", ""),  # a user's, which older Numbas do not know
    (caching.CacheImpl, "_locator_classes", [_Locator]),
    (caching, "IndexDataCacheFile", _KernelFile),
)


@contextmanager
def numba_cache() -> Iterator[None]:
    """Have Numba use our directory and files while something is compiled."""
    before = [getattr(owner, name, None) for owner, name, _ in _OURS]
    try:
        for owner, name, value in _OURS:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(_OURS, before, strict=True):
            setattr(owner, name, value)
