"""`fastnn.system.files`: the new file is complete, or the old one stays, whichever call fails."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import posix
from failing_calls import failing

from fastnn.system.files import regular_mode, user_cache_directory, write_atomically

OLD, NEW = b"old", [b"new ", b"", b"contents"]
CALLS = ("open", "chmod", "write", "fsync", "close", "replace")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return an existing file, the only one in its folder."""
    path = tmp_path / "model"
    path.write_bytes(OLD)
    return path


def names(path: Path) -> list[str]:
    return os.listdir(path.parent)


def test_creates_a_file(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        write_atomically(tmp_path / "model", NEW)
    finally:
        os.umask(umask)
    assert (tmp_path / "model").read_bytes() == b"".join(NEW)
    assert os.listdir(tmp_path) == ["model"]
    if os.name == "posix":
        assert regular_mode(tmp_path / "model") == 0o640


@posix
@pytest.mark.parametrize("mode", [0o600, 0o666, 0o751])
def test_keeps_permissions(mode: int, path: Path) -> None:
    path.chmod(mode)
    write_atomically(str(path), NEW)
    assert path.read_bytes() == b"".join(NEW)
    assert regular_mode(path) == mode


@posix
def test_the_temporary_file_has_the_permissions_of_the_old_one(path: Path) -> None:
    path.chmod(0o600)

    def pieces() -> Iterator[bytes]:
        (temporary,) = set(names(path)) - {"model"}
        assert temporary.startswith(f".model.{os.getpid()}.") and temporary.endswith(".tmp")
        assert regular_mode(path.parent / temporary) == 0o600
        yield b"secret"

    write_atomically(path, pieces())
    assert path.read_bytes() == b"secret"


def test_the_old_file_stays_until_the_new_one_is_complete(path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        for piece in NEW:
            assert path.read_bytes() == OLD
            yield piece

    write_atomically(path, pieces())
    assert path.read_bytes() == b"".join(NEW)


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_replaces_the_target_of_a_symbolic_link(exists: bool, path: Path) -> None:
    if not exists:
        path.unlink()
    link = path.parent / "folder" / "link"
    link.parent.mkdir()
    link.symlink_to("../model")
    write_atomically(link, NEW)
    assert link.is_symlink() and path.read_bytes() == b"".join(NEW)
    assert sorted(names(path)) == ["folder", "model"] and os.listdir(link.parent) == ["link"]


def test_accepts_names_of_maximum_length(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)  # 254 bytes
    write_atomically(path, NEW)
    write_atomically(path, NEW)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [OSError("read"), KeyboardInterrupt(), ZeroDivisionError()])
def test_the_old_file_stays_if_the_content_raises_an_error(
    error: BaseException, path: Path
) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise error

    with pytest.raises(type(error)) as raised:
        write_atomically(path, pieces())
    assert raised.value is error
    assert path.read_bytes() == OLD and names(path) == ["model"]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, None])
def test_failed_write_leaves_the_old_file(
    name: str, code: int | None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the first call fail, then the second, and so on. A code of None stands for Ctrl-C."""
    failures = 0
    while True:
        made: list[str] = []
        error = KeyboardInterrupt() if code is None else OSError(code, os.strerror(code))
        path.write_bytes(OLD)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing(name, failures + 1, error, made))
            try:
                write_atomically(path, NEW)
            except OSError as raised:
                assert (raised.errno, raised.filename, raised.filename2) == (code, str(path), None)
                assert path.read_bytes() == OLD
            except KeyboardInterrupt:
                assert path.read_bytes() in (OLD, b"".join(NEW))
            else:
                assert path.read_bytes() == b"".join(NEW)
        assert names(path) == ["model"]
        if len(made) <= failures:
            break
        failures += 1
    assert failures >= 1


def test_continues_after_short_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    write_atomically(path, NEW)
    assert path.read_bytes() == b"".join(NEW)


def test_flushes_before_renaming(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name in CALLS:
        monkeypatch.setattr(os, name, failing(name, -1, OSError(), made))
    write_atomically(path, [b"new"])
    file, folder = ["open", "chmod", "write", "fsync", "close", "replace"], ["open"]
    assert made[: len(file + folder)] == file + folder
    assert os.name != "posix" or made[len(file + folder) :] == ["fsync", "close"]


@posix
def test_writes_if_the_system_cannot_flush_directories(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no folders")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, NEW)
    assert path.read_bytes() == b"".join(NEW)


@posix
@pytest.mark.parametrize("kind", ["folder", "link to a folder", "pipe", "device"])
def test_does_not_replace_directories_pipes_and_devices(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "here"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null" if kind == "device" else ".")
    before = path.lstat()
    with pytest.raises(OSError) as raised:
        write_atomically(path, NEW)
    folder = "folder" in kind
    assert raised.value.errno == (errno.EISDIR if folder else errno.EINVAL)
    assert raised.value.strerror == (os.strerror(errno.EISDIR) if folder else "Not a regular file")
    assert raised.value.filename == str(path)
    assert path.lstat().st_ino == before.st_ino and os.listdir(tmp_path) == ["here"]


def test_does_not_replace_a_read_only_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.chmod(0o444)
    if os.access(path, os.W_OK):  # as root
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError) as raised:
        write_atomically(path, NEW)
    assert raised.value.filename == str(path)
    assert path.read_bytes() == OLD


@pytest.mark.parametrize("name", ["", "missing/model", "missing/", "model/inside"])
def test_rejects_impossible_paths(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with pytest.raises((FileNotFoundError, NotADirectoryError)) as raised:
        write_atomically(name, NEW)
    assert raised.value.filename == name
    assert names(path) == ["model"] and path.read_bytes() == OLD


@pytest.mark.parametrize("error", [RuntimeError, KeyError, OSError])
def test_no_cache_directory_without_a_home(error, monkeypatch):
    def raises(name: str) -> Path:
        raise error("no home directory")

    monkeypatch.setattr("platformdirs.user_cache_path", raises)
    assert user_cache_directory() is None


def test_cache_directory_is_absolute(monkeypatch, tmp_path):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    assert user_cache_directory() == tmp_path / "fastnn"
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("~/.cache") / name)
    assert user_cache_directory() is None
