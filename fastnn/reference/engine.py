"""The reference engine: forward, backward and update of a network, in the order of the formulas.

It is written to be read, not to be fast. `fastnn.kernels.engine` computes the same, and tests
compare the two.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from fastnn.data.conversion import check_finite
from fastnn.data.features import Features, to_dense
from fastnn.data.rows import Data
from fastnn.epoch import CHUNK_ROWS, Epoch, Progress, next_chunk
from fastnn.model.layers import Dense, Parameters
from fastnn.model.losses import Loss
from fastnn.model.optimizers import Optimizer
from fastnn.model.randomness import keep_mask
from fastnn.reference import activations
from fastnn.reference.dense import dense_backward_input, dense_backward_weights, dense_forward
from fastnn.reference.dropout import drop
from fastnn.reference.losses import loss_backward, loss_forward, predict
from fastnn.reference.updates import (
    adam_update,
    add_l2,
    clip_gradient,
    decay_weights,
    momentum_update,
    sgd_update,
)
from fastnn.system.forks import fork_safe_lock, reject_reentry
from fastnn.system.memory import empty_predictions

Method = TypeVar("Method", bound=Callable[..., Any])


def _locked(method: Method) -> Method:
    """Run a method under the engine's lock, because all calls share the buffers.

    NumPy's floating-point warnings are off: the caller reports a loss that overflows.
    """

    @wraps(method)
    def locked(self: "ReferenceEngine", *args: Any, **kwargs: Any) -> Any:
        with reject_reentry(self._lock), np.errstate(all="ignore"):
            return method(self, *args, **kwargs)

    return cast(Method, locked)


def _blas() -> str:
    """Return the name and version of NumPy's BLAS library."""
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name')} {blas.get('version')}"


