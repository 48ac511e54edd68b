"""A fully connected layer over a block of rows, or over a range of its inputs.

Twin of `reference.dense`, which holds the formulas. `layer` is a row of the layer table
(`layout.LAYER`); `rows` count from `first`, and input columns from `low` to `high`, where column
I stands for the bias.
"""

from fastnn.kernels._gemm import multiply, multiply_listed_strip, multiply_listed_tiles
from fastnn.kernels._jit import jit
from fastnn.kernels._simd import NR, transpose_square
from fastnn.kernels._tile import LISTED_ROWS, TILE_PANELS, TILE_ROWS, Operand
from fastnn.kernels.zeros import STRIPS, list_inputs, list_rows, shape_of_lists


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
def dense_forward_listed(workspace, parameters, layer, first, rows, masks, stride, lists, start):
    """Compute what `dense_forward` does, over the inputs that are not zero."""
    width = layer.inputs + 1
    blocks, size = shape_of_lists(width)
    for i in range(0, rows, TILE_ROWS):
        height = min(TILE_ROWS, rows - i)
        at = start + i // TILE_ROWS * size
        list_inputs(lists, at, masks, stride, first + i, height, width)
    for block in range(blocks):
        for panel in range(0, layer.panels, TILE_PANELS):
            for i in range(0, rows, TILE_ROWS):
                at = start + i // TILE_ROWS * size + block
                row = first + i
                multiply_listed_tiles(
                    Operand(workspace, layer.z + row * layer.z_row + panel * NR, layer.z_row, NR),
                    Operand(workspace, layer.a + row * layer.a_row, layer.a_row, 1),
                    Operand(
                        parameters,
                        layer.weights + panel * layer.panel_size,
                        NR,
                        layer.panel_size,
                    ),
                    min(TILE_ROWS, rows - i),
                    min(TILE_PANELS, layer.panels - panel),
                    lists,
                    lists[at],
                    lists[at + 1] - lists[at],
                    block > 0,
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
def dense_backward_weights_listed(
    gradients, workspace, layer, low, high, rows, masks, stride, lists, start
):
    """Compute what `dense_backward_weights` does for all panels, over rows that are not zero."""
    for group in range(low // NR, (high + NR - 1) // NR):
        for strip in range(STRIPS):
            i = group * NR + strip * LISTED_ROWS
            if i < high:
                count = list_rows(lists, start, masks, stride, group, strip, rows)
                multiply_listed_strip(
                    Operand(gradients, layer.weights + i * NR, NR, layer.panel_size),
                    Operand(workspace, layer.a + i, 1, layer.a_row),
                    Operand(workspace, layer.dz, layer.dz_row, NR),
                    min(LISTED_ROWS, high - i),
                    layer.panels,
                    lists,
                    start,
                    count,
                )


@jit
def transpose(transposed, parameters, layer, low, high, panel):
    """Copy the weights of inputs low to high in a panel into the transposed panels.

    `low` begins a panel of inputs.
    """
    start = panel * NR
    stop = min(start + NR, layer.outputs)
    source = layer.weights + panel * layer.panel_size
    for i in range(low, min(high, layer.inputs), NR):
        target = layer.transposed + i // NR * layer.transposed_panel_size + start * NR
        if stop - start == NR and i + NR <= layer.inputs:
            transpose_square(transposed, target, NR, parameters, source + i * NR)
        else:
            for k in range(min(NR, layer.inputs - i)):
                for j in range(stop - start):
                    transposed[target + j * NR + k] = parameters[source + (i + k) * NR + j]
