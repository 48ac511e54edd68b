"""The layout of parameters and activations in flat vectors.

Weights are stored in panels of NR outputs: the NR weights of an input are contiguous, followed by
those of the next input, in the order in which the micro-kernel reads them. The bias is the last row
of a panel, for an additional input that is always 1. For I inputs, O outputs and NR = 16::

    (I, O) weights, (O,) biases          ⌈O/16⌉ consecutive panels of (I + 1, 16)

             0 … 15 | 16 … O-1                panel 0        panel 1
    w[0]   [ ······ | ···· ]               w[0,  0:16]    w[0,  16:O] 0 0
    w[1]   [ ······ | ···· ]       →       w[1,  0:16]    w[1,  16:O] 0 0
     …                                          …              …
    b      [ ······ | ···· ]               b[    0:16]    b[    16:O] 0 0

The lanes past O are zero; their gradient is zero, too. All layers but the first also store their
weights transposed, in panels of NR inputs, for the gradient of their input. These panels are padded
with rows of zeros to a multiple of NR rows.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from fastnn.kernels.jit.simd import NR
from fastnn.kernels.pointwise.activations import NO_SLOPES, keeps_slopes
from fastnn.model.layers import ACTIVATIONS, Dense, Parameters
from fastnn.model.losses import Loss
from fastnn.model.randomness import LEVELS, keep_factor, keep_level

# A row of the layer table. Offsets and strides count float32; `x_row`, `z_row` and `dz_row` are the
# strides: the float32 from one row to the next. Offsets in the scratch vector:
#   x        the layer's input, followed by a column of ones
#   z        its output. A hidden layer's z shares memory with the next layer's x, the last layer's
#            with its dz. The kernels replace z in place: by the activation a, or the prediction p
#   dz       the gradient of the loss with respect to z
#   slopes   the derivatives of the activation; NO_SLOPES if they are not stored
#   targets  target values (rows, O), in the last layer if the loss takes values
# `squares` is the offset of sums of squares: each group of NR inputs has NR sums, one per lane.
# Dropout keeps the inputs whose random number is below `keep_level` (LEVELS keeps all), and
# multiplies them by `keep_factor`.
LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("inputs", "outputs", "activation", "slopes", "targets", "keep_level"),
            *("weights", "panels", "panel_size"),
            *("transposed", "transposed_panels", "transposed_panel_size"),
            "squares",
            *("x", "x_row", "z", "z_row", "dz", "dz_row"),
        )
    ]
    + [("keep_factor", np.float32)],
    align=True,
)


def panels_for(lanes: int) -> int:
    """Return the number of panels for a number of lanes."""
    return -(-lanes // NR)


class Layout:
    """The layer table of a network, and the sizes of the vectors that it indexes.

    Attributes
    ----------
    table : recarray (layers,) of LAYER
    parameters_size, transposed_size, squares_size, scratch_size : int
        Sizes in float32 of the panels, the transposed panels, the sums of squares, and the
        activations and gradients of a chunk of `rows` rows.
    """

    def __init__(self, layers: Sequence[Dense], loss: Loss, rows: int) -> None:
        self.layers = tuple(layers)
        self.table = np.zeros(len(layers), LAYER).view(np.recarray)
        self.parameters_size = self.transposed_size = 0
        self.squares_size = self.scratch_size = 0
        for layer, row in zip(layers, self.table, strict=True):
            row["inputs"], row["outputs"] = layer.inputs, layer.outputs
            row["activation"] = ACTIVATIONS.index(layer.activation)
            row["keep_level"] = keep_level(layer.dropout)
            row["keep_factor"] = keep_factor(layer.dropout)
            self._place_weights(row)
        for row in self.table[1:]:
            self._place_transposed(row)
        for row in self.table:
            row["x"], row["x_row"] = self._place_rows(row["inputs"], rows)
            row["dz"], row["dz_row"] = self._place_rows(row["outputs"], rows)
        self.table["slopes"] = NO_SLOPES
        for row, following in zip(self.table[:-1], self.table[1:], strict=True):
            row["z"], row["z_row"] = following["x"], following["x_row"]
            if keeps_slopes(row["activation"], following["keep_level"] < LEVELS):
                row["slopes"], _ = self._place_rows(row["outputs"], rows)
        last = self.table[-1]
        last["z"], last["z_row"] = last["dz"], last["dz_row"]
        if not loss.takes_labels:
            last["targets"], _ = self._place_rows(last["outputs"], rows)

    def _place_weights(self, row: np.void) -> None:
        row["panels"] = panels_for(row["outputs"])
        row["panel_size"] = (row["inputs"] + 1) * NR
        row["weights"] = self.parameters_size
        self.parameters_size += int(row["panels"] * row["panel_size"])
        row["squares"] = self.squares_size
        self.squares_size += panels_for(row["inputs"] + 1) * NR

    def _place_transposed(self, row: np.void) -> None:
        row["transposed_panels"] = panels_for(row["inputs"])
        row["transposed_panel_size"] = row["panels"] * NR * NR
        row["transposed"] = self.transposed_size
        self.transposed_size += int(row["transposed_panels"] * row["transposed_panel_size"])

    def _place_rows(self, width: int, rows: int) -> tuple[int, int]:
        """Reserve scratch rows of `width` and a column of ones; return their offset and stride.

        The stride is a multiple of NR.
        """
        start, stride = self.scratch_size, panels_for(width + 1) * NR
        self.scratch_size += rows * stride
        return start, stride

    def panels(self, flat: np.ndarray, layer: int) -> np.ndarray:
        """Return a view of a layer's panels in a flat vector, (panels, I + 1, NR)."""
        row = self.table[layer]
        start, count = row["weights"], row["panels"] * row["panel_size"]
        return flat[start : start + count].reshape(row["panels"], -1, NR)

    def write(self, flat: np.ndarray, parameters: Parameters) -> None:
        """Write weights (I, O) and biases (O,) into the panels of a flat vector.

        It allocates nothing, so it cannot fail halfway.
        """
        for i, (w, b) in enumerate(parameters):
            for panel, columns, lanes in _columns_of(self.panels(flat, i), len(b)):
                panel[:-1, :lanes], panel[-1, :lanes] = w[:, columns], b[columns]
                panel[:, lanes:] = 0

    def read(self, flat: np.ndarray) -> Parameters:
        """Return the panels of a flat vector as weights (I, O) and biases (O,)."""
        parameters = []
        for i, layer in enumerate(self.layers):
            w = np.empty((layer.inputs, layer.outputs), np.float32)
            b = np.empty(layer.outputs, np.float32)
            for panel, columns, lanes in _columns_of(self.panels(flat, i), layer.outputs):
                w[:, columns], b[columns] = panel[:-1, :lanes], panel[-1, :lanes]
            parameters.append((w, b))
        return parameters

    def write_transposed(self, transposed: np.ndarray, parameters: Parameters) -> None:
        """Write the transposed weights into panels of NR inputs; allocate nothing."""
        for row, (w, _) in zip(self.table[1:], parameters[1:], strict=True):
            start, count = row["transposed"], row["transposed_panels"]
            flat = transposed[start : start + count * row["transposed_panel_size"]]
            for panel, columns, lanes in _columns_of(flat.reshape(count, -1, NR), row["inputs"]):
                panel[: row["outputs"], :lanes] = w[columns].T
                panel[row["outputs"] :], panel[:, lanes:] = 0, 0


def _columns_of(panels: np.ndarray, width: int) -> Iterator[tuple[np.ndarray, slice, int]]:
    """Yield each panel with its columns of a matrix of `width` columns, and their number."""
    for start, panel in zip(range(0, width, NR), panels, strict=True):
        columns = slice(start, min(start + NR, width))
        yield panel, columns, columns.stop - start
