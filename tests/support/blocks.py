"""Buffers of kernels, and the gradient of a layer's weights in blocks."""

import numpy as np

from fastnn.kernels.jit.simd import NR
from fastnn.kernels.layers.dense import INPUT_BLOCK, PANEL_BLOCK
from fastnn.kernels.layout import Layout
from fastnn.kernels.workspace import Workspace
from fastnn.model.layers import dense_layers
from fastnn.model.losses import LOSSES

NO_RATE = np.float32(0)  # products are written, and do not update


def buffers_of(sizes, rows, loss="cross_entropy"):
    """Return the layout of a network, and its buffers for one task and a chunk of `rows` rows."""
    layout = Layout(dense_layers(sizes), LOSSES[loss], rows)
    return layout, Workspace(layout, rows, 1, 1.0, list(LOSSES).index(loss))


def block_operand(buffers):
    """Return the fields of the operand for the gradient of a block."""
    return buffers.blocks, 0, NR, INPUT_BLOCK * NR


def collect_blocks(buffers, row, cut, compute):
    """Compute all blocks of the gradient, and copy them to ``buffers.gradients``.

    ``compute(low, high, panel, panels)`` writes ``buffers.blocks``. A block also ends at `cut`, as
    between two tasks.
    """
    width = row["inputs"] + 1
    gradients = buffers.gradients[row["weights"] :][: row["panels"] * row["panel_size"]]
    gradients = gradients.reshape(row["panels"], width, NR)
    for start, stop in ((0, cut), (cut, width)):
        for low in range(start, stop, INPUT_BLOCK):
            high = min(stop, low + INPUT_BLOCK)
            for panel in range(0, row["panels"], PANEL_BLOCK):
                panels = min(PANEL_BLOCK, row["panels"] - panel)
                buffers.blocks[:] = np.nan
                compute(low, high, panel, panels)
                block = buffers.blocks.reshape(PANEL_BLOCK, INPUT_BLOCK, NR)
                gradients[panel : panel + panels, low:high] = block[:panels, : high - low]
