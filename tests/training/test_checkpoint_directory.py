"""A directory of checkpoints: what is kept in it, what is passed over, and who is kept out."""

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


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    seen = []

    class Look(callbacks.Callback):
        def on_epoch_begin(self, epoch: int) -> None:
            seen.append(numbers(tmp_path / "new" / "fit"))

    small_fit(tmp_path / "new" / "fit", epochs=7, every=2, callbacks=[Look()])
    assert seen == [[0], [0], [0, 8], [0, 8], [8, 16], [8, 16], [16, 24]]
    assert numbers(tmp_path / "new" / "fit") == [24, 28]


def damaged(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)


@pytest.mark.parametrize("harm", [damaged, lambda path: path.write_bytes(b""), os.truncate])
def test_a_damaged_one_is_passed_over(harm: Any, tmp_path: Path) -> None:
    whole = small_fit(tmp_path)
    last = tmp_path / names(tmp_path)[-1]
    harm(*[last, 100][: 2 if harm is os.truncate else 1])
    with pytest.warns(UserWarning, match=f"^a checkpoint is skipped: {last}: is ") as warned:
        assert small_fit(tmp_path, resume=True) == whole
    assert len(warned) == 1 and numbers(tmp_path) == [8, 12]
    assert small_fit(tmp_path, resume=True) == whole  # without a warning


def test_all_are_damaged(tmp_path: Path) -> None:
    small_fit(tmp_path)
    for name in names(tmp_path):
        damaged(tmp_path / name)
    before = names(tmp_path)
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="that can be read$"):
        small_fit(tmp_path, resume=True)
    assert names(tmp_path) == before


def test_leftovers_of_the_dead_are_removed(tmp_path: Path) -> None:
    """Their numbers may be in use again: the directory is locked, so nobody else writes there."""
    name = ".checkpoint-000000000004.safetensors.{}.0123456789abcdef.tmp"
    others = ["other.tmp", f".x.{os.getpid()}.tmp"]
    for each in [name.format(os.getpid()), name.format(1), name.format(10**30), *others]:
        (tmp_path / each).write_bytes(b"half")
    small_fit(tmp_path)
    assert {each for each in names(tmp_path) if "tmp" in each} == set(others)


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    for folder, why in ((tmp_path, "has no checkpoint"), (tmp_path / "none", "is not a directory")):
        with pytest.raises(CheckpointError) as raised:
            small_fit(folder, resume=True)
        assert str(raised.value) == f"{folder}: {why} to resume from"
    assert names(tmp_path) == []


def test_another_fit_does_not_begin_there(tmp_path: Path) -> None:
    small_fit(tmp_path)
    with pytest.raises(CheckpointError, match=f"^{tmp_path}: holds the checkpoints of a fit; "):
        small_fit(tmp_path)
    assert numbers(tmp_path) == [8, 12]


@posix
@pytest.mark.process
def test_a_fit_that_runs_keeps_others_out(tmp_path: Path) -> None:
    """Of this process and of others, until it ends, however that is."""

    class Intruder(callbacks.Callback):
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
                os._exit(0)  # which has the lock's descriptor for longer than the fit lasts
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path, callbacks=[Intruder()])
    small_fit(tmp_path, resume=True)
    assert numbers(tmp_path) == [8, 12]


@posix
@pytest.mark.process
def test_a_child_does_not_keep_others_out_when_the_fit_is_killed(tmp_path: Path) -> None:
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


def test_a_process_may_go_elsewhere_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Go(callbacks.Callback):
        def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            os.chdir(tmp_path / "there")

    small_fit(tmp_path / "there" / "fit", epochs=4)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    small_fit(Path("fit"), callbacks=[Go()])
    assert numbers(tmp_path / "here" / "fit") == [8, 12]
    assert numbers(tmp_path / "there" / "fit") == [12, 16]


def test_a_damaged_one_does_not_count_as_one_of_two(tmp_path: Path) -> None:
    whole = small_fit(tmp_path / "whole", epochs=4)
    small_fit(tmp_path / "fit")
    damaged(tmp_path / "fit" / names(tmp_path / "fit")[-1])

    class Break(callbacks.Callback):
        def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            raise OSError("the end")

    with pytest.warns(UserWarning, match="is skipped"), pytest.raises(OSError, match="the end"):
        small_fit(tmp_path / "fit", resume=True, epochs=4, callbacks=[Break()])
    assert numbers(tmp_path / "fit") == [8, 12]  # nothing has been written
    with pytest.warns(UserWarning, match="is skipped"):
        small_fit(tmp_path / "fit", resume=True, epochs=4, every=2)
    assert numbers(tmp_path / "fit") == [8, 16]
    damaged(tmp_path / "fit" / names(tmp_path / "fit")[-1])
    with pytest.warns(UserWarning, match="is skipped"):
        assert small_fit(tmp_path / "fit", resume=True, epochs=4) == whole


