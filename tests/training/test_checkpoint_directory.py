"""The directory of checkpoints: the last two files, damaged files, and its lock."""

import errno
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from command_line import posix
from fits import names, numbers, small_fit

from fastnn import Checkpoint, CheckpointError
from fastnn.system.files import lock_directory
from fastnn.training import callbacks, checkpoint


def test_keeps_the_last_two_checkpoints(tmp_path: Path) -> None:
    found = []

    class ListFiles(callbacks.Callback):
        def on_epoch_begin(self, epoch: int) -> None:
            found.append(numbers(tmp_path / "new" / "fit"))

    small_fit(tmp_path / "new" / "fit", epochs=7, every=2, callbacks=[ListFiles()])
    assert found == [[0], [0], [0, 8], [0, 8], [8, 16], [8, 16], [16, 24]]
    assert numbers(tmp_path / "new" / "fit") == [24, 28]


def damage(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)


@pytest.mark.parametrize("harm", [damage, lambda path: path.write_bytes(b""), os.truncate])
def test_skips_a_damaged_checkpoint(harm: Any, tmp_path: Path) -> None:
    expected = small_fit(tmp_path)
    last = tmp_path / names(tmp_path)[-1]
    harm(*[last, 100][: 2 if harm is os.truncate else 1])
    with pytest.warns(UserWarning, match=f"^a checkpoint is skipped: {last}: is ") as warned:
        assert small_fit(tmp_path, resume=True) == expected
    assert len(warned) == 1 and numbers(tmp_path) == [8, 12]
    assert small_fit(tmp_path, resume=True) == expected  # without a warning


def test_rejects_a_directory_of_damaged_checkpoints(tmp_path: Path) -> None:
    small_fit(tmp_path)
    for name in names(tmp_path):
        damage(tmp_path / name)
    before = names(tmp_path)
    with (
        pytest.warns(UserWarning),
        pytest.raises(CheckpointError, match="no readable checkpoint$"),
    ):
        small_fit(tmp_path, resume=True)
    assert names(tmp_path) == before


def test_removes_temporary_files_of_killed_processes(tmp_path: Path) -> None:
    """Their process numbers may be in use again. The lock ensures that no other fit is writing."""
    name = ".checkpoint-000000000004.safetensors.{}.0123456789abcdef.tmp"
    others = ["other.tmp", f".x.{os.getpid()}.tmp"]
    for each in [name.format(os.getpid()), name.format(1), name.format(10**30), *others]:
        (tmp_path / each).write_bytes(b"half")
    small_fit(tmp_path)
    assert {each for each in names(tmp_path) if "tmp" in each} == set(others)


def test_rejects_a_directory_without_checkpoints(tmp_path: Path) -> None:
    missing = tmp_path / "none", "no such checkpoint directory"
    for folder, why in ((tmp_path, "contains no checkpoint"), missing):
        with pytest.raises(CheckpointError) as raised:
            small_fit(folder, resume=True)
        assert str(raised.value) == f"{folder}: {why}"
    assert names(tmp_path) == []


def test_new_fit_rejects_a_directory_with_checkpoints(tmp_path: Path) -> None:
    small_fit(tmp_path)
    with pytest.raises(CheckpointError, match=f"^{tmp_path}: already contains checkpoints; "):
        small_fit(tmp_path)
    assert numbers(tmp_path) == [8, 12]


@posix
@pytest.mark.process
def test_running_fit_locks_the_directory(tmp_path: Path) -> None:
    """Fits of this and of other processes are rejected until the running one ends."""

    class StartOthers(callbacks.Callback):
        def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            for resume in (False, True):
                with pytest.raises(CheckpointError, match=f"^{tmp_path}: a running fit "):
                    small_fit(tmp_path, resume=resume)
            if (process := os.fork()) == 0:
                try:
                    small_fit(tmp_path, resume=True)
                except CheckpointError:
                    os._exit(3)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 3
            if os.fork() == 0:
                time.sleep(0.5)
                os._exit(0)  # this child had the lock's descriptor for longer than the fit
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path, callbacks=[StartOthers()])
    small_fit(tmp_path, resume=True)
    assert numbers(tmp_path) == [8, 12]


