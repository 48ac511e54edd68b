"""`fastnn.Checkpoint`: an interrupted fit gives a bit-identical result, or is rejected.

`test_resume` does the same with processes that are killed. The long tests run with ``pytest -m long
tests/training/test_checkpoint.py``; `FASTNN_ROUNDS` sets their number of rounds.
"""

import errno
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from failing_calls import failing
from fits import FITS, digest, fitted, names, numbers, small_fit
from parameters import assert_finite
from scipy.sparse import csr_array

import fastnn
from fastnn import (
    Checkpoint,
    CheckpointError,
    DivergenceError,
    MLPClassifier,
    MLPRegressor,
    Network,
)
from fastnn.data.sets import Dataset, load_dataset
from fastnn.kernels.engine import NumbaEngine
from fastnn.training import callbacks
from fastnn.training import checkpoint as checkpoints
from fastnn.training.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore:Training interrupted by user")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


class Interrupt(callbacks.Callback):
    """Interrupt a fit at the call number `at` of the callback, counted from 0."""

    def __init__(self, at: int) -> None:
        self._left = at

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        self._count()

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self._count()


def interrupted(run: Callable[..., Any], folder: Path, at: int) -> bool:
    """Start or resume a fit that call number `at` interrupts; return whether it was interrupted."""
    resume = folder.exists()
    try:
        run(callbacks=[Interrupt(at), Checkpoint(folder, resume=resume)])
    except KeyboardInterrupt:
        return True
    return False


# ---- resumed fits ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FITS)
def test_resumed_fit_equals_uninterrupted_fit(
    name: str, engine: str, digits: Dataset, tmp_path: Path, rng: np.random.Generator
) -> None:
    settings = {"engine": engine, "threads": None, "epochs": 8}
    uninterrupted = fitted(name, digits, **settings)

    def run(**more: Any) -> Any:
        return fitted(name, digits, **settings, **more)

    interrupts = 0
    while interrupted(run, tmp_path / "fit", int(rng.integers(0, 4))):
        interrupts += 1
        assert 1 <= len(names(tmp_path / "fit")) <= 2
        assert interrupts < 100
    assert interrupts > 2
    resumed = run(callbacks=[Checkpoint(tmp_path / "fit", resume=True)])
    assert digest(resumed[0].parameters, resumed[1]) == digest(
        uninterrupted[0].parameters, uninterrupted[1]
    )
    assert resumed[0]._position[:3] == uninterrupted[0]._position[:3]
    # The optimizer's state is the same, and so is the result of a further fit.
    for network, _ in (resumed, uninterrupted):
        network.fit(digits.x_train, digits.y_train, epochs=1, engine=engine, optimizer="adam")
    assert digest(resumed[0].parameters, {}) == digest(uninterrupted[0].parameters, {})


@pytest.mark.parametrize("form", ["sparse", "weighted", "a further fit"])
def test_resumed_fit_of_other_forms_equals_uninterrupted_fit(
    form: str, engine: str, tmp_path: Path, rng: Any
) -> None:
    x = rng.normal(size=(700, 5)).astype(np.float32) * (rng.random((700, 5)) < 0.4)
    y = rng.integers(0, 3, 700)
    more: dict[str, Any] = {"validation_fraction": 0.1}
    if form == "weighted":
        more = {"sample_weight": rng.uniform(0, 2, 700), "validation_data": (x[:50], y[:50])}

    def run(**callbacks: Any) -> Network:
        network = Network([5, 6, 3], seed=1, dropout=0.1)
        settings = {"batch_size": 60, "optimizer": "adam", "engine": engine, **more}
        features = csr_array(x) if form == "sparse" else x
        if form == "a further fit":
            network.fit(features, y, epochs=2, **settings)
        network.fit(features, y, epochs=4, schedule="invscaling", **settings, **callbacks)
        return network

    at = 1
    while interrupted(run, tmp_path / "fit", at):
        at += 1
    assert at > 2
    resumed = run(callbacks=[Checkpoint(tmp_path / "fit", resume=True)])
    uninterrupted = run()
    assert digest(resumed.parameters, {}) == digest(uninterrupted.parameters, {})
    assert resumed._position[:3] == uninterrupted._position[:3]


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_resumed_estimator_equals_uninterrupted_estimator(
    kind: Any, engine: str, tmp_path: Path, rng: Any
) -> None:
    x = rng.normal(size=(300, 4))
    y = x @ rng.normal(size=(4, 3))
    y = y.argmax(axis=1) if kind is MLPClassifier else y

    def run(**callbacks: Any) -> Any:
        settings = {"max_iter": 12, "random_state": 0, "engine": engine, "early_stopping": True}
        estimator = kind(
            hidden_layer_sizes=(5,), batch_size=50, alpha=0.1, n_iter_no_change=20, **settings
        )
        with pytest.warns(Warning):  # interrupted, or not converged
            return estimator.set_params(**callbacks).fit(x, y)

    uninterrupted, folder = run(), tmp_path / "fit"
    for at in (0, 1, 2, 3):  # an interrupted estimator warns, and raises no error
        run(callbacks=[Interrupt(at), Checkpoint(folder, resume=folder.exists())])
    resumed = run(callbacks=[Checkpoint(folder, resume=True)])
    for estimator in (resumed, uninterrupted):
        del estimator.history_["seconds"]
    for name in ("loss_curve_", "history_", "validation_scores_", "n_iter_", "t_", "best_loss_"):
        assert getattr(resumed, name) == getattr(uninterrupted, name), name
    assert resumed._network.weights_sha256() == uninterrupted._network.weights_sha256()