def test_where_none_can_be_read_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_fit(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(checkpoint, "read_snapshot", fail)
    with (
        pytest.warns(UserWarning, match=os.strerror(errno.EIO)) as warned,
        pytest.raises(CheckpointError, match="has no checkpoint that can be read"),
    ):
        small_fit(tmp_path, resume=True)
    assert len(warned) == 2
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EISDIR])
def test_an_unreadable_one_is_passed_over_and_written_anew(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small_fit(tmp_path / "whole", epochs=4)
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
        assert small_fit(folder, resume=True, epochs=4) == whole
    (warning,) = warned
    text = f"a checkpoint is skipped: {last}: {os.strerror(code)}"
    assert str(warning.message) == text
    aside = [name for name in names(folder) if name.endswith(".unreadable")]
    assert aside == [f"{last.name}.unreadable"]
    assert numbers(folder) == [12, 12, 16]


class AtTheEndOf(callbacks.Callback):
    """Do something at the end of an epoch."""

    def __init__(self, epoch: int, deed: Callable[[], None]) -> None:
        self._epoch, self._deed = epoch, deed

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        if epoch == self._epoch:
            self._deed()


@posix
@pytest.mark.parametrize("made_anew", [False, True])
def test_a_directory_that_is_moved_away_is_begun_anew(made_anew: bool, tmp_path: Path) -> None:
    folder = tmp_path / "fit"

    def move() -> None:
        folder.rename(tmp_path / "moved")
        if made_anew:
            folder.mkdir()

    def intrude() -> None:
        with pytest.raises(CheckpointError, match=f"^{folder}: a running fit "):
            small_fit(folder, resume=True)

    hooks = [AtTheEndOf(2, move), AtTheEndOf(4, intrude)]
    with pytest.warns(UserWarning, match=f"^{folder}: was removed during the fit; new checkpoints"):
        whole = small_fit(folder, epochs=4, callbacks=hooks)
    assert numbers(folder) == [12, 16] and numbers(tmp_path / "moved") == [0, 4]
    assert small_fit(folder, epochs=4, resume=True) == whole


@posix
def test_two_fits_do_not_write_into_a_directory_that_was_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "fit"

    def replace() -> None:
        shutil.rmtree(folder)
        small_fit(folder)

    with pytest.raises(CheckpointError, match="and now holds the checkpoints of another fit"):
        small_fit(folder, epochs=5, callbacks=[AtTheEndOf(1, replace)])
    assert numbers(folder) == [8, 12]

    def enter() -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        another.enter_context(lock_directory(folder))

    with (
        ExitStack() as another,
        pytest.raises(CheckpointError, match="a running fit writes its checkpoints there"),
    ):
        small_fit(folder, resume=True, epochs=5, callbacks=[AtTheEndOf(4, enter)])
    assert names(folder) == []


def test_a_checkpoint_can_be_pickled_after_a_fit(tmp_path: Path) -> None:
    keeper = Checkpoint(tmp_path)
    small_fit(Path(), callbacks=[keeper])
    assert pickle.loads(pickle.dumps(keeper)).directory == tmp_path


@pytest.mark.parametrize("moment", ["on_fit_begin", "on_resume"])
def test_an_interrupt_before_it_goes_on_writes_nothing(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_fit(tmp_path)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)}

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.Callback, moment, stop)
    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path, resume=True, callbacks=[callbacks.Callback()])
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)} == before


def test_one_object_serves_one_fit_after_another(tmp_path: Path) -> None:
    """It forgets the fit before: where it stood, and what was written of it."""
    folder = tmp_path / "fit"
    keeper = checkpoint.Checkpoint(folder)
    whole = small_fit(Path(), callbacks=[keeper])
    for _ in range(2):
        shutil.rmtree(folder)
        assert small_fit(Path(), callbacks=[keeper]) == whole
        assert numbers(folder) == [8, 12]
    keeper.resume = True
    longer = small_fit(Path(), epochs=5, callbacks=[keeper])
    assert keeper.snapshot is not None and longer == small_fit(Path(), epochs=5)
    keeper.resume = False
    shutil.rmtree(folder)
    assert small_fit(Path(), callbacks=[keeper]) == whole and keeper.snapshot is None


def test_no_place_is_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the end of a fit, whose last epoch has ended; nor where a fit was over already."""
    written, write = [], checkpoint.write_snapshot

    def noted(path: Path, *arguments: Any) -> None:
        written.append(path.name)
        write(path, *arguments)

    monkeypatch.setattr(checkpoint, "write_snapshot", noted)
    small_fit(tmp_path)
    assert len(written) == len(set(written)) == 4
    small_fit(tmp_path, resume=True)
    assert len(written) == 4


def test_what_a_kill_has_spared_is_removed_as_a_fit_goes_on(tmp_path: Path) -> None:
    small_fit(tmp_path)
    for number in (1, 2, 3):
        copy = tmp_path / f"checkpoint-{number:012d}.safetensors"
        copy.write_bytes((tmp_path / names(tmp_path)[-1]).read_bytes())
    assert numbers(tmp_path) == [1, 2, 3, 8, 12]
    small_fit(tmp_path, resume=True)
    assert numbers(tmp_path) == [8, 12]