@posix
@pytest.mark.process
def test_child_does_not_hold_the_lock_if_its_parent_is_killed(tmp_path: Path) -> None:
    class Fork(callbacks.Callback):
        def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            if epoch == 1 and os.fork() == 0:
                time.sleep(3)
                os._exit(0)
            if epoch == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    if (process := os.fork()) == 0:
        small_fit(tmp_path, callbacks=[Fork()])
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert numbers(tmp_path) == [0, 4]
    small_fit(tmp_path, resume=True)


def test_checkpoints_stay_in_place_if_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ChangeDirectory(callbacks.Callback):
        def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            os.chdir(tmp_path / "there")

    small_fit(tmp_path / "there" / "fit", epochs=4)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    small_fit(Path("fit"), callbacks=[ChangeDirectory()])
    assert numbers(tmp_path / "here" / "fit") == [8, 12]
    assert numbers(tmp_path / "there" / "fit") == [12, 16]


def test_damaged_checkpoint_does_not_count_as_one_of_the_last_two(tmp_path: Path) -> None:
    expected = small_fit(tmp_path / "expected", epochs=4)
    small_fit(tmp_path / "fit")
    damage(tmp_path / "fit" / names(tmp_path / "fit")[-1])

    class Fail(callbacks.Callback):
        def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            raise OSError("the end")

    with pytest.warns(UserWarning, match="is skipped"), pytest.raises(OSError, match="the end"):
        small_fit(tmp_path / "fit", resume=True, epochs=4, callbacks=[Fail()])
    assert numbers(tmp_path / "fit") == [8, 12]  # nothing has been written
    with pytest.warns(UserWarning, match="is skipped"):
        small_fit(tmp_path / "fit", resume=True, epochs=4, every=2)
    assert numbers(tmp_path / "fit") == [8, 16]
    damage(tmp_path / "fit" / names(tmp_path / "fit")[-1])
    with pytest.warns(UserWarning, match="is skipped"):
        assert small_fit(tmp_path / "fit", resume=True, epochs=4) == expected


