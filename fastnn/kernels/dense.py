"""A fully connected layer over a block of rows, or over a range of its inputs.

Twin of `reference.dense`, which holds the formulas. `layer` is a row of the layer table
(`layout.LAYER`); `rows` count from `first`, and input columns from `low` to `high`, where column
I stands for the bias.
"""

from fastnn.kernels._gemm import multiply
from fastnn.kernels._jit import jit
from fastnn.kernels._simd import NR, Operand


@jit
def dense_forward(workspace, parameters, layer, first, rows):
    """``z = [a 1] [w; b]``: z (rows, O) written, a (rows, I + 1) and the panels read."""
    multiply(
        Operand(workspace, layer.z + first * layer.z_row, layer.z_row, NR),
        Operand(workspace, layer.a + first * layer.a_row, layer.a_row, 1),
        Operand(parameters, layer.weights, NR, layer.panel_size),
        rows,
        layer.panels,
        layer.inputs + 1,
    )


@jit
def dense_backward_input(workspace, transposed, layer, before, first, rows):
    """``da = dz wᵀ``: written to the dz of the layer `before`, (rows, I); dz (rows, O) read."""
    multiply(
        Operand(workspace, before.dz + first * before.dz_row, before.dz_row, NR),
        Operand(workspace, layer.dz + first * layer.dz_row, layer.dz_row, 1),
        Operand(transposed, layer.transposed, NR, layer.transposed_panel_size),
        rows,
        layer.transposed_panels,
        layer.outputs,
    )


@jit
def dense_backward_weights(gradients, workspace, layer, low, high, panel, panels, rows):
    """``[dw; db] = [a 1]ᵀ dz`` for inputs low to high and some panels: gradients written."""
    multiply(
        Operand(
            gradients,
            layer.weights + panel * layer.panel_size + low * NR,
            NR,
            layer.panel_size,
        ),
        Operand(workspace, layer.a + low, 1, layer.a_row),
        Operand(workspace, layer.dz + panel * NR, layer.dz_row, NR),
        high - low,
        panels,
        rows,
    )


@jit
def transpose(transposed, parameters, layer, low, high, panel):
    """Copy the weights of inputs low to high in a panel into the transposed panels."""
    start = panel * NR
    stop = min(start + NR, layer.outputs)
    source = layer.weights + panel * layer.panel_size
    for i in range(low, min(high, layer.inputs)):
        target = layer.transposed + (i // NR) * layer.transposed_panel_size + i % NR
        for j in range(start, stop):
            transposed[target + j * NR] = parameters[source + i * NR + j - start]