def test_resumed_warm_start_equals_uninterrupted_warm_start(tmp_path: Path, rng: Any) -> None:
    """The estimator already has the figures of an earlier fit and of the interrupted one."""
    x = rng.normal(size=(200, 4))
    y = (x[:, 0] > 0).astype(int)

    def fits(model: Any, callbacks: list[Any]) -> None:
        with pytest.warns(Warning):  # interrupted, or not converged
            model.set_params(callbacks=callbacks).fit(x, y)

    models = [
        MLPClassifier((5,), max_iter=5, random_state=0, engine="numpy", warm_start=True)
        for _ in range(2)
    ]
    for model in models:
        fits(model, [])
    fits(models[0], [])
    fits(models[1], [Interrupt(7), Checkpoint(tmp_path)])
    assert 5 < len(models[1].loss_curve_) < 10
    fits(models[1], [Checkpoint(tmp_path, resume=True)])
    for model in models:
        del model.history_["seconds"]
    for name in ("loss_curve_", "history_", "n_iter_", "t_", "best_loss_"):
        assert getattr(models[1], name) == getattr(models[0], name), name
    assert len(models[0].loss_curve_) == 10 and models[0].t_ == 2000


def test_resumed_fit_may_have_more_epochs_and_not_fewer(
    engine: str, digits: Dataset, tmp_path: Path
) -> None:
    name, settings = "several chunks a batch", {"engine": engine, "threads": None}
    fitted(name, digits, epochs=3, **settings, callbacks=[Checkpoint(tmp_path)])
    checkpoint = Checkpoint(tmp_path, resume=True)
    resumed = fitted(name, digits, epochs=5, **settings, callbacks=[checkpoint])
    assert checkpoint.snapshot is not None and checkpoint.snapshot.epochs == 3
    assert resumed[1] == fitted(name, digits, epochs=5, **settings)[1]
    with pytest.raises(CheckpointError, match="has 5 epochs, more than the 4 of this fit; ask"):
        fitted(name, digits, epochs=4, **settings, callbacks=[checkpoint])


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_log_of_a_resumed_fit_equals_log_of_the_uninterrupted_fit(
    name: str, digits: Dataset, tmp_path: Path
) -> None:
    def lines(path: Path) -> list[Any]:
        """Return the lines of a log without the seconds."""
        texts = path.read_text().splitlines()
        if name == "log.jsonl":
            return [{k: v for k, v in json.loads(each).items() if k != "seconds"} for each in texts]
        return [each.split(",")[:-1] for each in texts]

    fit = next(iter(FITS))
    settings = {"engine": "numpy", "threads": None, "epochs": 4}
    fitted(fit, digits, **settings, callbacks=[callbacks.LogFile(tmp_path / f"full.{name}")])

    def run(callbacks: list[Any]) -> Any:
        logs = [fastnn.LogFile(tmp_path / name), fastnn.ProgressBar()]
        return fitted(fit, digits, **settings, callbacks=[*logs, *callbacks])

    interrupts = 0
    while interrupted(run, tmp_path / "fit", 3):
        interrupts += 1
    assert interrupts > 1
    assert lines(tmp_path / name) == lines(tmp_path / f"full.{name}")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("at", [0, 1, 4, 5, 7])
