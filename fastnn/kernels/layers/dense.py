"""A fully connected layer over a block of rows, or over a range of its inputs.

Twin of `reference.dense`, which holds the formulas. `layer` is a row of the layer table
(`layout.LAYER`); `rows` count from `first`, and input columns from `low` to `high`, where column
I stands for the bias.
"""

from fastnn.kernels.gemm.product import multiply, multiply_into, multiply_listed
from fastnn.kernels.gemm.tile import LISTED_INPUTS, LISTED_SAMPLES, WIDE_PANELS, operand
from fastnn.kernels.jit.compiling import jit
from fastnn.kernels.jit.simd import NR, ZERO, address_in, transpose_square
from fastnn.kernels.layers.zeros import BLOCK_GROUPS, LIST_MARGIN, list_inputs, list_rows

# The gradient of so many inputs and panels is computed and used at a time, so that it never leaves
# the first cache: 16 kB.
INPUT_BLOCK, PANEL_BLOCK = 4 * NR, 4
BLOCK_SIZE = INPUT_BLOCK * PANEL_BLOCK * NR


@jit
def dense_forward(workspace, parameters, layer, first, rows):
    """``z = [a 1] [w; b]``: z (rows, O) written, a (rows, I + 1) and the panels read."""
    multiply(
        operand(workspace, layer.z + first * layer.z_row, layer.z_row, NR),
        operand(workspace, layer.a + first * layer.a_row, layer.a_row, 1),
        operand(parameters, layer.weights, NR, layer.panel_size),
        rows,
        layer.panels,
        layer.inputs + 1,
    )


@jit
def dense_forward_listed(workspace, parameters, layer, first, rows, masks, stride, lists, start):
    """Compute what `dense_forward` does, over the inputs that are not zero."""
    groups = (layer.inputs + 1 + NR - 1) // NR
    size = BLOCK_GROUPS * NR + LIST_MARGIN
    for low in range(0, groups, BLOCK_GROUPS):
        high = min(groups, low + BLOCK_GROUPS)
        for i in range(0, rows, LISTED_SAMPLES):
            at = start + i // LISTED_SAMPLES * size
            samples = min(LISTED_SAMPLES, rows - i)
            list_inputs(lists, at, masks, stride, first + i, samples, low, high)
        for panel in range(0, layer.panels, WIDE_PANELS):
            z = layer.z + first * layer.z_row + panel * NR
            weights = layer.weights + panel * layer.panel_size
            multiply_listed(
                operand(workspace, z, layer.z_row, NR),
                operand(workspace, layer.a + first * layer.a_row, layer.a_row, 1),
                operand(parameters, weights, NR, layer.panel_size),
                rows,
                min(WIDE_PANELS, layer.panels - panel),
                LISTED_SAMPLES,
                address_in(lists, start),
                size,
                low > 0,
                ZERO,
            )


@jit
def dense_backward_input(workspace, transposed, layer, before, first, rows):
    """``da = dz wᵀ``: written to the dz of the layer `before`, (rows, I); dz (rows, O) read."""
    multiply(
        operand(workspace, before.dz + first * before.dz_row, before.dz_row, NR),
        operand(workspace, layer.dz + first * layer.dz_row, layer.dz_row, 1),
        operand(transposed, layer.transposed, NR, layer.transposed_panel_size),
        rows,
        layer.transposed_panels,
        layer.outputs,
    )


@jit
def dense_backward_weights(c, workspace, layer, low, high, panel, panels, rows, rate):
    """``[dw; db] = [a 1]ᵀ dz`` for inputs low to high and some panels, where `rate` is 0.

    Written to the operand `c`. Else `c` are the weights, and ``c = c - rate · [dw; db]``: plain
    gradient descent, without the gradient ever leaving the registers; at most DEPTH_BLOCK rows.
    """
    a = operand(workspace, layer.a + low, 1, layer.a_row)
    dz = operand(workspace, layer.dz + panel * NR, layer.dz_row, NR)
    if rate == 0:
        multiply(c, a, dz, high - low, panels, rows)
    else:
        multiply_into(c, a, dz, high - low, panels, rows, rate)


@jit
def list_block(lists, start, masks, stride, low, high, rows):
    """List the rows for each tile of the inputs low to high, for the next function."""
    for i in range(low, high, LISTED_INPUTS):
        at = start + (i - low) // LISTED_INPUTS * (rows + LIST_MARGIN)
        list_rows(lists, at, masks, stride, i, rows)


@jit
def dense_backward_weights_listed(
    c, workspace, layer, low, high, panel, panels, rows, rate, lists, start
):
    """Compute what `dense_backward_weights` does, over the rows that `list_block` listed."""
    multiply_listed(
        c,
        operand(workspace, layer.a + low, 1, layer.a_row),
        operand(workspace, layer.dz + panel * NR, layer.dz_row, NR),
        high - low,
        panels,
        LISTED_INPUTS,
        address_in(lists, start),
        rows + LIST_MARGIN,
        False,
        rate,
    )


@jit
def transpose(transposed, parameters, layer, low, high, panel):
    """Copy the weights of inputs low to high in a panel into the transposed panels.

    `low` begins a panel of inputs.
    """
    source = layer.weights + panel * layer.panel_size
    for i in range(low, min(high, layer.inputs), NR):
        target = layer.transposed + i // NR * layer.transposed_panel_size + panel * NR * NR
        count = min(NR, layer.inputs - i)
        transpose_square(transposed, target, parameters, source + i * NR, count)
