"""The micro-kernel: one register tile of a matrix product, with its sums in vector registers.

It is emitted as LLVM vector instructions, because Numba does not generate such code from loops.
`product` computes products of any size with it.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from fastnn.kernels.jit.compiling import jit
from fastnn.kernels.jit.simd import (
    ARM64,
    FLOAT,
    INT32,
    INT64,
    LANES,
    NR,
    address_in,
    array_at,
    constant,
    emit_multiply_add,
    emit_splat,
    fma,
)

# The sums of a tile, TILE_ROWS × TILE_PANELS·NR, are held in registers; the others hold operands:
#
#            rows  panels  lanes of a register  registers of sums  registers
#   AVX-512     8       2                   16                 16         32
#   AVX2        4       1                    8                  8         16
#   ARM         4       1                    4                 16         32
#   SSE         2       1                    4                  8         16
#
# With AVX2, code for 16 lanes runs out of registers and takes three times as long.
TILE_ROWS, TILE_PANELS = (8, 2) if LANES == 16 else (4, 1) if LANES == 8 or ARM64 else (2, 1)
WIDE_PANELS = LANES // 2  # panels of a tile of one row: eight sums keep the multipliers busy
# Tiles over listed k have fewer rows: the fewer they are, the more zeros they have in common. Rows
# are samples in the forward pass and inputs in the backward pass. These sizes minimise the time of
# products and lists together.
LISTED_SAMPLES = 2 if LANES == 16 else 1  # by WIDE_PANELS
LISTED_INPUTS, LISTED_PANELS = (4, 4) if LANES == 16 else (TILE_ROWS, TILE_PANELS)

FLOAT_BYTES = 4
PLAIN, LISTED, COMPACT = "", "_listed", "_compact"  # kinds of micro-kernel, see `tile`


class Operand(NamedTuple):
    """A matrix of float32 in memory, as the micro-kernel addresses it.

    `row` and `step` are strides: numbers of float32. In the left factor, element (i, k) is
    ``i * row + k * step`` float32 after the address. In the right factor, lane j of row k in panel
    p is ``k * row + p * step + j`` float32 after it. The result is addressed as the right factor.
    """

    address: int
    row: int
    step: int


@jit
def operand(buffer, at, row, step):
    """Return the operand that starts at ``buffer[at]``."""
    return Operand(address_in(buffer, at), row, step)


@jit
def skip_rows(matrix, rows):
    """Return the operand without its first rows."""
    return Operand(matrix.address + rows * matrix.row * FLOAT_BYTES, matrix.row, matrix.step)


@jit
def skip_steps(matrix, steps):
    """Return the operand without its first panels; without its first k for a left factor."""
    return Operand(matrix.address + steps * matrix.step * FLOAT_BYTES, matrix.row, matrix.step)


class _Matrix:
    """An operand in emitted code."""

    def __init__(self, builder, start, row, step):
        self.builder, self.start, self.row, self.step = builder, start, row, step

    def pointer(self, rows=0, steps=0, lane=0):
        """Emit the address of ``start[rows * row + steps * step + lane]``, all three constants."""
        b = self.builder
        offset = b.add(b.mul(constant(rows), self.row), b.mul(constant(steps), self.step))
        return b.gep(self.start, [b.add(offset, constant(lane))])


def emit_call(builder, operands, ks, depth, resume, rate, size, kind=PLAIN):
    """Emit a call of the micro-kernel of a kind and size; `tile` describes what it computes.

    `operands` are c, a and b; `ks` is the address of the listed k, which the plain kind ignores;
    `size` is the number of rows, of panels, and of lanes of a register.
    """
    arguments = []
    for matrix in operands:
        at, row, step = (builder.extract_value(matrix, i) for i in range(3))
        arguments += [builder.inttoptr(at, FLOAT.as_pointer()), row, step]
    arguments += [depth, resume, rate]
    if kind != PLAIN:
        arguments.append(builder.inttoptr(ks, INT32.as_pointer()))
    builder.call(micro_kernel(builder.module, size, kind), arguments)


def micro_kernel(module, size, kind):
    """Return the micro-kernel of a size as a function of the module, emitted on first use.

    It is a function of its own, which is never inlined: inlined, its loop ran out of registers for
    addresses, and a tile took 1.4 times as long.
    """
    rows, panels, lanes = size
    name = f"fastnn.tile{kind}.{rows}.{panels}.{lanes}"
    if name in module.globals:
        return module.globals[name]
    pointer = FLOAT.as_pointer()
    types_ = [pointer, INT64, INT64] * 3 + [INT64, ir.IntType(1), FLOAT]
    types_ += [INT32.as_pointer()] if kind != PLAIN else []
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), types_), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    arguments = function.args
    matrices = [_Matrix(builder, *arguments[i : i + 3]) for i in (0, 3, 6)]
    _emit_tile(builder, matrices, *arguments[9:12], size, kind, *arguments[12:])
    return function


def _emit_tile(builder, matrices, depth, resume, rate, size, kind, ks=None):
    """Emit the body of the micro-kernel; `tile` describes what it computes.

    ::

                     b   k ↓  [ panel 0 | panel 1 ]     a row of b: panels·NR/lanes loads
        a  k →
        [ a a a a ]           [ sums    | sums    ]     rows · panels·NR/lanes registers,
        [ a a a a ] rows      [ sums    | sums    ]     one multiply-add each per k;
        [ a a a a ]           [ sums    | sums    ]     an element of a is copied to all lanes
    """
    c, a, b = matrices
    rows, panels, lanes = size
    vector = ir.VectorType(FLOAT, lanes)
    columns = [(p, lane) for p in range(panels) for lane in range(0, NR, lanes)]
    sums = [(i, p, lane) for i in range(rows) for p, lane in columns]
    # Addresses that do not depend on k are computed before the loop, which adds one offset to those
    # of a and one to those of b.
    a_starts = [a.pointer(rows=i) for i in range(rows)]
    b_starts = {(p, lane): b.pointer(steps=p, lane=lane) for p, lane in columns}
    c_starts = [
        builder.bitcast(c.pointer(rows=i, steps=p, lane=lane), vector.as_pointer())
        for i, p, lane in sums
    ]

    entry = builder.block
    load = builder.append_basic_block("tile.load")
    head = builder.append_basic_block("tile.head")
    body = builder.append_basic_block("tile.body")
    done = builder.append_basic_block("tile.done")

    # Start from zero, or from c if a chain is resumed.
    builder.cbranch(resume, load, head)
    builder.position_at_end(load)
    loaded = [builder.load(pointer, align=4) for pointer in c_starts]
    builder.branch(head)

    builder.position_at_end(head)
    position = builder.phi(INT64)
    accumulators = [builder.phi(vector) for _ in sums]
    zeros = [ir.Constant(vector, [0.0] * lanes)] * len(sums)
    for block, values in ((entry, zeros), (load, loaded)):
        position.add_incoming(constant(0), block)
        for accumulator, value in zip(accumulators, values, strict=True):
            accumulator.add_incoming(value, block)
    builder.cbranch(builder.icmp_signed("<", position, depth), body, done)

    builder.position_at_end(body)
    k = position
    if kind != PLAIN:
        k = builder.sext(builder.load(builder.gep(ks, [position])), INT64)
    b_offset = builder.mul(k, b.row)
    a_offset = builder.mul(position if kind == COMPACT else k, a.step)
    b_row = {}
    for place, start in b_starts.items():
        pointer = builder.bitcast(builder.gep(start, [b_offset]), vector.as_pointer())
        b_row[place] = builder.load(pointer, align=4)
    a_column = [
        emit_splat(builder, builder.load(builder.gep(start, [a_offset])), vector)
        for start in a_starts
    ]
    for (i, p, lane), accumulator in zip(sums, accumulators, strict=True):
        total = emit_multiply_add(builder, a_column[i], b_row[p, lane], accumulator)
        accumulator.add_incoming(total, body)
    position.add_incoming(builder.add(position, constant(1)), body)
    builder.branch(head).set_metadata("llvm.loop", _keep_rolled(builder.module))

    builder.position_at_end(done)
    _emit_end(builder, list(zip(c_starts, accumulators, strict=True)), rate)


def _emit_end(builder, tile_sums, rate):
    """Emit the end of the micro-kernel: store the sums, or update c by them if `rate` is not 0.

    `tile_sums` holds the address and the value of each sum.
    """
    store = builder.append_basic_block("tile.store")
    update = builder.append_basic_block("tile.update")
    builder.cbranch(builder.fcmp_ordered("==", rate, ir.Constant(FLOAT, 0.0)), store, update)
    builder.position_at_end(store)
    for pointer, total in tile_sums:
        builder.store(total, pointer, align=4)
    builder.ret_void()
    builder.position_at_end(update)
    negative = builder.fsub(ir.Constant(FLOAT, -0.0), rate)
    step = emit_splat(builder, negative, tile_sums[0][1].type)
    for pointer, total in tile_sums:
        before = builder.load(pointer, align=4)
        builder.store(emit_multiply_add(builder, step, total, before), pointer, align=4)
    builder.ret_void()


def _keep_rolled(module):
    """Return loop metadata that forbids unrolling.

    LLVM would unroll the loop by two and load the operands of both steps first. Then the sums do
    not fit into the registers, and the micro-kernel takes twice as long.
    """
    disable = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = module.add_metadata([constant(len(module.metadata)), disable])
    loop.operands = (loop, disable)  # the metadata of a loop refers to itself first
    return loop


@intrinsic(prefer_literal=True)
def tile(typingctx, kind, rows, panels, c, a, b, ks, depth, resume, rate):
    """Multiply one register tile: ``c = a b``, or ``c += a b`` if `resume` is true.

    If `rate` is not 0, ``c = c - rate · (a b)``; then `resume` must be false.

    Writes c (rows, panels·NR), reads a (rows, depth) and b (depth, panels·NR), and reads c if
    `resume` is true or `rate` is not 0. All three are an `Operand`. `kind`, `rows` and `panels` are
    constants. Each element is one chain of multiply-adds in increasing k, fused if the processor
    has the instruction. Its bits depend neither on the size of the tile nor on the place where the
    chain is cut. The kinds:

    PLAIN
        ``Σ a[i, k] b[k, j]`` over all k from 0 to depth - 1; `ks` is ignored.
    LISTED
        ``Σ a[i, ks[n]] b[ks[n], j]`` over n from 0 to depth - 1, with int32 at the address `ks`.
        If `a` is zero for all other k, and `b` is finite, the result is bit-identical to PLAIN.
    COMPACT
        ``Σ a[i, n] b[ks[n], j]`` over the same n: a holds only the listed columns.
    """
    counts = types.intp, types.intp, types.boolean, types.float32
    signature = types.void(kind, rows, panels, c, a, b, *counts)
    # Numba also tries types that are not literal; then there is no such function.
    constants = [getattr(each, "literal_value", None) for each in (kind, rows, panels)]
    if None in constants:
        return None

    def codegen(context, builder, signature, args):
        emit_call(builder, args[3:6], *args[6:], (*constants[1:], LANES), constants[0])
        return context.get_dummy_value()

    return signature, codegen


if config.DISABLE_JIT:

    def tile(kind, rows, panels, c, a, b, ks, depth, resume, rate):  # noqa: F811
        """The same sums in plain Python."""
        listed = range(depth) if kind == PLAIN else array_at(ks, depth, np.int32)
        columns = listed if kind == LISTED else range(depth)
        for p in range(panels):
            for i in range(rows):
                _plain_sum(skip_steps(skip_rows(c, i), p), skip_rows(a, i), skip_steps(b, p),
                           columns, listed, resume, rate)  # fmt: skip

    def _plain_sum(c, a, b, columns, ks, resume, rate):
        c_row = _floats(c, NR)
        total = c_row.copy() if resume else np.zeros(NR, np.float32)
        for column, k in zip(map(int, columns), map(int, ks), strict=True):
            (factor,) = _floats(skip_steps(a, column), 1)
            total = fma(factor, _floats(skip_rows(b, k), NR), total)
        c_row[:] = fma(-rate, total, c_row) if rate else total

    def _floats(matrix, count):
        return array_at(matrix.address, count, np.float32)
