"""Checkpoints: a fit that is stopped, or killed, goes on to the same bits as if it never had been.

A directory has the last two of one fit, ``checkpoint-UPDATES.safetensors``, as
`checkpoint_file` writes them. Beside where the fit stood they say what it was: its data by
SHA-256, network, settings, and versions. A fit that differs in one of these does not go on from
them.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastnn import __version__
from fastnn.data.features import Features
from fastnn.data.rows import Data
from fastnn.data.sparse import SparseRows
from fastnn.engine import Engine
from fastnn.errors import CheckpointError, ModelFileError
from fastnn.model.settings import check_integer
from fastnn.system.files import FilePath, lock_directory
from fastnn.training.callbacks import Callback
from fastnn.training.checkpoint_file import Items, read_snapshot, write_snapshot
from fastnn.training.plan import Plan
from fastnn.training.state import Snapshot

_NAME = re.compile(r"checkpoint-(\d{12,})\.safetensors")
_LEFTOVER = re.compile(r"\.checkpoint-\d{12,}\.safetensors\.\d+\.[0-9a-f]+\.tmp")
_HASH = "SHA-256 "
_HASHED_ROWS = 8192  # at a time: rows that are selected are copied for it
_OF_ALL_EPOCHS = ("cosine", "one_cycle")  # schedules that span as many epochs as there will be


class Checkpoint(Callback):
    """Keep a fit's checkpoints in a directory, from which it can go on.

    One is written before the first epoch, after every so many, when the fit ends, and when it is
    interrupted. The last two are kept. One directory is for one fit at a time, and one that is
    running keeps others out (not on Windows). Callbacks and scorers are not compared: see that
    they are the same.

    Parameters
    ----------
    directory : str or Path
        It is made if it is missing. A relative one is that of the moment at which a fit begins.
    every : int, default 1
        Epochs from one checkpoint to the next.
    resume : bool, default False
        Go on from the last checkpoint in the directory that is not damaged, with the same data
        and settings, to the same bits as a fit that was never stopped. More epochs are possible
        where the schedule does not depend on their number. An estimator needs a `random_state`.

    Attributes
    ----------
    snapshot : Snapshot or None
        From which the fit, when it began, went on.

    Raises
    ------
    ValueError
        If `every` is no whole number of at least 1; from the fit, if its optimizer is L-BFGS.
    CheckpointError
        From the fit, if there is nothing to go on from or it is of another fit, or, of a new fit,
        if there are checkpoints in the directory.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from fastnn import Checkpoint, Network
    >>> x, y = np.eye(4, dtype=np.float32), [0, 1, 0, 1]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     h = Network([4, 2]).fit(x, y, epochs=2, callbacks=[Checkpoint(folder)])
    ...     net = Network([4, 2])
    ...     h = net.fit(x, y, epochs=5, callbacks=[Checkpoint(folder, resume=True)])
    >>> net.epochs_trained, len(h["loss"])
    (5, 5)
    """

    def __init__(self, directory: FilePath, every: int = 1, resume: bool = False) -> None:
        self.directory = Path(directory)
        self.every = check_integer(every, "every", low=1)
        self.resume = bool(resume)
        self.snapshot: Snapshot | None = None
        self._items: Items = {}
        self._home = self.directory  # the same, wherever the process goes meanwhile
        self._last = ""  # the name of the last file that is whole
        self._written: tuple[Any, ...] | None = None  # where the fit stood in that
        self._unreadable: set[str] = set()  # names of files that were passed over
        self._locks: ExitStack | None = None  # during a fit
        self._holds: Callable[[], bool] | None = None  # whether the directory is still locked

    def warn(self, text: str) -> None:
        """Say what is not as it should be, and does not end the fit."""
        warnings.warn(text, stacklevel=2)

    # ---- what a fit asks for ----------------------------------------------------------------

    def check(self) -> None:
        """Raise a CheckpointError if the directory is not such as to begin, or to go on."""
        found = self._paths()
        if self.resume and not found:
            what = "has no checkpoint" if self.directory.is_dir() else "is no directory"
            raise CheckpointError(f"{self.directory}: {what} to go on from")
        if found and not self.resume:
            raise CheckpointError(
                f"{self.directory}: holds the checkpoints of a fit; resume it, or name another "
                "directory"
            )

    @contextmanager
    def in_use(
        self, network: Any, engine: Engine, data: Data, plan: Plan, validation: Data | None
    ) -> Iterator[Plan]:
        """Have the directory for one fit, and give its plan: from where it begins, or goes on.

        Raises
        ------
        ValueError
            If the optimizer is L-BFGS.
        CheckpointError
            As the class says.
        OSError
            If the directory cannot be made.
        """
        if plan.optimizer.rule == "lbfgs":
            raise ValueError(
                "lbfgs has no checkpoints: what it knows of the curvature cannot be kept; the "
                "other optimizers have them"
            )
        home = self.directory.resolve()
        if not self.resume:
            home.mkdir(parents=True, exist_ok=True)
        with ExitStack() as self._locks:
            self._locks.callback(self._let_go)
            self._lock(home)
            self._unreadable.clear()
            # Until the fit begins nobody goes elsewhere, and errors name it as it was given.
            self._home, self._last, self.snapshot, self._written = self.directory, "", None, None
            self.check()
            self._remove_leftovers()
            self._items = items_of(network, engine, data, plan, validation)
            if self.resume:
                plan = self._taken_up(network, len(data.x), plan)
            self._home = home
            yield plan

    def _lock(self, home: Path) -> None:
        """Lock the directory; raise a CheckpointError if another fit holds the lock."""
        assert self._locks is not None
        try:
            self._holds = self._locks.enter_context(lock_directory(home))
        except BlockingIOError:
            raise CheckpointError(
                f"{self.directory}: a fit that is running has its checkpoints there; wait for "
                "its end, or name another directory"
            ) from None

    def _let_go(self) -> None:
        self._locks = self._holds = None  # neither can be pickled

    def _keep_hold(self) -> None:
        """Lock the directory again if it was removed or moved since it was locked.

        Raises
        ------
        CheckpointError
            If another fit now uses the path.
        """
        if self._holds is None or self._holds():
            return
        self._home.mkdir(parents=True, exist_ok=True)
        self._lock(self._home)
        if self._paths():
            raise CheckpointError(
                f"{self.directory}: was removed during the fit, and now holds the checkpoints of "
                "another fit; name another directory"
            )
        self._written, self._last = None, ""
        self.warn(f"{self.directory}: was removed during the fit; new checkpoints go there")

    def _taken_up(self, network: Any, rows: int, plan: Plan) -> Plan:
        """Read the checkpoint from which the fit goes on; return the plan from there."""
        path, snapshot, items = self._latest()
        if different := _differences(items, self._items):
            raise CheckpointError(f"{path}: is of another fit: {'; '.join(different)}")
        _check_place(path, snapshot, network, rows, plan)
        older = [each for each in self._paths() if _number(each.name) < _number(path.name)]
        for each in older[:-1]:  # which a kill has spared
            with suppress(OSError):
                each.unlink()
        self.snapshot, self._last, self._written = snapshot, path.name, _place(snapshot)
        return replace(
            plan,
            first_epoch=snapshot.first_epoch,
            updates_before=snapshot.updates_before,
            samples_before=snapshot.samples_before,
        )

    def is_due(self, epochs: int) -> bool:
        """Return whether one is to be written after so many epochs."""
        return epochs % self.every == 0

    def write(self, snapshot: Snapshot) -> None:
        """Write a checkpoint, if there is not that one; leave none but it and the one before it.

        Raises
        ------
        CheckpointError
            If the directory was replaced, and another fit uses it.
        OSError
            If it cannot be written.
        """
        name = f"checkpoint-{_updates(snapshot, self._items):012d}.safetensors"
        self._keep_hold()
        if _place(snapshot) == self._written:
            return
        if name in self._unreadable:
            with suppress(OSError):  # it may be a directory, which cannot be overwritten
                (self._home / name).rename(self._home / f"{name}.unreadable")
        write_snapshot(self._home / name, snapshot, self._items)
        others = [path for path in self._paths() if path.name != name]
        before = [path.name for path in others if _number(path.name) < _number(name)]
        kept = self._last if self._last != name else max(before, default="")
        self._written, self._last = _place(snapshot), name
        for path in others:  # some may be damaged, and have been passed over
            if path.name != kept:
                with suppress(OSError):
                    path.unlink()

    def write_last(self, snapshot: Snapshot) -> None:
        """Write a checkpoint of a fit that is interrupted: if that fails, it says so alone."""
        try:
            self.write(snapshot)
        except Exception as error:
            with suppress(Exception):  # a warning that counts as an error
                self.warn(f"no checkpoint was written at the interrupt: {error}")

    # ---- the directory ----------------------------------------------------------------------

    def _paths(self) -> list[Path]:
        """Return the checkpoints, the last one last."""
        if not self._home.is_dir():
            return []
        found = [path for path in self._home.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: _number(path.name))

    def _latest(self) -> tuple[Path, Snapshot, Items]:
        """Return the last checkpoint that can be read."""
        for path in reversed(self._paths()):
            try:
                return path, *read_snapshot(path)
            except ModelFileError as error:
                self.warn(f"a checkpoint is passed over: {error}")
            except OSError as error:
                self._unreadable.add(path.name)
                self.warn(f"a checkpoint is passed over: {path}: {error.strerror or error}")
        raise CheckpointError(f"{self.directory}: has no checkpoint that can be read")

    def _remove_leftovers(self) -> None:
        """Remove what processes that are no more have left half-written: nobody else writes."""
        for path in self._home.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()


def checkpoint_in(callbacks: Sequence[Callback]) -> Checkpoint | None:
    """Return the checkpoint among callbacks.

    Raises
    ------
    ValueError
        If there is more than one.
    """
    found = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
    if len(found) > 1:
        raise ValueError("a fit has one Checkpoint, got " + str(len(found)))
    return found[0] if found else None


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1])


def _place(snapshot: Snapshot) -> tuple[Any, ...]:
    return snapshot.epoch, snapshot.progress.position, snapshot.stopped


def _updates(snapshot: Snapshot, items: Items) -> int:
    """Return the updates that the optimizer's state has seen."""
    rows, size = int(items["training rows"]), int(items["batch_size"])
    whole = snapshot.epochs * -(-rows // size)
    return snapshot.updates_before + whole + -(-snapshot.progress.position // size)


# ---- what a fit is ----------------------------------------------------------------------------


def items_of(
    network: Any, engine: Engine, data: Data, plan: Plan, validation: Data | None
) -> Items:
    """Return what decides the bits of a fit, by names: texts that can be compared and shown."""
    layers = network.layers
    items: dict[str, Any] = {
        "fastnn": __version__,
        "numpy": np.__version__,
        "engine": engine.name,
        **engine.arithmetic,
        "layers": "-".join(str(size) for size in _sizes(network)),
        "activation": ", ".join(layer.activation for layer in layers[:-1]),
        "dropout": ", ".join(str(layer.dropout) for layer in layers),
        "loss": network.loss.name,
        "input_scale": network.input_scale,
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        **_settings(plan.optimizer, rule="optimizer"),
        **_settings(plan.schedule, name="schedule"),
    }
    items |= {each: getattr(plan, each) for each in ("l2", "l2_is_shared", "clip_norm", "shuffle")}
    items["early_stopping"] = plan.early_stopping
    if plan.schedule.name in _OF_ALL_EPOCHS:
        items["epochs"] = plan.epochs
    for which, rows in (("training", data), ("validation", validation)):
        items[f"{which} rows"] = 0 if rows is None else len(rows.x)
        for name, array in zip(
            ("features", "targets", "weights"), rows or (None,) * 3, strict=True
        ):
            items[f"{which} {name}"] = "none" if array is None else _HASH + _digest(array)
    return {name: str(value) for name, value in items.items()}


def _settings(record: Any, **names: str) -> Items:
    """Return a record's fields by their names, or those given here; 1 is the same as 1.0."""
    return {
        names.get(name, name): str(value if isinstance(value, (str, bool)) else float(value))
        for name, value in asdict(record).items()
    }


def _sizes(network: Any) -> list[int]:
    return [network.layers[0].inputs, *(layer.outputs for layer in network.layers)]


def _digest(rows: Features) -> str:
    """Return the SHA-256 of rows: of their bytes, and of what says how to read these.

    Of selected rows it is that of a copy of them.
    """
    sparse = isinstance(rows[:1], SparseRows)
    digest = hashlib.sha256(f"{'sparse' if sparse else 'dense'} {rows.dtype} {rows.shape}".encode())
    parts: list[Callable[[Any], np.ndarray]] = [lambda part: part]
    if sparse:
        parts = [lambda part: part.counts, lambda part: part.columns, lambda part: part.values]
    for array_of in parts:
        for start in range(0, len(rows), _HASHED_ROWS):
            part = array_of(rows[start : start + _HASHED_ROWS])
            digest.update(np.ascontiguousarray(part).ravel().data)
    return digest.hexdigest()


def _differences(before: Items, now: Items) -> list[str]:
    """Say which items differ, with both values; a file may hold any texts for them."""

    def shown(text: str) -> str:
        return "given" if text.startswith(_HASH) else " ".join(text.split())[:200]

    def told(name: str) -> str:
        values = shown(before.get(name, "not there")), shown(now.get(name, "not there"))
        if values == ("given", "given"):
            return f"{shown(name)} were others"
        return f"{shown(name)} was {values[0]}, and is {values[1]}"

    names = [*now, *(name for name in before if name not in now)]
    return [told(name) for name in names if before.get(name) != now.get(name)]


def _check_place(path: Path, snapshot: Snapshot, network: Any, rows: int, plan: Plan) -> None:
    """Refuse a place at which no fit of this plan can stand."""
    shapes = [w.shape for w, _ in snapshot.parameters]
    position = snapshot.progress.position
    at_boundary = position <= rows and (position % plan.batch_size == 0 or position == rows)
    fits = shapes == [(layer.inputs, layer.outputs) for layer in network.layers]
    if not fits or not at_boundary or len(snapshot.state) != plan.optimizer.slots:
        raise CheckpointError(f"{path}: is not what a checkpoint of this fit can be")
    if snapshot.epochs + (position > 0) > plan.epochs:
        raise CheckpointError(
            f"{path}: {snapshot.epochs} epochs are done, and the fit is to have {plan.epochs}: ask "
            "for as many or more"
        )
