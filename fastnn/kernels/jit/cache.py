"""The cache of compiled kernels on disk.

The name of its directory contains a hash of the source code of all kernels and of the processor, so
kernels are recompiled after any change. (Numba's own cache checks only the file of the compiled
function.)

The files in the directory are executed. Therefore the directory is used only if no user other than
this one and root can change it: it belongs to one of the two, and neither its group nor others can
write to it. Another user must not be able to replace it either:

- If the directory belongs to this user, its parent belongs to this user or root, and others cannot
  replace entries in it: they cannot write to it, or it is sticky, as /tmp is.
- If the directory belongs to root, as in a container image (see `fastnn.warm`), this holds for all
  parents up to the root directory, and for their groups too. The path has no symbolic links.

The same rule applies to each file. A file starts with a hash of its content, so that a damaged file
is not executed.
"""

import hashlib
import os
import pickle
import pkgutil
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

from fastnn import epoch, kernels
from fastnn.kernels.jit.simd import CPU, CPU_FEATURES
from fastnn.model import layers, losses, randomness
from fastnn.system.files import user_cache_directory, write_atomically

MAX_UNUSED_DAYS = 90  # directories of other versions and processors are removed after this time
OTHER_MODULES = (kernels, epoch, layers, losses, randomness)  # kernels contain their constants
_CODE_PARTS = ("name", "code", "consts", "names", "varnames", "freevars", "cellvars", "flags") + (
    "argcount", "posonlyargcount", "kwonlyargcount", "exceptiontable")  # fmt: skip
_HASH_BYTES = hashlib.sha256().digest_size
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_warnings: set[str] = set()  # given before


@cache
def source_hash() -> str:
    """Return a hash of the code that the kernels depend on, and of the target processor.

    The code is read from source files or a zip file; in a frozen program, it is the bytecode.
    """
    target = numba.__version__, sys.implementation.cache_tag, CPU, sorted(CPU_FEATURES)
    digest = hashlib.sha256(repr(target).encode())
    names = {module.name for module in pkgutil.walk_packages(kernels.__path__, "fastnn.kernels.")}
    for name in sorted(names | {module.__name__ for module in OTHER_MODULES}):
        loader: Any = find_spec(name).loader
        source = loader.get_source(name)
        content = code_text(loader.get_code(name)) if source is None else source
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()[:16]


def code_text(code: CodeType) -> str:
    """Return bytecode as text, without file names and line numbers."""

    def text(value: Any) -> str:
        if isinstance(value, CodeType):
            return code_text(value)
        if isinstance(value, tuple):
            return f"({', '.join(map(text, value))})"
        if isinstance(value, frozenset):  # the order differs between processes
            return f"{{{', '.join(sorted(map(text, value)))}}}"
        return repr(value)

    return text(tuple(getattr(code, f"co_{part}") for part in _CODE_PARTS))


def cache_directory() -> Path | None:
    """Return the directory of the cache, or None if there is none.

    It is in NUMBA_CACHE_DIR, or else in the user's cache directory.
    """
    root = Path(config.CACHE_DIR) if config.CACHE_DIR else user_cache_directory()
    try:
        return None if root is None else root.resolve() / f"kernels-{source_hash()}"
    except (OSError, RuntimeError):  # the current directory was deleted; a loop of links
        return None


def is_cached(count: int) -> bool:
    """Return whether the cache contains this number of kernels of this version, or more."""
    directory = cache_directory()
    is_safe = directory is not None and not _fault(directory)
    return is_safe and len(list(directory.glob("*.kernel"))) >= count


def is_usable() -> bool:
    """Return whether kernels can be cached; warn once if they cannot."""
    if fault := prepare_directory():
        _warn_not_cached(fault)
    return not fault


def prepare_directory() -> str:
    """Create the directory; return why kernels cannot be cached in it, or ""."""
    directory = cache_directory()
    if directory is None:
        return "compiled kernels cannot be cached: this user has no home directory"
    with suppress(OSError):  # `_fault` finds the reason
        if not directory.exists():
            make_directory(directory)
            _remove_old(directory)
    fault = _fault(directory)
    return fault and f"compiled kernels cannot be cached in {directory}: {fault}"


def _warn_not_cached(fault: str) -> None:
    warn_once(
        f"{fault}; every process will take a few seconds to start, unless NUMBA_CACHE_DIR names a "
        "directory of your own"
    )


def warn_once(message: str) -> None:
    """Give a RuntimeWarning, unless the same one was given before."""
    if message not in _warnings:
        _warnings.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def make_directory(directory: Path, mode: int = 0o700) -> None:
    """Create a directory and its missing parents with a mode, whatever the umask."""
    if not directory.parent.exists():
        make_directory(directory.parent, mode)
    with suppress(FileExistsError):
        directory.mkdir(mode)
        directory.chmod(mode)


def make_shared(root: Path) -> None:
    """Create a cache below `root` that all users can read, and use it from here on."""
    config.CACHE_DIR = str(root)
    if directory := cache_directory():
        make_directory(directory, 0o755)


