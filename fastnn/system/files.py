"""Files that are replaced whole or not at all: whatever happens, no half of one is ever seen."""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FilePath = str | os.PathLike[str]

_BINARY = getattr(os, "O_BINARY", 0)  # of Windows alone
_locks: set[int] = set()  # descriptors of the folders that this process is alone in


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
    """Return the permission bits of a file; links are followed.

    Raises
    ------
    OSError
        If it is missing, or a folder, a pipe or a device.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
    return stat.S_IMODE(mode)


def writable_target(path: FilePath) -> tuple[str, int | None]:
    """Return the file that `write_atomically` would replace, and its permission bits, if any.

    Raises
    ------
    OSError
        If it is there and is not a regular file, or is not to be written.
    """
    try:
        mode = regular_mode(path)
    except FileNotFoundError:
        if not os.path.basename(path):  # nothing that a file can be called
            raise
        return os.path.realpath(path), None
    if not os.access(path, os.W_OK):  # its folder might let it be replaced all the same
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
    return os.path.realpath(path), mode


def write_atomically(path: FilePath, pieces: Iterable[bytes]) -> None:
    """Write a file, or put it in another's place, in one go.

    The bytes go to a temporary file beside it, ``.NAME.PROCESS.RANDOM.tmp``, which takes its name
    once they are on the disk. However this fails, the temporary file is removed and what was
    there before stays. Of a symbolic link, the file that it leads to is replaced. Permission bits
    stay what they were.

    Raises
    ------
    OSError
        If the file cannot be written, or is there and is not a regular file; its ``filename`` is
        the path.
    """
    target, mode = writable_target(path)
    folder, name = os.path.split(target)
    # A name may have 255 bytes: 50 characters of it are 200 at most.
    unique = f"{os.getpid()}.{secrets.token_hex(8)}"
    temporary = os.path.join(folder, f".{name[:50]}.{unique}.tmp")
    try:
        _write_new(temporary, pieces, mode)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            # The name of the temporary file, or none, would tell nobody what is meant.
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    _sync_folder(folder)


def _write_new(path: str, pieces: Iterable[bytes], mode: int | None) -> None:
    """Write a file that is not there yet, down to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        if mode is not None:
            os.chmod(path, mode)  # before there is anything to be seen
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: str) -> None:
    """Put a folder's new entry on the disk, where the system can.

    Where it cannot, the file is whole all the same: after a power failure it may be the old one.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def lock_directory(folder: FilePath) -> Iterator[Callable[[], bool]]:
    """Hold an exclusive lock on a directory; it is released even if the process is killed.

    The lock is on the directory itself, not on its path. The context manager gives a function
    that returns whether the path still leads to the locked directory. Windows and some network
    file systems have no such lock: nobody is kept out there.

    Raises
    ------
    BlockingIOError
        If another one, of this process or not, is in it.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield lambda: True
        return
    _locks.add(descriptor)

    def still_there() -> bool:
        if descriptor not in _locks:  # a forked child holds no lock
            return True
        with suppress(FileNotFoundError):
            return os.path.samestat(os.stat(folder), os.fstat(descriptor))
        return False

    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield still_there
    finally:
        if descriptor in _locks:
            _locks.remove(descriptor)
            os.close(descriptor)


def _leave() -> None:
    """Have a forked child leave its parent's locks to the parent, even when that dies first."""
    while _locks:
        os.close(_locks.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave)
