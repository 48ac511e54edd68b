"""Checkpoints: an interrupted or killed fit resumes, and its result is bit-identical.

A checkpoint is a snapshot of a fit, written to a file. A directory contains the last two
checkpoints of one fit, ``checkpoint-UPDATES.safetensors``, in the format of `checkpoint_file`. Each
contains the state of the fit and its identity: the SHA-256 of the data, and the network, settings
and versions. A fit with a different identity cannot resume from it.
"""

import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fastnn import __version__
from fastnn.data.features import Features
from fastnn.data.sparse import SparseRows
from fastnn.errors import CheckpointError, ModelFileError
from fastnn.model.schedules import EPOCH_SCHEDULES
from fastnn.model.settings import check_integer
from fastnn.system.files import FilePath, lock_directory
from fastnn.training.checkpoint_file import Identity, read_snapshot, write_snapshot
from fastnn.training.fit import Callback, Fit
from fastnn.training.state import History, Snapshot

_NAME = re.compile(r"checkpoint-(\d{12,})\.safetensors")
_LEFTOVER = re.compile(r"\.checkpoint-\d{12,}\.safetensors\.\d+\.[0-9a-f]+\.tmp")
_HASH = "SHA-256 "
_HASHED_ROWS = 8192  # hashed at a time, because selected rows are copied
_OPTIMIZER_SPECIFIC = {"momentum", "nesterov", "beta1", "beta2", "eps"}  # unused by other rules