def test_resumed_fit_appends_each_epoch_to_the_log_once(
    at: int, error: type[BaseException], tmp_path: Path
) -> None:
    """The log may be ahead of the last checkpoint: its lines are then written again."""

    class Fail(Interrupt):
        def _count(self) -> None:
            try:
                super()._count()
            except KeyboardInterrupt:
                raise error from None

    log, folder = fastnn.LogFile(tmp_path / "log.jsonl", append=True), tmp_path / "fit"
    small_fit(Path(), epochs=2, callbacks=[log])
    with pytest.raises(error):
        small_fit(folder, epochs=4, every=3, callbacks=[Fail(at), log])
    small_fit(folder, epochs=4, every=3, resume=True, callbacks=[log])
    epochs = [json.loads(line)["epoch"] for line in log.path.read_text().splitlines()]
    assert epochs == [1, 2, 1, 2, 3, 4]


# ---- rejected fits -----------------------------------------------------------------------------


def test_refused_fit_keeps_the_state_of_the_optimizer(engine: str, tmp_path: Path) -> None:
    small_fit(tmp_path)
    x, y = np.eye(4, dtype=np.float32), [0, 1, 0, 1]
    networks = [Network([4, 3, 2]), Network([4, 3, 2])]
    for network in networks:
        network.fit(x, y, epochs=3, optimizer="adam", engine=engine)
    with pytest.raises(CheckpointError):
        networks[0].fit(x, y, optimizer="sgd", engine=engine, callbacks=[Checkpoint(tmp_path)])
    for network in networks:
        network.fit(x, y, epochs=3, optimizer="adam", engine=engine)
    assert len({digest(network.parameters, {}) for network in networks}) == 1


@pytest.mark.parametrize("resume", [False, True])
def test_refused_fit_of_an_estimator_changes_nothing(resume: bool, tmp_path: Path) -> None:
    small_fit(tmp_path)
    x, y = np.eye(9), np.arange(9) % 3
    model = MLPClassifier((4,), max_iter=30, n_iter_no_change=99, engine="numpy")
    with pytest.warns(Warning, match="Maximum iterations"):
        model.fit(x, y)
    before, attributes = model.predict_proba(x), dict(vars(model))
    model.set_params(callbacks=[Checkpoint(tmp_path, resume=resume)])
    with pytest.raises(CheckpointError):
        model.fit(x, y)
    np.testing.assert_array_equal(model.predict_proba(x), before)
    assert {**vars(model), "callbacks": None} == {**attributes, "callbacks": None}
    with pytest.raises(ValueError, match="^partial_fit does not support Checkpoint: save the"):
        model.partial_fit(x, y)


# ---- the identity of a fit ------------------------------------------------------------------


