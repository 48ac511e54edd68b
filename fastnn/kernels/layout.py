"""Where a network's numbers lie: panels, offsets in the flat vectors, to and from (I, O).

Weights lie in panels of NR outputs, so that the micro-kernel finds the NR weights of an input
side by side and the next input's behind them. The bias is one more row, for an input that is
always 1, so that one product does both. Layer of I inputs and O outputs, NR = 16::

    (I, O) weights, (O,) biases          ⌈O/16⌉ panels of (I + 1, 16), one behind the other

             0 … 15 | 16 … O-1                panel 0        panel 1
    w[0]   [ ······ | ···· ]               w[0,  0:16]    w[0,  16:O] 0 0
    w[1]   [ ······ | ···· ]       →       w[1,  0:16]    w[1,  16:O] 0 0
     …                                          …              …
    b      [ ······ | ···· ]               b[    0:16]    b[    16:O] 0 0

The lanes past O are zero: they add nothing, get no gradient and stay zero. Layers after the
first also keep their weights transposed, in panels of NR inputs, for the gradient of their
input, with rows of zeros up to a multiple of NR; the first layer's input needs none.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from fastnn.kernels.jit.simd import NR
from fastnn.kernels.pointwise.activations import NO_SLOPES, keeps_slopes
from fastnn.model.layers import ACTIVATIONS, Dense, Parameters
from fastnn.model.losses import Loss
from fastnn.model.randomness import LEVELS, keep_factor, keep_level

# One row a layer; offsets and strides count float32. `a` is the layer's input in the workspace,
# with a column of ones behind it; `z` its output (for a hidden layer, where the next one's `a`
# is); `dz` the gradient of the loss with respect to it. `slopes` of its activation (NO_SLOPES where
# none are kept), and of the last layer `targets`, lie as `z` does. `squares` is where sums of
# squares lie, NR lanes for each NR inputs. Of the layer's inputs, dropout keeps those whose number
# is below the level (LEVELS for all), times the factor.
LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("inputs", "outputs", "activation", "slopes", "targets", "keep_level"),
            *("weights", "panels", "panel_size"),
            *("transposed", "transposed_panels", "transposed_panel_size"),
            "squares",
            *("a", "a_row", "z", "z_row", "dz", "dz_row"),
        )
    ]
    + [("keep_factor", np.float32)],
    align=True,
)


def panels_for(lanes: int) -> int:
    """Return the number of panels that hold so many lanes."""
    return -(-lanes // NR)


class Layout:
    """The layer table of a network, and the sizes of the buffers that it indexes.

    Attributes
    ----------
    table : recarray (layers,) of LAYER
    parameters_size, transposed_size, squares_size, workspace_size : int
        Lengths in float32 of the flat vectors: all panels, all transposed panels, all sums of
        squares, and what a chunk of `rows` rows needs on its way forward and back.
    """

    def __init__(self, layers: Sequence[Dense], loss: Loss, rows: int) -> None:
        self.layers = tuple(layers)
        self.table = np.zeros(len(layers), LAYER).view(np.recarray)
        self.parameters_size = self.transposed_size = 0
        self.squares_size = self.workspace_size = 0
        for layer, row in zip(layers, self.table, strict=True):
            row["inputs"], row["outputs"] = layer.inputs, layer.outputs
            row["activation"] = ACTIVATIONS.index(layer.activation)
            row["keep_level"] = keep_level(layer.dropout)
            row["keep_factor"] = keep_factor(layer.dropout)
            self._place_weights(row)
        for row in self.table[1:]:
            self._place_transposed(row)
        for row in self.table:
            row["a"], row["a_row"] = self._place_rows(row["inputs"], rows)
            row["dz"], row["dz_row"] = self._place_rows(row["outputs"], rows)
        for row, after in zip(self.table[:-1], self.table[1:], strict=True):
            row["z"], row["z_row"] = after["a"], after["a_row"]
        last = self.table[-1]
        last["z"], last["z_row"] = last["dz"], last["dz_row"]
        self.table["slopes"] = NO_SLOPES
        for row, after in zip(self.table[:-1], self.table[1:], strict=True):
            if keeps_slopes(row["activation"], after["keep_level"] < LEVELS):
                row["slopes"], _ = self._place_rows(row["outputs"], rows)
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
        """Reserve rows of a width and a column of ones; return their offset and stride."""
        start, stride = self.workspace_size, panels_for(width + 1) * NR
        self.workspace_size += rows * stride
        return start, stride

    def panels(self, flat: np.ndarray, layer: int) -> np.ndarray:
        """View a layer's panels in a flat vector, (panels, I + 1, NR)."""
        row = self.table[layer]
        start, count = row["weights"], row["panels"] * row["panel_size"]
        return flat[start : start + count].reshape(row["panels"], -1, NR)

    def write(self, flat: np.ndarray, parameters: Parameters) -> None:
        """Write plain (I, O) weights and (O,) biases into the panels of a flat vector.

        Nothing is allocated, so that this cannot fail halfway.
        """
        for i, (w, b) in enumerate(parameters):
            for panel, columns, lanes in _parts(self.panels(flat, i), len(b)):
                panel[:-1, :lanes], panel[-1, :lanes] = w[:, columns], b[columns]
                panel[:, lanes:] = 0

    def read(self, flat: np.ndarray) -> Parameters:
        """Return a copy of a flat vector's panels as plain (I, O) weights and (O,) biases."""
        parameters = []
        for i, layer in enumerate(self.layers):
            w = np.empty((layer.inputs, layer.outputs), np.float32)
            b = np.empty(layer.outputs, np.float32)
            for panel, columns, lanes in _parts(self.panels(flat, i), layer.outputs):
                w[:, columns], b[columns] = panel[:-1, :lanes], panel[-1, :lanes]
            parameters.append((w, b))
        return parameters

    def write_transposed(self, transposed: np.ndarray, parameters: Parameters) -> None:
        """Write the weights, transposed, into panels of NR inputs; allocate nothing."""
        for row, (w, _) in zip(self.table[1:], parameters[1:], strict=True):
            start, count = row["transposed"], row["transposed_panels"]
            flat = transposed[start : start + count * row["transposed_panel_size"]]
            for panel, columns, lanes in _parts(flat.reshape(count, -1, NR), row["inputs"]):
                panel[: row["outputs"], :lanes] = w[columns].T
                panel[row["outputs"] :], panel[:, lanes:] = 0, 0


def _parts(panels: np.ndarray, width: int) -> Iterator[tuple[np.ndarray, slice, int]]:
    """Yield each panel with the columns of a matrix of a width that it has, and their number."""
    for start, panel in zip(range(0, width, NR), panels, strict=True):
        columns = slice(start, min(start + NR, width))
        yield panel, columns, columns.stop - start