class Checkpoint(Callback):
    """Write checkpoints of a fit to a directory, and resume from them.

    A checkpoint is written before the first epoch, after every `every` epochs, at the end of the
    fit and at a Ctrl-C. The last two are kept. A running fit locks the directory (except on
    Windows). Resume a fit with the same callbacks and scorers: this is not checked.

    Parameters
    ----------
    directory : str or Path
        Created if it is missing. A relative path is resolved when a fit begins.
    every : int, default 1
        Epochs between checkpoints.
    resume : bool, default False
        Resume from the last undamaged checkpoint in the directory. With the same data and
        settings, the result is bit-identical to that of an uninterrupted fit. The number of
        epochs may be larger if the schedule does not depend on it. An estimator needs an integer
        `random_state`.

    Attributes
    ----------
    snapshot : Snapshot or None
        The snapshot from which the last fit resumed.

    Raises
    ------
    ValueError
        If `every` is not a whole number of at least 1; in `fit`, if the optimizer is L-BFGS.
    CheckpointError
        In `fit`, if there is no checkpoint to resume from, if it belongs to a different fit, if the
        directory is in use, or, for a new fit, if the directory already contains checkpoints.

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
        self._resolved = self.directory  # absolute, in case the process changes its directory

    def warn(self, text: str) -> None:
        """Issue a warning about a problem that does not end the fit."""
        warnings.warn(text, stacklevel=2)

    def check(self) -> None:
        """Raise a CheckpointError if the directory does not suit a new or a resumed fit."""
        found = self._paths()
        if self.resume and not found:
            exists = self.directory.is_dir()
            what = "contains no checkpoint" if exists else "no such checkpoint directory"
            raise CheckpointError(f"{self.directory}: {what}")
        if found and not self.resume:
            raise CheckpointError(
                f"{self.directory}: already contains checkpoints; pass resume=True (--resume) or "
                "choose another directory"
            )

    # ---- during a fit -----------------------------------------------------------------------

    @contextmanager
    def context(self) -> Iterator[None]:
        """Lock the directory during a fit; with `resume`, start the fit from its last checkpoint.

        Raises
        ------
        ValueError, CheckpointError
            As documented for the class.
        OSError
            If the directory cannot be created.
        """
        if self.fit.plan.optimizer.rule == "lbfgs":
            raise ValueError(
                "lbfgs does not support checkpoints, because SciPy cannot store the state of its "
                "search; use another optimizer or no Checkpoint"
            )
        resolved = self.directory.resolve()
        if not self.resume:
            resolved.mkdir(parents=True, exist_ok=True)
        with ExitStack() as self._locks:
            self._lock(resolved)
            self._last: int | None = None  # number of the last valid file
            self._written: tuple[Any, ...] | None = None  # position stored in that file
            self._is_active = False  # whether an interrupt writes a checkpoint
            self._unreadable: set[int] = set()  # numbers of skipped files
            # Until the fit begins, errors name the directory as it was given.
            self._resolved, self.snapshot = self.directory, None
            self.check()
            # Killed processes left these temporary files: no other process writes here.
            _remove(each for each in resolved.iterdir() if _LEFTOVER.fullmatch(each.name))
            self._identity = identity_of(self.fit)
            if self.resume:
                self._resume()
            self._resolved = resolved
            yield

    def _resume(self) -> None:
        """Start the fit from the last checkpoint."""
        number, path, snapshot, identity = self._latest()
        if different := _differences(identity, self._identity):
            raise CheckpointError(f"{path}: cannot resume: {'; '.join(different)}")
        self.fit.resume_from(snapshot)
        _check_position(path, snapshot, self.fit)
        older = [other for each, other in self._paths().items() if each < number]
        _remove(older[:-1])  # left by a process that was killed
        self.snapshot, self._last, self._written = snapshot, number, _progress_of(snapshot)

    def on_resume(self, epoch: int, rows: int, history: History) -> None:
        """Write a checkpoint at interrupts from now on."""
        self._is_active = True

    def on_epoch_boundary(self, epochs: int) -> None:
        """Write a checkpoint before the first epoch, after every `every` epochs and at the end."""
        if epochs % self.every == 0 or self.fit.is_over:
            self.write(self.fit.snapshot())
        self._is_active = True

    def on_fit_break(self) -> None:
        """Write a checkpoint at an interrupt; warn if that fails."""
        is_interrupt = isinstance(self.fit.error, KeyboardInterrupt) and not self.fit.has_diverged
        if not self._is_active or not is_interrupt:
            return
        try:
            self.write(self.fit.snapshot())
        except Exception as error:
            with suppress(Exception):  # warnings may be errors
                self.warn(f"cannot write a checkpoint at the interrupt: {error}")

    def write(self, snapshot: Snapshot) -> None:
        """Write a checkpoint, unless its position is stored already; remove all but the last two.

        Raises
        ------
        CheckpointError
            If the directory was replaced, and another fit is using it.
        OSError
            If the file cannot be written.
        """
        number = snapshot.position.updates
        path = self._resolved / f"checkpoint-{number:012d}.safetensors"
        self._ensure_lock()
        if _progress_of(snapshot) == self._written:
            return
        if number in self._unreadable:
            with suppress(OSError):  # a directory of this name cannot be overwritten
                path.rename(f"{path}.unreadable")
        write_snapshot(path, snapshot, self._identity)
        paths = self._paths()
        before = [each for each in paths if each < number]
        previous = self._last if self._last != number else max(before, default=None)
        self._written, self._last = _progress_of(snapshot), number
        # The other files may be damaged checkpoints that were skipped.
        _remove(other for each, other in paths.items() if each not in (number, previous))

    # ---- the directory ----------------------------------------------------------------------

    def _lock(self, directory: Path) -> None:
        """Lock the directory; raise a CheckpointError if another fit holds the lock."""
        try:
            self._is_locked = self._locks.enter_context(lock_directory(directory))
        except BlockingIOError:
            raise CheckpointError(
                f"{self.directory}: a running fit writes its checkpoints there; wait until it "
                "ends, or choose another directory"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy or a pickle, which does not hold the lock."""
        return vars(self) | {"_locks": None, "_is_locked": None}

    def _ensure_lock(self) -> None:
        """Lock the directory again if it was removed or moved since it was locked.

        Raises
        ------
        CheckpointError
            If another fit is now using the path.
        """
        if self._is_locked():
            return
        self._resolved.mkdir(parents=True, exist_ok=True)
        self._lock(self._resolved)
        if self._paths():
            raise CheckpointError(
                f"{self.directory}: was removed during the fit, and now contains the checkpoints "
                "of another fit; choose another directory"
            )
        self._written = self._last = None
        self.warn(f"{self.directory}: was removed during the fit; new checkpoints go there")

    def _paths(self) -> dict[int, Path]:
        """Return the checkpoints by their number of updates, in ascending order."""
        paths = self._resolved.iterdir() if self._resolved.is_dir() else ()
        matches = {path: _NAME.fullmatch(path.name) for path in paths}
        return dict(sorted((int(match[1]), path) for path, match in matches.items() if match))

    def _latest(self) -> tuple[int, Path, Snapshot, Identity]:
        """Return the last checkpoint that can be read: number, path, snapshot and identity."""
        for number, path in reversed(self._paths().items()):
            try:
                return number, path, *read_snapshot(path)
            except ModelFileError as error:
                self.warn(f"a checkpoint is skipped: {error}")
            except OSError as error:
                self._unreadable.add(number)
                self.warn(f"a checkpoint is skipped: {path}: {error.strerror or error}")
        raise CheckpointError(f"{self.directory}: contains no readable checkpoint")


def has_checkpoint(callbacks: Sequence[Callback]) -> bool:
    """Return whether there is a `Checkpoint` among callbacks.

    Raises
    ------
    ValueError
        If there is more than one.
    """
    found = sum(isinstance(callback, Checkpoint) for callback in callbacks)
    if found > 1:
        raise ValueError(f"at most one Checkpoint per fit, got {found}")
    return found == 1


