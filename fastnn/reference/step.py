"""The reference engine: one chunk forward and backward, in the order of the formulas.

Made to be read and trusted, not to be fast: `fastnn.kernels.step` does the same work and is
tested against this.
"""

from collections.abc import Sequence

import numpy as np

from fastnn.batches import CHUNK_ROWS, Epoch, Progress, next_chunk
from fastnn.inputs import check_finite
from fastnn.layers import Dense, Parameters
from fastnn.optimizers import Optimizer
from fastnn.reference.activations import relu_backward, relu_forward
from fastnn.reference.dense import dense_backward_input, dense_backward_weights, dense_forward
from fastnn.reference.losses import (
    softmax,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from fastnn.reference.updates import (
    adam_update,
    add_l2,
    decay_weights,
    momentum_update,
    sgd_update,
)

# A loss that overflows is divergence, which the caller reports: no warning beside it.
_quiet = np.errstate(all="ignore")


class ReferenceEngine:
    """The engine in plain NumPy. `fastnn.engine.Engine` says what each method does.

    Buffers: ``a[0]`` holds a chunk's scaled features and ``a[l]`` the output of layer l (the
    logits last), ``dz[l]`` the gradient of the loss with respect to layer l's ``z``; each is
    (CHUNK_ROWS, width), and a chunk uses its first rows.
    """

    name = "numpy"
    threads: int | None = None
    threading_layer: str | None = None
    compile_seconds = 0.0
    compiled = False

    def __init__(self, layers: Sequence[Dense], *, input_scale: float) -> None:
        self.layers = tuple(layers)
        self.input_scale = np.float32(input_scale)
        widths = [self.layers[0].inputs] + [layer.outputs for layer in self.layers]
        self._a = [np.empty((CHUNK_ROWS, width), np.float32) for width in widths]
        self._dz = [np.empty((CHUNK_ROWS, layer.outputs), np.float32) for layer in self.layers]
        self._probs = np.empty((CHUNK_ROWS, widths[-1]), np.float32)
        self._losses = np.empty(CHUNK_ROWS, np.float32)
        self._parameters = self._zeros()
        self._gradients = self._zeros()  # of the batch, summed over its chunks
        self._chunk_gradients = self._zeros()
        self._state: list[Parameters] = []  # of the optimizer, slot by slot

    def _zeros(self) -> Parameters:
        return [
            (np.zeros((layer.inputs, layer.outputs), np.float32), np.zeros(layer.outputs, "f4"))
            for layer in self.layers
        ]

    def get_parameters(self) -> Parameters:
        """Return a copy of the parameters."""
        return [(w.copy(), b.copy()) for w, b in self._parameters]

    def set_parameters(self, parameters: Parameters) -> None:
        """Replace the parameters by a copy of these."""
        for (w, b), (new_w, new_b) in zip(self._parameters, parameters, strict=True):
            w[...], b[...] = new_w, new_b

    def get_state(self, slots: int) -> list[Parameters]:
        """Return a copy of so many slots of the optimizer's state."""
        return [[(w.copy(), b.copy()) for w, b in slot] for slot in self._slots(slots)]

    def set_state(self, state: list[Parameters]) -> None:
        """Replace the optimizer's state by a copy of this; slots that are not given are zero."""
        self._state = [[(w.copy(), b.copy()) for w, b in slot] for slot in state]

    @_quiet
    def run_chunk(self, epoch: Epoch, progress: Progress, budget_rows: int) -> Progress:
        """Train on at least `budget_rows` further rows, or to the end of the epoch."""
        position, loss_sum, correct = progress
        rows = len(epoch.order)
        budget_stop = min(rows, position + budget_rows)
        while position < budget_stop:
            chunk = next_chunk(position, rows, epoch.batch_size)
            index = epoch.order[chunk.start : chunk.stop]
            labels = epoch.labels[index]
            chunk_loss, chunk_correct = self._forward_with_loss(epoch.x[index], labels)
            loss_sum += chunk_loss
            if not np.isfinite(loss_sum):
                break
            correct += chunk_correct
            self._backward(labels, chunk.batch_rows, chunk.first)
            if chunk.last:
                loss_sum += chunk.batch_rows * self._add_penalty(epoch.l2)
                self._update(epoch, chunk.start // epoch.batch_size)
            position = chunk.stop
        return Progress(position, loss_sum, correct)

    @_quiet
    def loss_and_grad(
        self, x: np.ndarray, labels: np.ndarray, *, l2: float = 0.0
    ) -> tuple[float, Parameters]:
        """Return the mean loss over these rows as one batch, and its gradient."""
        rows, loss_sum = len(x), 0.0
        for start in range(0, rows, CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            loss_sum += self._forward_with_loss(x[part], labels[part])[0]
            self._backward(labels[part], rows, first=start == 0)
        loss_sum += rows * self._add_penalty(l2)
        return loss_sum / rows, [(dw.copy(), db.copy()) for dw, db in self._gradients]

    @_quiet
    def evaluate(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Return the mean loss and the accuracy over these rows."""
        loss_sum, correct = 0.0, 0
        for start in range(0, len(x), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            chunk_loss, chunk_correct = self._forward_with_loss(x[part], labels[part])
            loss_sum += chunk_loss
            correct += chunk_correct
        return loss_sum / len(x), correct / len(x)

    @_quiet
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (rows, O) float32."""
        check_finite(x, "x")
        probs = np.empty((len(x), self.layers[-1].outputs), np.float32)
        for start in range(0, len(x), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            softmax(probs[part], self._forward(x[part]))
        return probs

    def _forward(self, x: np.ndarray) -> np.ndarray:
        """Run the layers over a chunk's features and return its logits."""
        a = [buffer[: len(x)] for buffer in self._a]
        np.multiply(x, self.input_scale, out=a[0], dtype=np.float32)
        for i, (layer, (w, b)) in enumerate(zip(self.layers, self._parameters, strict=True)):
            dense_forward(a[i + 1], a[i], w, b)
            if layer.activation == "relu":
                relu_forward(a[i + 1], a[i + 1])
        return a[-1]

    def _forward_with_loss(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
        """Run a chunk forward; return the sum of its losses and how many rows are right."""
        losses, probs = self._losses[: len(x)], self._probs[: len(x)]
        logits = self._forward(x)
        softmax_cross_entropy_forward(losses, probs, logits, labels)
        return float(losses.sum(dtype=np.float64)), int((logits.argmax(axis=1) == labels).sum())

    def _backward(self, labels: np.ndarray, batch_rows: int, first: bool) -> None:
        """Bring the loss back through the chunk just run; add to the batch's gradients."""
        rows = len(labels)
        dz = [buffer[:rows] for buffer in self._dz]
        a = [buffer[:rows] for buffer in self._a]
        softmax_cross_entropy_backward(dz[-1], self._probs[:rows], labels, batch_rows)
        for i in reversed(range(len(self.layers))):
            dw, db = (self._gradients if first else self._chunk_gradients)[i]
            dense_backward_weights(dw, db, dz[i], a[i])
            if i > 0:
                dense_backward_input(dz[i - 1], dz[i], self._parameters[i][0])
                relu_backward(dz[i - 1], dz[i - 1], a[i])
        if not first:
            for total, part in zip(self._gradients, self._chunk_gradients, strict=True):
                for total_array, part_array in zip(total, part, strict=True):
                    total_array += part_array

    def _add_penalty(self, l2: float) -> float:
        """Add the gradient of ``l2 / 2 · Σ w²`` to the batch's; return that sum."""
        if l2 == 0:
            return 0.0
        squares = 0.0
        for (w, _), (dw, _) in zip(self._parameters, self._gradients, strict=True):
            squares += float(np.sum(w * w, dtype=np.float64))
            add_l2(dw, w, l2)
        return l2 / 2 * squares

    def _update(self, epoch: Epoch, update: int) -> None:
        """Apply the batch's gradients."""
        rate, decay = epoch.rates[update], epoch.decays[update]
        slots = self._slots(epoch.optimizer.slots)
        for i, pair in enumerate(zip(self._parameters, self._gradients, strict=True)):
            if decay:
                decay_weights(self._parameters[i][0], decay)
            for j, (w, dw) in enumerate(zip(*pair, strict=True)):
                _follow(w, dw, [slot[i][j] for slot in slots], rate, epoch.optimizer)

    def _slots(self, count: int) -> list[Parameters]:
        """Return the first slots of the optimizer's state, zeros where there were none."""
        while len(self._state) < count:
            self._state.append(self._zeros())
        return self._state[:count]


def _follow(
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
