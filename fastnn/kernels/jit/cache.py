"""Where compiled kernels are kept from one process to the next.

The directory's name is a hash of the code that the kernels are compiled from and of the processor
that they are compiled for: a change anywhere compiles anew. Numba's own cache follows one source
file.

Files in the directory are executed, so it is used only if nobody but this user and root can change
its content: it belongs to one of the two, and group and others cannot write to it. Another user
must not be able to replace it either:

- The parent of this user's own directory belongs to this user or to root, and others cannot
  replace an entry in it: they cannot write to it, or it is sticky, as /tmp is.
- For a directory of root's, as in a container image (`fastnn.warm`), this holds for all parents up
  to the root directory, and for their groups as well as for others. The path has no symbolic
  links, which another user could redirect.

The same rule applies to each file. It begins with a hash of its content, so that a damaged file is
not executed.
"""

import hashlib
import os
import pickle
import pkgutil
import re
import shutil
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any

import numba
from numba import config
from numba.core import caching
from numba.core.serialize import dumps

from fastnn import epoch as batches
from fastnn import kernels
from fastnn.kernels.jit.simd import CPU, FEATURES
from fastnn.model import layers, losses, randomness
from fastnn.system.files import user_cache_directory, write_atomically

KEPT_DAYS = 90  # the kernels of other versions and processors, after their last use
OTHER_MODULES = (kernels, batches, layers, losses, randomness)  # whose constants kernels contain
_CODE_PARTS = ("name", "code", "consts", "names", "varnames", "freevars", "cellvars", "flags") + (
    "argcount", "posonlyargcount", "kwonlyargcount", "exceptiontable")  # fmt: skip
_HASH_BYTES = hashlib.sha256().digest_size
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_told: set[str] = set()


@cache
def source_hash() -> str:
    """Hash all code that the kernels depend on, and the target for which they are compiled.

    The code may be in source files, in a zip file, or bytecode alone, as in a frozen program.
    """
    target = numba.__version__, sys.implementation.cache_tag, CPU, sorted(FEATURES)
    digest = hashlib.sha256(repr(target).encode())
    names = {module.name for module in pkgutil.walk_packages(kernels.__path__, "fastnn.kernels.")}
    for name in sorted(names | {module.__name__ for module in OTHER_MODULES}):
        loader: Any = find_spec(name).loader
        source = loader.get_source(name)
        content = code_text(loader.get_code(name)) if source is None else source
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()[:16]


def code_text(code: CodeType) -> str:
    """Return bytecode as text, without its file name and line numbers."""

    def text(value: Any) -> str:
        if isinstance(value, CodeType):
            return code_text(value)
        if isinstance(value, tuple):
            return f"({', '.join(map(text, value))})"
        if isinstance(value, frozenset):  # their order differs from process to process
            return f"{{{', '.join(sorted(map(text, value)))}}}"
        return repr(value)

    return text(tuple(getattr(code, f"co_{part}") for part in _CODE_PARTS))


def cache_directory() -> Path | None:
    """Return the directory of the kernels' machine code, or None; NUMBA_CACHE_DIR moves it."""
    root = Path(config.CACHE_DIR) if config.CACHE_DIR else user_cache_directory()
    try:
        return None if root is None else root.resolve() / f"kernels-{source_hash()}"
    except (OSError, RuntimeError):  # the current directory was deleted; links form a circle
        return None


def is_cached() -> bool:
    """Return whether an earlier process left compiled kernels of this version."""
    directory = cache_directory()
    return directory is not None and not _fault(directory) and any(directory.glob("*.kernel"))


def usable() -> bool:
    """Return whether kernels can be kept; warn once if they cannot."""
    if why := obstacle():
        _tell_unkept(why)
    return not why


def obstacle() -> str:
    """Make the directory; return why kernels cannot be kept in it, or ""."""
    directory = cache_directory()
    if directory is None:
        return "compiled kernels cannot be kept: this user has no home directory"
    with suppress(OSError):  # `_fault` finds the reason
        if not directory.exists():
            make(directory)
            _remove_old(directory)
    fault = _fault(directory)
    return fault and f"compiled kernels cannot be kept in {directory}: {fault}"


def _tell_unkept(why: str) -> None:
    tell(
        f"{why}; every process will take some seconds to start, unless NUMBA_CACHE_DIR names a "
        "folder of your own"
    )


def tell(message: str) -> None:
    """Warn of what makes a start slow, once."""
    if message not in _told:
        _told.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def make(directory: Path, mode: int = 0o700) -> None:
    """Make a directory and its missing parents with these permissions, whatever the umask."""
    if not directory.parent.exists():
        make(directory.parent, mode)
    with suppress(FileExistsError):
        directory.mkdir(mode)
        directory.chmod(mode)


def make_shared(root: Path) -> None:
    """Make a directory that all users can read, and keep the kernels in it."""
    config.CACHE_DIR = str(root)
    if directory := cache_directory():
        make(directory, 0o755)


def share(directory: Path) -> None:
    """Let all users read the kernels in a directory, which may have been private."""
    directory.chmod(0o755)
    for path in directory.glob("*.kernel"):
        path.chmod(0o644)


def _fault(directory: Path) -> str:
    """Say why a directory is not fit for what will be executed, if it is not."""
    try:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return "it is not a directory"
        if hasattr(os, "getuid"):
            if not _is_owners_or_roots(status):
                return "it belongs to another user"
            if status.st_mode & _OTHERS_WRITE:
                return "other users can write to it"
            if _is_replaceable(directory, own=status.st_uid == os.getuid()):
                return "another user could put a directory in its place"
    except OSError as error:
        return f"it cannot be made or read ({error.strerror})"
    return "" if os.access(directory, os.R_OK | os.X_OK) else "it cannot be read"


def _is_owners_or_roots(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.getuid())


def _is_replaceable(directory: Path, *, own: bool) -> bool:
    """Return whether another user could replace a directory or, if it is root's, a parent of it."""
    for above in directory.parents[: 1 if own else None]:
        status = above.lstat()
        open_to_others = status.st_mode & (stat.S_IWOTH if own else _OTHERS_WRITE)
        if open_to_others and not status.st_mode & stat.S_ISVTX:
            return True
        if not _is_owners_or_roots(status):
            return True
    return False


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


class _Locator(caching._CacheLocator):
    """Gives Numba fastnn's cache directory, which has been checked."""

    def __init__(self, function: Callable) -> None:
        self._function = function

    @classmethod
    def from_function(cls, function: Callable, file: str) -> "_Locator":
        """Return a locator, even if the function has no source file."""
        return cls(function)

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def ensure_cache_path(self) -> None:
        """Leave the directory as it is."""

    def get_source_stamp(self) -> str:
        """Return nothing: the directory's name has it."""
        return ""

    def get_disambiguator(self) -> str:
        """Return a hash that distinguishes functions of the same name."""
        text = self._function.__module__ + code_text(self._function.__code__)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


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
            with path.open("rb") as file:
                status, content = os.fstat(file.fileno()), file.read()
        except FileNotFoundError:
            return None
        if hasattr(os, "getuid"):
            if not _is_owners_or_roots(status) or status.st_mode & _OTHERS_WRITE:
                tell(f"other users can write to kernels in {path.parent}: they are compiled anew")
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
            write_atomically(path, [hashlib.sha256(content).digest(), content])
            path.chmod(0o600 | path.parent.stat().st_mode & _OTHERS_READ)
        except OSError as error:  # a read-only cache can still be read
            _tell_unkept(f"compiled kernels cannot be kept in {path.parent}: {error.strerror}")


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