def _remove(paths: Iterable[Path]) -> None:
    """Remove files; ignore errors."""
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _progress_of(snapshot: Snapshot) -> tuple[Any, ...]:
    """Return a key that is equal for two snapshots of a fit if their positions are equal."""
    position = snapshot.position
    return position.epochs, position.progress.position, position.stopped


# ---- the identity of a fit --------------------------------------------------------------------


def identity_of(fit: Fit) -> Identity:
    """Return the identity of a fit: everything that determines its result, as texts by name."""
    network, plan, layers = fit.network, fit.plan, fit.network.layers
    sizes = layers[0].inputs, *(layer.outputs for layer in layers)
    identity: dict[str, Any] = {
        "fastnn": __version__,
        "numpy": np.__version__,
        "engine": fit.engine.name,
        **fit.engine.arithmetic,
        "layers": "-".join(map(str, sizes)),
        "activation": ", ".join(layer.activation for layer in layers[:-1]),
        "dropout": ", ".join(str(layer.dropout) for layer in layers),
        "loss": network.loss.name,
        "input_scale": network.input_scale,
        "seed": plan.seed,
        "batch_size": fit.batch_size,
        **_settings(plan.optimizer, rule="optimizer"),
        **_settings(plan.schedule, name="schedule"),
    }
    for name in ("l2", "l2_is_shared", "clip_norm", "shuffle", "early_stopping"):
        identity[name] = getattr(plan, name)
    if plan.schedule.name in EPOCH_SCHEDULES:
        identity["epochs"] = plan.epochs
    for part, rows in (("training", fit.data), ("validation", fit.validation)):
        identity[f"{part} rows"] = 0 if rows is None else len(rows.x)
        for name, array in zip(
            ("features", "targets", "weights"), rows or (None,) * 3, strict=True
        ):
            identity[f"{part} {name}"] = "none" if array is None else _HASH + _digest(array)
    return {name: str(value) for name, value in identity.items()}


def _settings(record: Any, **names: str) -> Identity:
    """Return the fields of a record, some under other names. Integers are shown as floats."""
    return {
        names.get(name, name): str(value if isinstance(value, (str, bool)) else float(value))
        for name, value in asdict(record).items()
    }


def _digest(rows: Features) -> str:
    """Return the SHA-256 of the form, dtype, shape and bytes of rows; a copy has the same hash."""
    sparse = isinstance(rows[:1], SparseRows)
    digest = hashlib.sha256(f"{'sparse' if sparse else 'dense'} {rows.dtype} {rows.shape}".encode())
    for start in range(0, len(rows), _HASHED_ROWS):
        part: Any = rows[start : start + _HASHED_ROWS]
        for array in (part.counts, part.columns, part.values) if sparse else (part,):
            digest.update(np.ascontiguousarray(array).ravel().data)
    return digest.hexdigest()


def _differences(before: Identity, now: Identity) -> list[str]:
    """Describe how two identities differ. Texts from a file may be long."""

    def shown(text: str) -> str:
        return "given" if text.startswith(_HASH) else " ".join(text.split())[:200]

    def described(name: str) -> str:
        old, new = shown(before.get(name, "missing")), shown(now.get(name, "missing"))
        if old == new == "given":
            return f"{shown(name)} differ"
        return f"{shown(name)} is {old} in the checkpoint, and {new} now"

    different = [each for each in {**now, **before} if before.get(each) != now.get(each)]
    ignored = _OPTIMIZER_SPECIFIC if "optimizer" in different else ()
    return [described(name) for name in different if name not in ignored]


def _check_position(path: Path, snapshot: Snapshot, fit: Fit) -> None:
    """Raise a CheckpointError if this fit cannot have written the snapshot that it resumes from."""
    shapes = [w.shape for w, _ in snapshot.parameters]
    position, size = snapshot.position, fit.batch_size
    row = position.progress.position
    is_valid = (
        shapes == [(layer.inputs, layer.outputs) for layer in fit.network.layers]
        and row <= fit.rows
        and (row % size == 0 or row == fit.rows)
        and len(snapshot.state) == fit.plan.optimizer.slots
        and position[:3] == fit.position_at(position.epochs, position.progress)
    )
    if not is_valid:
        raise CheckpointError(f"{path}: is not a possible checkpoint of this fit")
    begun = snapshot.epochs + (row > 0)
    if begun > fit.plan.epochs:
        raise CheckpointError(
            f"{path}: the checkpoint has {begun} epochs, more than the {fit.plan.epochs} of this "
            f"fit; ask for at least {begun}"
        )