def test_changes_nothing_if_no_checkpoint_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_fit(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(checkpoint, "read_snapshot", fail)
    with (
        pytest.warns(UserWarning, match=os.strerror(errno.EIO)) as warned,
        pytest.raises(CheckpointError, match="contains no readable checkpoint"),
    ):
        small_fit(tmp_path, resume=True)
    assert len(warned) == 2
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EISDIR])
def test_skips_an_unreadable_checkpoint_and_writes_it_again(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = small_fit(tmp_path / "expected", epochs=4)
    folder, read = tmp_path / "fit", checkpoint.read_snapshot
    small_fit(folder)
    last = folder / names(folder)[-1]
    if code == errno.EISDIR:
        last.unlink()
        (last / "inside").mkdir(parents=True)

    def fail(path: Path) -> Any:
        if path == last and code != errno.EISDIR:
            raise OSError(code, os.strerror(code), str(path))
        return read(path)

    monkeypatch.setattr(checkpoint, "read_snapshot", fail)
    with pytest.warns(UserWarning) as warned:
        assert small_fit(folder, resume=True, epochs=4) == expected
    (warning,) = warned
    text = f"a checkpoint is skipped: {last}: {os.strerror(code)}"
    assert str(warning.message) == text
    renamed = [name for name in names(folder) if name.endswith(".unreadable")]
    assert renamed == [f"{last.name}.unreadable"]
    assert numbers(folder) == [12, 12, 16]


class CallAtEnd(callbacks.Callback):
    """Call a function at the end of an epoch."""

    def __init__(self, epoch: int, function: Callable[[], None]) -> None:
        self._epoch, self._function = epoch, function

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        if epoch == self._epoch:
            self._function()


@posix
@pytest.mark.parametrize("is_replaced", [False, True])
def test_fit_continues_in_a_new_directory_if_it_is_moved(is_replaced: bool, tmp_path: Path) -> None:
    folder = tmp_path / "fit"

    def move() -> None:
        folder.rename(tmp_path / "moved")
        if is_replaced:
            folder.mkdir()

    def start_another() -> None:
        with pytest.raises(CheckpointError, match=f"^{folder}: a running fit "):
            small_fit(folder, resume=True)

    hooks = [CallAtEnd(2, move), CallAtEnd(4, start_another)]
    with pytest.warns(UserWarning, match=f"^{folder}: was removed during the fit; new checkpoints"):
        expected = small_fit(folder, epochs=4, callbacks=hooks)
    assert numbers(folder) == [12, 16] and numbers(tmp_path / "moved") == [0, 4]
    assert small_fit(folder, epochs=4, resume=True) == expected


@posix
def test_ends_if_another_fit_uses_the_replaced_directory(tmp_path: Path) -> None:
    folder = tmp_path / "fit"

    def replace() -> None:
        shutil.rmtree(folder)
        small_fit(folder)

    with pytest.raises(CheckpointError, match="and now contains the checkpoints of another"):
        small_fit(folder, epochs=5, callbacks=[CallAtEnd(1, replace)])
    assert numbers(folder) == [8, 12]

    def lock() -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        another.enter_context(lock_directory(folder))

    with (
        ExitStack() as another,
        pytest.raises(CheckpointError, match="a running fit writes its checkpoints there"),
    ):
        small_fit(folder, resume=True, epochs=5, callbacks=[CallAtEnd(4, lock)])
    assert names(folder) == []


def test_checkpoint_can_be_pickled_after_a_fit(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    small_fit(Path(), callbacks=[checkpoint])
    assert pickle.loads(pickle.dumps(checkpoint)).directory == tmp_path


@pytest.mark.parametrize("hook", ["on_fit_begin", "on_resume"])
def test_interrupt_before_a_resumed_fit_trains_writes_nothing(
    hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_fit(tmp_path)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)}

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.Callback, hook, stop)
    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path, resume=True, callbacks=[callbacks.Callback()])
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)} == before


def test_one_checkpoint_object_can_be_used_in_several_fits(tmp_path: Path) -> None:
    """A new fit resets the position and the names of written files."""
    folder = tmp_path / "fit"
    one = Checkpoint(folder)
    expected = small_fit(Path(), callbacks=[one])
    for _ in range(2):
        shutil.rmtree(folder)
        assert small_fit(Path(), callbacks=[one]) == expected
        assert numbers(folder) == [8, 12]
    one.resume = True
    longer = small_fit(Path(), epochs=5, callbacks=[one])
    assert one.snapshot is not None and longer == small_fit(Path(), epochs=5)
    one.resume = False
    shutil.rmtree(folder)
    assert small_fit(Path(), callbacks=[one]) == expected and one.snapshot is None


def test_no_position_is_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at the end of a fit, after its last epoch, nor by resuming a finished fit."""
    written, write = [], checkpoint.write_snapshot

    def record(path: Path, *arguments: Any) -> None:
        written.append(path.name)
        write(path, *arguments)

    monkeypatch.setattr(checkpoint, "write_snapshot", record)
    small_fit(tmp_path)
    assert len(written) == len(set(written)) == 4
    small_fit(tmp_path, resume=True)
    assert len(written) == 4


def test_resumed_fit_removes_old_checkpoints_of_killed_processes(tmp_path: Path) -> None:
    small_fit(tmp_path)
    for number in (1, 2, 3):
        copy = tmp_path / f"checkpoint-{number:012d}.safetensors"
        copy.write_bytes((tmp_path / names(tmp_path)[-1]).read_bytes())
    assert numbers(tmp_path) == [1, 2, 3, 8, 12]
    small_fit(tmp_path, resume=True)
    assert numbers(tmp_path) == [8, 12]
