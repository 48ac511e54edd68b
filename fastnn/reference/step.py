"""The reference engine: one chunk forward and backward, in the order of the formulas.

Made to be read and trusted, not to be fast: `fastnn.kernels.step` does the same work and is
tested against this.
"""

from collections.abc import Sequence

import numpy as np

from fastnn.batches import CHUNK_ROWS, Epoch, Progress, next_chunk
from fastnn.inputs import check_finite
from fastnn.layers import Dense, Parameters
from fastnn.reference.activations import relu_backward, relu_forward
from fastnn.reference.dense import dense_backward_input, dense_backward_weights, dense_forward
from fastnn.reference.losses import (
    softmax,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from fastnn.reference.updates import sgd_update

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
                self._update(epoch.learning_rate)
            position = chunk.stop
        return Progress(position, loss_sum, correct)

    @_quiet
    def loss_and_grad(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, Parameters]:
        """Return the mean loss over these rows as one batch, and its gradient."""
        rows, loss_sum = len(x), 0.0
        for start in range(0, rows, CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            loss_sum += self._forward_with_loss(x[part], labels[part])[0]
            self._backward(labels[part], rows, first=start == 0)
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

    def _update(self, learning_rate: float) -> None:
        """Apply the batch's gradients."""
        for parameters, gradients in zip(self._parameters, self._gradients, strict=True):
            for w, dw in zip(parameters, gradients, strict=True):
                sgd_update(w, dw, learning_rate)
