"""The state of a running fit, and the base class of callbacks."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import numpy as np

from fastnn.epoch import Progress
from fastnn.model.layers import Parameters
from fastnn.model.schedules import ADAPTIVE_END, ADAPTIVE_FACTOR
from fastnn.system.interrupts import DeferInterrupts
from fastnn.training.early_stopping import EarlyStopping, StoppingState, is_over, judge
from fastnn.training.evaluation import evaluate
from fastnn.training.state import History, Position, Prepared, Snapshot

# Without early stopping, an adaptive rate depends on the training loss, as in scikit-learn.
_ADAPTIVE = EarlyStopping("loss", patience=10, min_delta=1e-4, restore_best=False)

Score = Callable[[], float]
State = dict[str, list[float]]


class Callback:
    """Base class of callbacks: methods that run during training. Override the ones you need.

    Callbacks run in Python between calls of the engine. An exception in a callback ends the fit;
    the network keeps its current weights, or the best ones if early stopping restores those.

    Attributes
    ----------
    defers_interrupts : bool
        Whether a Ctrl-C during `on_epoch_end` takes effect only when the method has returned; by
        default False. The fit calls the callbacks with True first. They and the epoch's count are
        updated together: an interrupt cannot come in between.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import Callback, Network
    >>> class StopAtLoss(Callback):
    ...     def __init__(self, loss):
    ...         self.loss = loss
    ...     def on_epoch_end(self, epoch, metrics):
    ...         if metrics["loss"] < self.loss:
    ...             self.fit.stop()
    >>> x, y = np.eye(4, dtype=np.float32), [0, 1, 0, 1]
    >>> history = Network([4, 8, 2]).fit(x, y, epochs=500, callbacks=[StopAtLoss(0.1)])
    >>> len(history["loss"]) < 500, history["loss"][-1] < 0.1
    (True, True)
    """

    defers_interrupts = False

    @property
    def fit(self) -> "Fit":
        """The running fit: its `epoch`, `position`, `history`, `weights()`, `snapshot()`, `stop()`.

        The attribute exists from the call of `context` to the end of the fit. Only one fit at a
        time can use a callback.
        """
        if id(self) not in _fits:
            raise AttributeError("self.fit exists only while a fit is running")
        return _fits[id(self)]

    def context(self) -> AbstractContextManager[Any]:
        """Return a context manager, which is entered before training and exited after it.

        The fit has changed nothing when it enters the context: an exception there cancels the fit.
        The context may call ``self.fit.resume_from``.
        """
        return nullcontext()

    def on_fit_begin(self, epochs: int, rows: int) -> None:
        """Run before the first epoch; the fit has at most `epochs` epochs of `rows` rows."""

    def on_resume(self, epoch: int, rows: int, history: History) -> None:
        """Run after `on_fit_begin` if the fit resumes from a snapshot.

        `rows` rows of epoch number `epoch`, counted from 1, are done. `history` holds the metrics
        of the epochs that this fit has completed before.
        """

    def on_epoch_begin(self, epoch: int) -> None:
        """Run before an epoch, counted from 1."""

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """Run after a call of the engine, about every 20 ms; `rows` rows of the epoch are done."""

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> bool | None:
        """Run after an epoch, counted from 1; return True to end the fit.

        `metrics` holds the values that `fastnn.Network.fit` adds to the history.
        """

    def on_epoch_boundary(self, epochs: int) -> None:
        """Run between epochs; this fit has completed `epochs` epochs.

        It runs before the first epoch, unless the fit resumes, and after each epoch, when
        `on_epoch_end` of all callbacks has returned: a good time for ``self.fit.snapshot()``.
        """

    def on_fit_end(self, history: History) -> None:
        """Run after the last epoch."""

    def on_fit_break(self) -> None:
        """Run if an exception ends the fit, even one in `on_fit_end`; it is ``self.fit.error``."""

    def replay(self, epoch: int, history: History) -> None:
        """Call `on_epoch_end` for each epoch of a history that ends before `epoch`."""
        epochs = list(zip(*history.values(), strict=True))
        for number, values in enumerate(epochs, start=epoch - len(epochs)):
            self.on_epoch_end(number, dict(zip(history, values, strict=True)))

    def state(self) -> State:
        """Return the state of the callback for a snapshot, a dict of lists of numbers."""
        return {}

    def set_state(self, state: State) -> None:
        """Restore the state from a snapshot; runs before `on_resume` if the snapshot has one."""


# Running fits by the ids of their callbacks. They are not attributes of the callbacks, because
# copies and pickles would include them, and frozen dataclasses do not allow it.
_fits: dict[int, "Fit"] = {}


class Fit:
    """A running fit.

    Its position and history describe the end of the last complete batch. Interrupts are deferred
    while they change.

    Parameters
    ----------
    network : Network
        Its position is updated during the fit.
    prepared : Prepared
    callbacks : iterable of Callback
    score : callable, optional
        Called after each epoch; its value is added to the history as ``val_score``.
    stopping, rate_divisor
        Attributes of the `Position` at the end of the fit that this one continues.

    Attributes
    ----------
    network : Network
    engine : Engine
    plan : Plan
    batch_size : int
        Rows per update: all rows for "full".
    data, validation : Data, Data or None
    start : Position
        Position at the beginning of the fit.
    history : dict of str to list of float
    error : BaseException or None
        The exception that ended the fit.
    has_diverged : bool
        Whether the loss or a weight is no longer finite.
    """

    def __init__(
        self,
        network: Any,
        prepared: Prepared,
        *,
        callbacks: Iterable[Callback] = (),
        score: Score | None = None,
        stopping: StoppingState | None = None,
        rate_divisor: float = 1.0,
    ) -> None:
        self.network, self.engine = network, network._current_engine()
        self.data, self.validation, plan = prepared.training, prepared.validation, prepared.plan
        self.rows = len(self.data.x)
        self.plan = plan
        size = self.rows if plan.batch_size == "full" else plan.batch_size
        self.batch_size = min(size, self.rows)
        self.callbacks, self._score = check_callbacks(callbacks), score
        self.history: History = {}
        self.error: BaseException | None = None
        self.has_diverged = False
        self._continues = network._rule == plan.optimizer.rule  # keeps the optimizer's state
        self.start = self.position._replace(
            updates=self.position.updates if self._continues else 0, progress=Progress(),
            seconds=0.0, stopping=stopping or StoppingState(), rate_divisor=rate_divisor,
            stopped="",
        )  # fmt: skip
        self._best: Parameters | None = None
        self._resumed: Snapshot | None = None
        self._stop_requested = False
        self._adaptive = plan.schedule.name == "adaptive" and plan.optimizer.rule != "lbfgs"
        self._stopping_rule = plan.early_stopping or (_ADAPTIVE if self._adaptive else None)

    # ---- for callbacks ----------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """How far the network has been trained."""
        return self.network._position

    @position.setter
    def position(self, position: Position) -> None:
        self.network._position = position

    @property
    def epoch(self) -> int:
        """The running epoch, counted from 1 over all fits of the network."""
        return self.position.epochs + 1

    @property
    def is_over(self) -> bool:
        """Whether no further epoch follows the completed ones."""
        done = self.position.epochs - self.start.epochs
        return done >= self.plan.epochs or bool(self.position.stopped)

    def weights(self) -> Parameters:
        """Return a copy of the current weights: ``(w, b)`` per layer."""
        return self.engine.get_parameters()

    def snapshot(self) -> Snapshot:
        """Return a copy of the state of the fit, as of the last completed batch."""
        history = {name: list(curve) for name, curve in self.history.items()}
        slots = self.plan.optimizer.slots
        states = {name: _checked_state(each) for name, each in self._named_callbacks()}
        best = self._best and [(w.copy(), b.copy()) for w, b in self._best]
        return Snapshot(
            self.start, self.position, self.engine.get_parameters(), self.engine.get_state(slots),
            best, history, {name: state for name, state in states.items() if state},
        )  # fmt: skip

    def stop(self) -> None:
        """End the fit after the running epoch or, if called between epochs, after the next one."""
        self._stop_requested = True

    def resume_from(self, snapshot: Snapshot) -> None:
        """Start this fit from a snapshot; only `Callback.context` may call it."""
        self._resumed, self.start = snapshot, snapshot.start

    # ---- for the loop -----------------------------------------------------------------------

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Make this object available as ``callback.fit`` to its callbacks.

        Raises
        ------
        RuntimeError
            If a callback is in use by another running fit.
        """
        try:
            for callback in self.callbacks:
                if _fits.setdefault(id(callback), self) is not self:
                    raise RuntimeError(
                        f"the callback {type(callback).__name__} is in use by another running fit; "
                        "give each fit its own callbacks"
                    )
            yield
        finally:
            for callback in self.callbacks:
                if _fits.get(id(callback)) is self:
                    del _fits[id(callback)]

    def call(self, hook: str, *arguments: Any) -> None:
        """Call a method of every callback."""
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)

    def begin(self) -> None:
        """Set the initial state of the fit or the state of a snapshot, and run `on_fit_begin`."""
        rule, snapshot = self._stopping_rule, self._resumed
        with DeferInterrupts():
            self.position = self.start
            if not self._continues:
                optimizer = self.plan.optimizer
                self.network._rule, self.network._slots = optimizer.rule, optimizer.slots
                self.engine.set_state([])
            if rule is not None and rule.restore_best and self.start.stopping.best_epoch:
                self._best = self.weights()  # from the fit that this one continues
        self.call("on_fit_begin", self.plan.epochs, self.rows)
        if snapshot is None:
            self.call("on_epoch_boundary", 0)
            return
        with DeferInterrupts():
            self.engine.set_parameters(snapshot.parameters)
            self.engine.set_state(snapshot.state)
            self._best = snapshot.best
            self.history = {name: list(curve) for name, curve in snapshot.history.items()}
            self.position = snapshot.position
            for name, callback in self._named_callbacks():
                if name in snapshot.callbacks:
                    callback.set_state(snapshot.callbacks[name])
        self.call("on_resume", self.epoch, self.position.progress.position, self.history)

    def position_at(self, epochs: int, progress: Progress) -> tuple[int, int, int]:
        """Return the counts of a `Position` in this fit: epochs, samples and updates."""
        done, size = epochs - self.start.epochs, self.batch_size
        updates = done * -(-self.rows // size) + -(-progress.position // size)
        return epochs, self.start.samples + done * self.rows, self.start.updates + updates

    def advance(self, progress: Progress, seconds: float) -> None:
        """Record the progress and the seconds of the running epoch if a batch has just ended."""
        if progress.position % self.batch_size == 0 or progress.position == self.rows:
            self._move(self.position.epochs, progress, seconds)

    def _move(self, epochs: int, progress: Progress, seconds: float) -> None:
        counts, last = self.position_at(epochs, progress), self.position
        # `last._replace(...)` takes three times as long, twice in each epoch.
        self.position = Position(
            *counts, progress, seconds, last.stopping, last.rate_divisor, last.stopped
        )

    def end_epoch(self, metrics: dict[str, float]) -> None:
        """Record the metrics of a completed epoch, and call the callbacks."""
        metrics |= self._validate()
        number = self.epoch
        with DeferInterrupts():
            for name, value in metrics.items():
                self.history.setdefault(name, []).append(value)
            if self._stopping_rule is not None:
                self._judge(self._stopping_rule, number, metrics)
            self._move(number, Progress(), 0.0)
            self._call_epoch_end(number, metrics, deferring=True)
        self._call_epoch_end(number, metrics, deferring=False)
        if self._stop_requested and not self.position.stopped:
            self.position = self.position._replace(stopped="callback")
        self.call("on_epoch_boundary", self.position.epochs - self.start.epochs)

    def _call_epoch_end(self, number: int, metrics: dict[str, float], deferring: bool) -> None:
        for callback in self.callbacks:
            if bool(callback.defers_interrupts) == deferring:
                answer = callback.on_epoch_end(number, metrics)
                if isinstance(answer, bool | np.bool_) and answer:
                    self.stop()

    def restore_best(self) -> None:
        """Set the weights of the best epoch, if there are any; further calls do nothing."""
        if self._best is not None:
            self.engine.set_parameters(self._best)
            self._best = None  # `on_fit_end` may set other weights

    @property
    def classifies(self) -> bool:
        """Whether the network is a classifier."""
        return self.network.loss.score == "accuracy"

    def _validate(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if self.validation is not None:
            loss = self.network.loss
            names = "val_loss", f"val_{loss.score}"
            metrics.update(zip(names, evaluate(self.engine, self.validation, loss), strict=True))
        if self._score is not None:
            metrics["val_score"] = float(self._score())
        return metrics

    def _judge(self, rule: EarlyStopping, number: int, metrics: dict[str, float]) -> None:
        """Apply early stopping or an adaptive learning rate to the metrics of an epoch."""
        position, stopped = self.position, self.position.stopped
        stopping = judge(rule, position.stopping, number, metrics[rule.monitor])
        divisor = position.rate_divisor
        if rule.restore_best and stopping.best_epoch != position.stopping.best_epoch:
            self._best = self.weights()
        if is_over(rule, stopping):
            rate = self.plan.optimizer.learning_rate / divisor
            if self._adaptive and rate > ADAPTIVE_END:
                divisor, stopping = divisor * ADAPTIVE_FACTOR, stopping._replace(waited=0)
            else:
                stopped = "converged"
        self.position = position._replace(stopping=stopping, rate_divisor=divisor, stopped=stopped)

    def _named_callbacks(self) -> Iterator[tuple[str, Callback]]:
        """Yield the callbacks with unique names: "Class", "Class 2" and so on."""
        names: list[str] = []
        for callback in self.callbacks:
            names.append(type(callback).__name__)
            number = names.count(names[-1])
            yield names[-1] + (f" {number}" if number > 1 else ""), callback


def check_callbacks(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """Return callbacks as a tuple, or raise a TypeError if one is not a `Callback`."""
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list of callbacks, got {callbacks!r}")
    callbacks = tuple(callbacks)
    for each in callbacks:
        if not isinstance(each, Callback):
            raise TypeError(f"callbacks must be instances of fastnn.Callback, got {each!r}")
    return callbacks


def _checked_state(callback: Callback) -> State:
    """Return a callback's state, or raise a TypeError if it is not a dict of lists of numbers."""
    state = callback.state()
    with suppress(AttributeError, TypeError, ValueError):
        return {str(name): [float(value) for value in values] for name, values in state.items()}
    name = type(callback).__name__
    raise TypeError(f"{name}.state() must return a dict of lists of numbers, got {state!r:.80}")