def share(directory: Path) -> None:
    """Make a directory and the kernels in it readable for all users."""
    directory.chmod(0o755)
    for path in directory.glob("*.kernel"):
        path.chmod(0o644)


def _fault(directory: Path) -> str:
    """Return why files in a directory must not be executed, or ""."""
    try:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return "it is not a directory"
        if hasattr(os, "getuid"):
            if not _belongs_to_user_or_root(status):
                return "it belongs to another user"
            if status.st_mode & _OTHERS_WRITE:
                return "other users can write to it"
            if _is_replaceable(directory, own=status.st_uid == os.getuid()):
                return "another user could put a directory in its place"
    except OSError as error:
        return f"it cannot be created or read ({error.strerror})"
    return "" if os.access(directory, os.R_OK | os.X_OK) else "it cannot be read"


def _belongs_to_user_or_root(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.getuid())


def _is_replaceable(directory: Path, *, own: bool) -> bool:
    """Return whether another user could replace a directory or, if it is root's, its parents."""
    for parent in directory.parents[: 1 if own else None]:
        status = parent.lstat()
        open_to_others = status.st_mode & (stat.S_IWOTH if own else _OTHERS_WRITE)
        if open_to_others and not status.st_mode & stat.S_ISVTX:
            return True
        if not _belongs_to_user_or_root(status):
            return True
    return False


def _remove_old(directory: Path) -> None:
    """Remove directories of other versions that were not used for a long time."""
    oldest = time.time() - MAX_UNUSED_DAYS * 86_400
    for other in directory.parent.glob("kernels-" + 16 * "[0-9a-f]"):
        with suppress(OSError):
            if other != directory and other.lstat().st_mtime < oldest:
                shutil.rmtree(other, ignore_errors=True)  # not a link


class _Locator(caching._CacheLocator):
    """The place of the cache as Numba asks for it: `cache_directory`, which is already checked."""

    def __init__(self, function: Callable) -> None:
        self._function = function

    @classmethod
    def from_function(cls, function: Callable, file: str) -> "_Locator":
        """Return a locator, even if the function has no source file."""
        return cls(function)

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def ensure_cache_path(self) -> None:
        """Do nothing: the directory exists."""

    def get_source_stamp(self) -> str:
        """Return nothing: the name of the directory contains the hash of the source."""
        return ""

    def get_disambiguator(self) -> str:
        """Return a hash that distinguishes functions of the same name."""
        return hashlib.sha256(code_text(self._function.__code__).encode()).hexdigest()[:8]


class _KernelFile:
    """The cached machine code of a function, in one file.

    Numba uses two files, an index and the code, which concurrent processes can mix up.
    """

    def __init__(self, cache_path: str, filename_base: str, source_stamp: str) -> None:
        self._start = f"{cache_path}{os.sep}{filename_base}"

    def _path(self, key: Any) -> Path:
        return Path(f"{self._start}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.kernel")

    def load(self, key: Any) -> Any:
        """Return the saved data; None if there is no file, or it is damaged or unsafe."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                status, content = os.fstat(file.fileno()), file.read()
        except FileNotFoundError:
            return None
        if hasattr(os, "getuid"):
            if not _belongs_to_user_or_root(status) or status.st_mode & _OTHERS_WRITE:
                warn_once(
                    f"kernels in {path.parent} belong to or can be written by other users: "
                    "they are recompiled"
                )
                return None
        saved = content[_HASH_BYTES:]
        if hashlib.sha256(saved).digest() != content[:_HASH_BYTES]:
            warn_once(f"compiled kernels in {path.parent} are damaged: they are recompiled")
            return None
        with suppress(OSError):
            os.utime(path.parent)  # marks it as used
        return pickle.loads(saved)

    def save(self, key: Any, data: Any) -> None:
        """Write the file, or replace a damaged one; warn once if that fails."""
        content, path = dumps(data), self._path(key)
        try:
            write_atomically(path, [hashlib.sha256(content).digest(), content])
            path.chmod(0o600 | path.parent.stat().st_mode & _OTHERS_READ)
        except OSError as error:  # a read-only cache can still be read
            _warn_not_cached(
                f"compiled kernels cannot be cached in {path.parent}: {error.strerror}"
            )


_NUMBA_SETTINGS: tuple[tuple[Any, str, Any], ...] = (
    (config, "CACHE_LOCATOR_CLASSES", ""),  # not in older versions
    (caching.CacheImpl, "_locator_classes", [_Locator]),
    (caching, "IndexDataCacheFile", _KernelFile),
)


@contextmanager
def numba_cache() -> Iterator[None]:
    """Make Numba use this cache inside the context."""
    before = [getattr(owner, name, None) for owner, name, _ in _NUMBA_SETTINGS]
    try:
        for owner, name, value in _NUMBA_SETTINGS:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(_NUMBA_SETTINGS, before, strict=True):
            setattr(owner, name, value)
