"""A fully connected layer over a row block, or over a range of its inputs.

See `reference.dense`. `layer` is a row of the layer table (`layout.LAYER`), x (rows, I) the layer's
input. A row block starts at row `first` of the buffers; a range of inputs goes from `low` to
`high`, where input I is the bias.
"""

from fastnn.kernels.gemm.product import multiply, multiply_listed, multiply_update
from fastnn.kernels.gemm.tile import LISTED_INPUTS, LISTED_SAMPLES, WIDE_PANELS, operand
from fastnn.kernels.jit.compiling import jit
from fastnn.kernels.jit.simd import NR, ZERO, address_in, transpose_square
from fastnn.kernels.layers.zeros import BLOCK_GROUPS, LIST_MARGIN, list_inputs, list_rows

# A weight block: inputs and panels of outputs whose gradient is computed and applied together. It
# takes 16 kB, in the L1 cache.
INPUT_BLOCK, PANEL_BLOCK = 4 * NR, 4
BLOCK_SIZE = INPUT_BLOCK * PANEL_BLOCK * NR


@jit
def dense_forward(scratch, parameters, layer, first, rows):
    """Compute ``z = [x 1] [w; b]``.

    Writes z (rows, O), reads x (rows, I + 1) and the panels.
    """
    multiply(
        operand(scratch, layer.z + first * layer.z_row, layer.z_row, NR),
        operand(scratch, layer.x + first * layer.x_row, layer.x_row, 1),
        operand(parameters, layer.weights, NR, layer.panel_size),
        rows,
        layer.panels,
        layer.inputs + 1,
    )


@jit
def dense_forward_listed(scratch, parameters, layer, first, rows, masks, stride, lists, start):
    """Compute `dense_forward` over the inputs that are not zero.

    `masks` are the masks of nonzeros. Writes the lists of inputs from ``lists[start]`` on.
    """
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
                operand(scratch, z, layer.z_row, NR),
                operand(scratch, layer.x + first * layer.x_row, layer.x_row, 1),
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
def dense_backward_input(scratch, transposed, layer, previous, first, rows):
    """Compute ``dx = dz wᵀ``.

    Writes dx (rows, I) to the previous layer's dz, where it is da until `activation_backward`;
    reads dz (rows, O).
    """
    multiply(
        operand(scratch, previous.dz + first * previous.dz_row, previous.dz_row, NR),
        operand(scratch, layer.dz + first * layer.dz_row, layer.dz_row, 1),
        operand(transposed, layer.transposed, NR, layer.transposed_panel_size),
        rows,
        layer.transposed_panels,
        layer.outputs,
    )


@jit
def dense_backward_weights(c, scratch, layer, low, high, panel, panels, rows, rate):
    """Compute ``[dw; db] = [x 1]ᵀ dz`` for inputs low to high and `panels` panels from `panel` on.

    Writes the result to `c`. If `rate` is not 0, `c` is the weights, and
    ``c = c - rate · [dw; db]``: the gradient stays in registers. Then there are at most DEPTH_BLOCK
    rows.
    """
    x = operand(scratch, layer.x + low, 1, layer.x_row)
    dz = operand(scratch, layer.dz + panel * NR, layer.dz_row, NR)
    if rate == 0:
        multiply(c, x, dz, high - low, panels, rows)
    else:
        multiply_update(c, x, dz, high - low, panels, rows, rate)


@jit
def list_block(lists, start, masks, stride, low, high, rows):
    """Write the list of rows for each tile of inputs low to high, for the next function."""
    for i in range(low, high, LISTED_INPUTS):
        at = start + (i - low) // LISTED_INPUTS * (rows + LIST_MARGIN)
        list_rows(lists, at, masks, stride, i, rows)


@jit
def dense_backward_weights_listed(
    c, scratch, layer, low, high, panel, panels, rows, rate, lists, start
):
    """Compute `dense_backward_weights` over the rows that `list_block` listed."""
    multiply_listed(
        c,
        operand(scratch, layer.x + low, 1, layer.x_row),
        operand(scratch, layer.dz + panel * NR, layer.dz_row, NR),
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
    """Copy the weights of inputs low to high in a panel to the transposed panels.

    `low` is a multiple of NR.
    """
    source = layer.weights + panel * layer.panel_size
    for i in range(low, min(high, layer.inputs), NR):
        target = layer.transposed + i // NR * layer.transposed_panel_size + panel * NR * NR
        count = min(NR, layer.inputs - i)
        transpose_square(transposed, target, parameters, source + i * NR, count)