def change_a_cell(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x[7, 1] = np.nextafter(x[7, 1], np.float32(9))
    return x, y


@pytest.mark.parametrize(
    ("change", "item"),
    [
        ({"seed": 1}, "seed is 0 in the checkpoint, and 1"),
        ({"engine": "numba"}, "engine is numpy in the checkpoint, and numba"),
        ({"batch_size": 20}, "batch_size is 10 in the checkpoint, and 20"),
        ({"learning_rate": 0.01}, "learning_rate is 0.001 in the checkpoint, and 0.01"),
        ({"optimizer": "sgd"}, "optimizer is adam in the checkpoint, and sgd now; lear"),
        ({"schedule": "cosine"}, "schedule is constant .*, and cosine now; epochs is missing in"),
        ({"l2": 0.5}, "l2 is 0.0 in the checkpoint, and 0.5"),
        ({"shuffle": False}, "shuffle is True in the checkpoint, and False"),
        ({"sample_weight": np.ones(40)}, "training weights is none in .*, and given now$"),
        ({"validation_fraction": 0.5}, "batch_size|training rows is 40 in .*, and 20 now; "),
        ({"data": change_a_cell}, "training features differ$"),
        ({"data": lambda x, y: (x, 1 - y)}, "training targets differ$"),
        ({"early_stopping": fastnn.EarlyStopping("loss")}, "early_stopping is None in the ch"),
    ],
)  # fmt: skip
def test_rejects_a_checkpoint_of_another_fit(
    change: dict[str, Any], item: str, tmp_path: Path
) -> None:
    small_fit(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/checkpoint-0+12.*: {item}") as raised:
        small_fit(tmp_path, resume=True, **change)
    assert "\n" not in str(raised.value)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_settings_1_and_1_0_are_equal(tmp_path: Path) -> None:
    result = small_fit(tmp_path, learning_rate=1)
    assert small_fit(tmp_path, learning_rate=1.0, resume=True) == result


def test_rejects_a_checkpoint_of_other_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_fit(tmp_path, engine="numba")
    for name, value in (("numba", "0.1"), ("fused multiply-add", "perhaps")):
        with monkeypatch.context() as patch:
            patch.setitem(NumbaEngine.arithmetic, name, value)
            with pytest.raises(CheckpointError, match=f"{name} is .*, and {value} now$"):
                small_fit(tmp_path, engine="numba", resume=True)


@pytest.mark.parametrize("library", ["fastnn", "numpy"])
def test_rejects_a_checkpoint_of_another_version(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_fit(tmp_path)
    old = fastnn.__version__ if library == "fastnn" else np.__version__
    target = (checkpoints if library == "fastnn" else np), "__version__"
    monkeypatch.setattr(*target, "9.9")
    with pytest.raises(CheckpointError, match=f": {library} is {old} in .*, and 9.9 now$"):
        small_fit(tmp_path, resume=True)


def test_every_field_of_a_plan_is_compared() -> None:
    """A new field must become an item, or belong to an optimizer without checkpoints."""
    known = {"epochs", "batch_size", "optimizer", "schedule", "l2", "l2_is_shared", "clip_norm"}
    known |= {"shuffle", "seed", "early_stopping"}  # items
    known |= {"max_evaluations", "tolerance"}  # of L-BFGS, which has no checkpoints
    assert set(Plan.__dataclass_fields__) == known


def test_selected_rows_have_the_hash_of_their_copy(rng: np.random.Generator) -> None:
    from fastnn.data.features import select_rows
    from fastnn.data.sparse import SparseRows

    x, rows = rng.normal(size=(9000, 3)).astype(np.float32), rng.permutation(9000)[:8500]
    assert checkpoints._digest(select_rows(x, rows)) == checkpoints._digest(x[rows])
    csr = csr_array(x * (x > 0.5))
    sparse = SparseRows(csr.indptr.astype("i8"), csr.indices.astype("i4"), csr.data, 3)
    found = {checkpoints._digest(each) for each in (sparse, sparse[:8999], x, x[:, ::-1].copy())}
    assert len(found) == 4
    assert checkpoints._digest(select_rows(sparse, rows)) == checkpoints._digest(sparse[rows])


def test_rejects_lbfgs_and_two_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^lbfgs does not support checkpoints"):
        small_fit(tmp_path, optimizer="lbfgs", batch_size=None)
    with pytest.raises(ValueError, match="^at most one Checkpoint per fit, got 2$"):
        small_fit(tmp_path, callbacks=[Checkpoint(tmp_path)])
    with pytest.raises(ValueError, match="^every must be a whole number of at least 1, got 0$"):
        Checkpoint(tmp_path, every=0)
    assert names(tmp_path) == []


# ---- infinities and interrupts ------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the network has not learned")
def test_checkpoint_may_hold_infinite_mean_squares(engine: str, tmp_path: Path) -> None:
    """Adam no longer changes such weights, with and without checkpoints."""
    x = np.full((20, 2), 1e20, np.float32)
    x[:, 1] = np.arange(20)

    def run(*callbacks: Checkpoint) -> str:
        network = Network([2, 1], loss="squared_error")
        network.parameters = [(np.float32([[1e-20], [0]]), np.float32([0]))]
        settings = {"epochs": 3, "optimizer": "adam", "engine": engine}
        history = network.fit(x, np.arange(20.0), **settings, callbacks=callbacks)
        return digest(network.parameters, {"loss": history["loss"]})

    expected = run()
    assert run(Checkpoint(tmp_path)) == expected
    snapshot, _ = checkpoints.read_snapshot(tmp_path / names(tmp_path)[-1])
    assert not np.isfinite(snapshot.state[1][0][0]).all()
    assert run(Checkpoint(tmp_path, resume=True)) == expected


def test_interrupt_during_divergence_writes_no_checkpoint(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network keeps the last finite weights."""
    x = np.ones((400, 2), np.float32)
    y = np.ones(400)
    y[-1] = np.finfo(np.float32).max
    network = Network([2, 1], loss="squared_error")
    running = network.use_engine(engine)
    run_chunk = type(running).run_chunk

    def signalled(*arguments: Any) -> Any:
        progress = run_chunk(*arguments)
        if not np.isfinite(progress.loss_sum):
            signal.raise_signal(signal.SIGINT)
        return progress

    monkeypatch.setattr(type(running), "run_chunk", signalled)
    with pytest.raises(KeyboardInterrupt):
        network.fit(x, y, shuffle=False, engine=engine, batch_size=10,
                    callbacks=[Checkpoint(tmp_path)])  # fmt: skip
    assert numbers(tmp_path) == [0]
    assert_finite(network.parameters)


def test_interrupt_while_a_divergence_is_handled_writes_a_checkpoint(tmp_path: Path) -> None:
    """A fit with a smaller learning rate may run in the ``except`` block of the diverged one."""
    with suppress(DivergenceError):
        try:
            raise DivergenceError("the loss is not finite", epoch=1, step=1)
        finally:
            with pytest.raises(KeyboardInterrupt) as raised:
                small_fit(tmp_path, every=9, callbacks=[Interrupt(3)])
    assert isinstance(raised.value.__context__, DivergenceError)
    assert numbers(tmp_path) == [0, 8]


@pytest.mark.filterwarnings("error")
def test_checkpoint_that_fails_at_an_interrupt_raises_the_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class RecordBreak(Interrupt):
        def on_fit_break(self) -> None:
            calls.append("on_fit_break")

    write = checkpoints.write_snapshot

    def fail(*arguments: Any) -> None:
        if names(tmp_path):
            raise MemoryError
        write(*arguments)

    monkeypatch.setattr(checkpoints, "write_snapshot", fail)
    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path, callbacks=[RecordBreak(0)])
    assert calls == ["on_fit_break"]


# ---- failing system calls -------------------------------------------------------------------


def resume_after_failing_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> int:
    """Let each system call fail in turn, and resume; return the number of fits that failed."""
    uninterrupted, failures = small_fit(Path()), 0
    for name in ("write", "fsync", "replace", "open"):
        for code in (errno.ENOSPC, errno.EIO):
            for at in range(1, most):
                folder = tmp_path / f"{name} {code} {at}"
                calls: list[str] = []
                error = OSError(code, os.strerror(code))
                with monkeypatch.context() as patch:
                    patch.setattr(os, name, failing(name, at, error, calls))
                    try:
                        small_fit(folder)
                    except OSError as raised:
                        assert raised.errno == code
                        failures += 1
                if len(calls) < at:
                    break
                assert not any(".tmp" in each for each in names(folder))
                assert small_fit(folder, resume=bool(names(folder))) == uninterrupted
    return failures


def test_fit_resumes_after_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resume_after_failing_calls(tmp_path, monkeypatch, 100) >= 2 * 3 * 4


@pytest.mark.long
def test_fit_resumes_after_many_failed_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any call may fail, also the one that removes the temporary file; writes may be short."""
    uninterrupted, chance, write = small_fit(Path()), random.Random(0), os.write
    failures = 0
    for _ in range(int(os.environ.get("FASTNN_ROUNDS", 5000))):
        shutil.rmtree(tmp_path / "fit", ignore_errors=True)
        code = chance.choice([errno.ENOSPC, errno.EIO, errno.EDQUOT])
        error, part = OSError(code, os.strerror(code)), chance.choice([1, 2, 7])
        calls: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(
                os, "write", lambda file, data, part=part: write(file, data[: part * 999])
            )
            for name in {chance.choice(["write", "fsync", "replace", "close"]), "unlink"}:
                patch.setattr(os, name, failing(name, chance.randrange(1, 12), error, calls))
            try:
                small_fit(tmp_path / "fit")
            except OSError:
                failures += 1
        found = list((tmp_path / "fit").glob("checkpoint-*"))
        assert small_fit(tmp_path / "fit", resume=bool(found)) == uninterrupted
    assert failures


def test_checkpoints_survive_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    expected = small_fit(Path())
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2 + 1]))
    assert small_fit(tmp_path) == expected == small_fit(tmp_path, resume=True)
