"""Kernel buffers, and walking the gradient of a layer's weights as the weights region does."""

import numpy as np

from fastnn.kernels.jit.simd import NR
from fastnn.kernels.layers.dense import INPUT_BLOCK, PANEL_BLOCK
from fastnn.kernels.layout import Layout
from fastnn.kernels.workspace import Workspace
from fastnn.model.layers import dense_layers
from fastnn.model.losses import LOSSES

NO_RATE = np.float32(0)  # a product that is written, not stepped down


def buffers_of(sizes, rows, loss="cross_entropy"):
    """The layout of a network and the buffers of a task, for so many rows."""
    layout = Layout(dense_layers(sizes), LOSSES[loss], rows)
    return layout, Workspace(layout, rows, 1, 1.0, list(LOSSES).index(loss))


def block_operand(buffers):
    """The fields of the operand that the gradient of a block is written to."""
    return buffers.blocks, 0, NR, INPUT_BLOCK * NR


def collect_blocks(buffers, row, cut, compute):
    """Have every block computed, and copy it to where `Layout.read` finds it.

    ``compute(low, high, panel, panels)`` fills ``buffers.blocks``; a block also ends at `cut`,
    as it would between two tasks.
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