class ReferenceEngine:
    """The engine in plain NumPy. `fastnn.engine.Engine` documents the methods.

    Each layer has buffers (CHUNK_ROWS, width); a shorter chunk uses the first rows. For layer i,
    ``x[i]`` is the input, ``z[i]`` the pre-activation, ``a[i]`` the output and ``dz[i]`` the
    gradient of the loss with respect to ``z[i]``. ``x[0]`` holds the scaled features, and
    ``x[i + 1]`` is ``a[i]`` after dropout.
    """

    name = "numpy"
    threads: int | None = None
    threading_layer: str | None = None
    compile_seconds = 0.0
    compiled = False
    arithmetic: Mapping[str, str] = {"BLAS": _blas()}

    def __init__(self, layers: Sequence[Dense], loss: Loss, *, input_scale: float) -> None:
        self.layers = tuple(layers)
        self.loss = loss
        self._lock = fork_safe_lock()
        self.input_scale = np.float32(input_scale)
        self._x = [_rows(layer.inputs) for layer in self.layers]
        self._z, self._a, self._dz = (
            [_rows(layer.outputs) for layer in self.layers] for _ in range(3)
        )
        self._p, self._losses = _rows(self.layers[-1].outputs), np.empty(CHUNK_ROWS, np.float32)
        self._masks: list[np.ndarray | None] = [None] * len(self.layers)  # of layers' inputs
        self._parameters = self._zeros()
        self._gradients = self._zeros()  # of a batch: the sum over its chunks
        self._chunk_gradients = self._zeros()
        self._state: list[Parameters] = []  # of the optimizer

    def _zeros(self) -> Parameters:
        return [
            (np.zeros((layer.inputs, layer.outputs), np.float32), np.zeros(layer.outputs, "f4"))
            for layer in self.layers
        ]

    @_locked
    def get_parameters(self) -> Parameters:
        """Return a copy of the parameters."""
        return [(w.copy(), b.copy()) for w, b in self._parameters]

    @_locked
    def set_parameters(self, parameters: Parameters) -> None:
        """Set the parameters; the engine copies them."""
        for (w, b), (new_w, new_b) in zip(self._parameters, parameters, strict=True):
            w[...], b[...] = new_w, new_b

    @_locked
    def get_state(self, slots: int) -> list[Parameters]:
        """Return a copy of the optimizer's state."""
        return [[(w.copy(), b.copy()) for w, b in slot] for slot in self._slots(slots)]

    @_locked
    def set_state(self, state: list[Parameters]) -> None:
        """Set the optimizer's state; the engine copies it, and zeros the slots that are missing."""
        self._state = [[(w.copy(), b.copy()) for w, b in slot] for slot in state]

    @_locked
    def run_chunk(self, epoch: Epoch, progress: Progress, min_rows: int) -> Progress:
        """Train on at least `min_rows` more rows, or to the end of the epoch."""
        position, loss_sum, correct = progress
        rows = len(epoch.order)
        epoch.data.check_not_resized(self.layers[0].inputs, rows)
        stop = min(rows, position + min_rows)
        while position < stop:
            chunk = next_chunk(position, rows, epoch.batch_size)
            update = chunk.start // epoch.batch_size
            data = epoch.data.take(epoch.order[chunk.start : chunk.stop])
            self._draw_masks(epoch, np.arange(chunk.start, chunk.stop))
            chunk_loss, chunk_correct = self._forward_with_loss(data)
            loss_sum += chunk_loss
            if not np.isfinite(loss_sum):
                break
            correct += chunk_correct
            denominator = epoch.denominators[update]
            self._backward(data, denominator, chunk.first)
            if chunk.last:
                penalty = self._add_penalty(float(epoch.penalties[update]))
                loss_sum += float(denominator) * penalty
                self._update(epoch, update)
            position = chunk.stop
        return Progress(position, loss_sum, correct)

    @_locked
    def loss_and_grad(self, data: Data, *, l2: float = 0.0) -> tuple[float, Parameters]:
        """Return the mean loss of all rows as one batch, and its gradient, without dropout."""
        total, loss_sum = np.float32(data.total_weight), 0.0
        for start, part in self._chunks(data):
            loss_sum += self._forward_with_loss(part)[0]
            self._backward(part, total, first=start == 0)
        mean = loss_sum / data.total_weight + self._add_penalty(l2)
        return mean, [(dw.copy(), db.copy()) for dw, db in self._gradients]

    @_locked
    def evaluate(self, data: Data) -> tuple[float, float]:
        """Return the mean loss and the accuracy."""
        loss_sum, correct = 0.0, 0.0
        for _, part in self._chunks(data):
            chunk_loss, chunk_correct = self._forward_with_loss(part)
            loss_sum += chunk_loss
            correct += chunk_correct
        return loss_sum / data.total_weight, correct / data.total_weight

    @_locked
    def predict(self, x: Features) -> np.ndarray:
        """Return predictions (rows, O) float32."""
        check_finite(x, "x")
        self._clear_masks()
        p = empty_predictions(len(x), self.layers[-1].outputs)
        for start in range(0, len(x), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            predict(p[part], self._forward(x[part]), self.loss)
        return p

    def _chunks(self, data: Data) -> Iterator[tuple[int, Data]]:
        """Yield the chunks of all rows, each with its start, for passes without dropout."""
        self._clear_masks()
        for start in range(0, len(data.x), CHUNK_ROWS):
            data.check_not_resized(self.layers[0].inputs)
            yield start, data.take(slice(start, start + CHUNK_ROWS))

    def _clear_masks(self) -> None:
        """Turn dropout off."""
        self._masks = [None] * len(self.layers)

    def _draw_masks(self, epoch: Epoch, positions: np.ndarray) -> None:
        """Draw the dropout masks of a chunk; a layer without dropout has none."""
        for i, layer in enumerate(self.layers):
            if layer.dropout:
                self._masks[i] = keep_mask(
                    epoch.seed, epoch.number, i, positions, layer.inputs, layer.dropout
                )

    def _forward(self, features: Features) -> np.ndarray:
        """Compute all layers for a chunk's features; return the last z."""
        rows = len(features)
        x = self._x[0][:rows]
        np.multiply(to_dense(features), self.input_scale, out=x, dtype=np.float32)
        for i, (layer, (w, b)) in enumerate(zip(self.layers, self._parameters, strict=True)):
            x, z, a = (buffer[i][:rows] for buffer in (self._x, self._z, self._a))
            if i > 0:
                x[...] = self._a[i - 1][:rows]
            if (mask := self._masks[i]) is not None:
                drop(x, mask, layer.dropout)
            dense_forward(z, x, w, b)
            _activation(layer, "forward")(a, z)
        return z

    def _forward_with_loss(self, data: Data) -> tuple[float, float]:
        """Compute a chunk's outputs; return its loss sum and the weight of its correct rows."""
        losses, p = self._losses[: len(data.x)], self._p[: len(data.x)]
        z = self._forward(data.x)
        loss_forward(losses, p, z, data.targets, self.loss)
        if data.weights is not None:
            losses[...] = _weighted(losses, data.weights)
        correct = np.zeros(len(z))
        if self.loss.takes_labels:
            correct = z.argmax(axis=1) == data.targets
        elif self.loss.score == "accuracy":
            correct = ((z > 0) == (data.targets > 0.5)).all(axis=1)
        if data.weights is not None:
            correct = correct * data.weights
        return float(losses.sum(dtype=np.float64)), float(correct.sum(dtype=np.float64))

    def _backward(self, data: Data, denominator: np.float32, first: bool) -> None:
        """Compute the gradients of the chunk of the last forward pass; add them to the batch's.

        The loss of a batch is the sum of its rows' weighted losses, divided by `denominator`.
        """
        rows = len(data.x)
        x, z, a, dz = ([b[:rows] for b in each] for each in (self._x, self._z, self._a, self._dz))
        loss_backward(dz[-1], self._p[:rows], data.targets, self.loss)
        if data.weights is not None:
            dz[-1][...] = _weighted(dz[-1], data.weights[:, None])
        dz[-1] /= denominator
        for i in reversed(range(len(self.layers))):
            dw, db = (self._gradients if first else self._chunk_gradients)[i]
            dense_backward_weights(dw, db, dz[i], x[i])
            if i > 0:
                previous, da = self.layers[i - 1], dz[i - 1]
                dense_backward_input(da, dz[i], self._parameters[i][0])
                if (mask := self._masks[i]) is not None:
                    drop(da, mask, self.layers[i].dropout)
                output = z[i - 1] if previous.activation == "gelu" else a[i - 1]
                _activation(previous, "backward")(da, da, output)
        if not first:
            for total, part in zip(self._gradients, self._chunk_gradients, strict=True):
                for total_array, part_array in zip(total, part, strict=True):
                    total_array += part_array

    def _add_penalty(self, l2: float) -> float:
        """Add the gradient of ``l2 / 2 · Σ w²`` to the batch's; return the penalty."""
        if l2 == 0:
            return 0.0
        squares = 0.0
        for (w, _), (dw, _) in zip(self._parameters, self._gradients, strict=True):
            squares += float(np.sum(w * w, dtype=np.float64))
            add_l2(dw, w, l2)
        return l2 / 2 * squares

    def _update(self, epoch: Epoch, update: int) -> None:
        """Update all parameters by the gradients of a batch."""
        rate, decay = epoch.step_sizes[update], epoch.decays[update]
        slots = self._slots(epoch.optimizer.slots)
        if epoch.clip_norm:
            clip_gradient([dw for pair in self._gradients for dw in pair], epoch.clip_norm)
        for i, pair in enumerate(zip(self._parameters, self._gradients, strict=True)):
            if decay:
                decay_weights(self._parameters[i][0], decay)
            for j, (w, dw) in enumerate(zip(*pair, strict=True)):
                _apply_rule(w, dw, [slot[i][j] for slot in slots], rate, epoch.optimizer)

    def _slots(self, count: int) -> list[Parameters]:
        """Return the first `count` slots of the optimizer's state; new ones are zero.

        A slot is one array of state for each parameter, such as the velocities of momentum.
        """
        while len(self._state) < count:
            self._state.append(self._zeros())
        return self._state[:count]


def _rows(width: int) -> np.ndarray:
    return np.empty((CHUNK_ROWS, width), np.float32)


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Multiply by sample weights; the product with a weight of 0 is 0, even for inf and NaN."""
    return np.where(weights == 0, 0, values * weights)


def _activation(layer: Dense, direction: str) -> Callable[..., None]:
    """Return the function of a layer's activation; direction is "forward" or "backward"."""
    if layer.activation == "identity":
        return lambda output, source, *_: np.copyto(output, source)
    return getattr(activations, f"{layer.activation}_{direction}")


def _apply_rule(
    w: np.ndarray, dw: np.ndarray, state: list[np.ndarray], rate: np.float32, optimizer: Optimizer
) -> None:
    """Update a parameter by an optimizer's rule."""
    if optimizer.rule == "adam":
        m, v = state
        adam_update(w, m, v, dw, rate, optimizer.beta1, optimizer.beta2, optimizer.eps)
    elif optimizer.rule == "momentum":
        (u,) = state
        momentum_update(w, u, dw, rate, optimizer.momentum, optimizer.nesterov)
    else:
        sgd_update(w, dw, rate)
