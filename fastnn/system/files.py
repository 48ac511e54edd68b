"""Write files atomically, and lock directories."""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FilePath = str | os.PathLike[str]

_O_BINARY = getattr(os, "O_BINARY", 0)  # on Windows
_locks: set[int] = set()  # descriptors of the directories that this process has locked


def user_cache_directory() -> Path | None:
    """Return the absolute path of fastnn's directory in this user's cache directory, or None.

    A user without a home directory, as in some containers, has no cache directory.
    """
    import platformdirs

    try:
        directory = platformdirs.user_cache_path("fastnn")
    except (RuntimeError, KeyError, OSError):  # neither HOME nor an entry in the passwd file
        return None
    return directory if directory.is_absolute() else None


def regular_mode(path: FilePath) -> int:
    """Return the permission bits of a regular file; symbolic links are followed.

    Raises
    ------
    OSError
        If it is missing, or is a directory, a pipe or a device.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
    return stat.S_IMODE(mode)


def writable_target(path: FilePath) -> tuple[str, int | None]:
    """Return the file that `write_atomically` would replace, and its permission bits, if any.

    Symbolic links are followed.

    Raises
    ------
    OSError
        If it exists and is not a regular file, or is not writable.
    """
    try:
        mode = regular_mode(path)
    except FileNotFoundError:
        if not os.path.basename(path):  # not the name of a file
            raise
        return os.path.realpath(path), None
    if not os.access(path, os.W_OK):  # its directory might allow replacing it
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
    return os.path.realpath(path), mode


def write_atomically(path: FilePath, pieces: Iterable[bytes]) -> None:
    """Create or replace a file; on any failure the previous file stays.

    The bytes go to a temporary file next to it, ``.NAME.PROCESS.RANDOM.tmp``, which is renamed once
    they are on the disk. On a failure the temporary file is removed. If the path is a symbolic
    link, the file that it points to is replaced. Permission bits are kept.

    Parameters
    ----------
    path : str or path-like
        The file.
    pieces : iterable of bytes
        The content in order.

    Raises
    ------
    OSError
        If the file cannot be written, or exists and is not a regular file. Its ``filename`` is
        the path.
    """
    target, mode = writable_target(path)
    directory, name = os.path.split(target)
    unique = f"{os.getpid()}.{secrets.token_hex(8)}"
    # A name may have 255 bytes; 50 characters take at most 200.
    temporary = os.path.join(directory, f".{name[:50]}.{unique}.tmp")
    try:
        _write_new(temporary, pieces, mode)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:  # name the path, not temporary
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    _sync_directory(directory)


def _write_new(path: str, pieces: Iterable[bytes], mode: int | None) -> None:
    """Create a file and flush it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_BINARY, 0o666)
    try:
        if mode is not None:
            os.chmod(path, mode)  # before the file has any content
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: str) -> None:
    """Flush a directory's new entry to the disk if the system supports that.

    Otherwise, a power failure may bring back the previous file, but never a part of one.
    """
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def lock_directory(directory: FilePath) -> Iterator[Callable[[], bool]]:
    """Hold an exclusive lock on a directory; it is released even if the process is killed.

    The lock is on the directory itself, not on its path. The context manager returns a function
    that tells whether the path still leads to the locked directory. Windows and some network file
    systems have no such lock; the context manager then locks nothing.

    Raises
    ------
    BlockingIOError
        If the directory is locked already, by this or another process.
    """
    try:
        import fcntl

        descriptor = os.open(directory, os.O_RDONLY)
    except (ImportError, OSError):
        yield lambda: True
        return
    _locks.add(descriptor)

    def is_in_place() -> bool:
        if descriptor not in _locks:  # a forked child holds no lock
            return True
        with suppress(FileNotFoundError):
            return os.path.samestat(os.stat(directory), os.fstat(descriptor))
        return False

    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield is_in_place
    finally:
        if descriptor in _locks:
            _locks.remove(descriptor)
            os.close(descriptor)


def _close_inherited_locks() -> None:
    """Close a parent's locks in a forked child, which would hold them if the parent dies."""
    while _locks:
        os.close(_locks.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_locks)
