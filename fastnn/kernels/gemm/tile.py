"""The micro-kernel: a tile of a matrix product, summed up in vector registers.

Numba cannot be talked into it from plain loops, so it is emitted as LLVM vectors. `product` walks
whole matrices with it.
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

# A tile of the result lives in registers: TILE_ROWS × TILE_PANELS·NR numbers. AVX-512 has 32
# registers, of which 8·2 hold sums; AVX2 has 16, and 4·2 leave room for the operands (16 wide
# code spills there, at a third of the speed); ARM has 32 short ones.
TILE_ROWS, TILE_PANELS = (8, 2) if LANES == 16 else (4, 1) if LANES == 8 or ARM64 else (2, 1)
WIDE_PANELS = LANES // 2  # of a single row: eight sums, enough to keep the multipliers busy
# Over listed k a tile is lower, for the fewer rows, the fewer k they have in common. Forward its
# rows are samples, and backward inputs; it is chosen by what products and lists take together.
LISTED_SAMPLES = 2 if LANES == 16 else 1  # by WIDE_PANELS
LISTED_INPUTS, LISTED_PANELS = (4, 4) if LANES == 16 else (TILE_ROWS, TILE_PANELS)


FLOAT_BYTES = 4
LISTED, COMPACT = "_listed", "_compact"  # kinds of micro-kernel beside the plain one


class Operand(NamedTuple):
    """A matrix of float32 somewhere in memory, as the micro-kernel walks it.

    Element (i, k) of the left factor is ``i * row + k * step`` numbers behind the address `at`.
    Lane j of row k in panel p of the right factor is ``k * row + p * step + j`` behind it, and
    the same holds for row i of the result: `step` leads from one panel to the next.
    """

    at: int
    row: int
    step: int


@jit
def operand(buffer, at, row, step):
    """Return the operand that begins at ``buffer[at]``."""
    return Operand(address_in(buffer, at), row, step)


@jit
def down(matrix, rows):
    """Return the operand that starts so many rows further down."""
    return Operand(matrix.at + rows * matrix.row * FLOAT_BYTES, matrix.row, matrix.step)


@jit
def right(matrix, steps):
    """Return the operand that starts so many panels further on, or k of a left factor."""
    return Operand(matrix.at + steps * matrix.step * FLOAT_BYTES, matrix.row, matrix.step)


class _Matrix:
    """An operand in emitted code: where its rows and panels begin."""

    def __init__(self, builder, start, row, step):
        self.builder, self.start, self.row, self.step = builder, start, row, step

    def pointer(self, rows=0, steps=0, lane=0):
        """Address of ``data[at + rows * row + steps * step + lane]``, all three constants."""
        b = self.builder
        offset = b.add(b.mul(constant(rows), self.row), b.mul(constant(steps), self.step))
        return b.gep(self.start, [b.add(offset, constant(lane))])


def emit_call(builder, operands, ks, depth, resume, rate, size, kind=""):
    """Emit a call of the micro-kernel of a size; the kinds of `tile` say what it computes.

    `operands` are c, a and b; `ks` is the address of the first listed k, or None; `size` is rows,
    panels and lanes of a register.
    """
    arguments = []
    for matrix in operands:
        at, row, step = (builder.extract_value(matrix, i) for i in range(3))
        arguments += [builder.inttoptr(at, FLOAT.as_pointer()), row, step]
    arguments += [depth, resume, rate]
    if ks is not None:
        arguments.append(builder.inttoptr(ks, INT32.as_pointer()))
    builder.call(micro_kernel(builder.module, size, kind), arguments)


def micro_kernel(module, size, kind):
    """Return the micro-kernel of a size as a function of the module, emitted on first use.

    A function of its own, never inlined: among the variables of its callers the inner loop ran
    out of registers for addresses, and a tile took 1.4 times as long.
    """
    rows, panels, lanes = size
    name = f"fastnn.tile{kind}.{rows}.{panels}.{lanes}"
    if name in module.globals:
        return module.globals[name]
    pointer = FLOAT.as_pointer()
    types_ = [pointer, INT64, INT64] * 3 + [INT64, ir.IntType(1), FLOAT]
    types_ += [INT32.as_pointer()] if kind else []
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
    """Emit the micro-kernel's sums, and how they end; `tile` says what it computes.

    ::

                     b   k ↓  [ panel 0 | panel 1 ]     a row of b: panels·NR/lanes loads
        a  k →
        [ a a a a ]           [ sums    | sums    ]     rows · panels·NR/lanes registers,
        [ a a a a ] rows      [ sums    | sums    ]     one multiply-add each for every k;
        [ a a a a ]           [ sums    | sums    ]     an element of a is spread to all lanes
    """
    c, a, b = matrices
    rows, panels, lanes = size
    vector = ir.VectorType(FLOAT, lanes)
    columns = [(p, lane) for p in range(panels) for lane in range(0, NR, lanes)]
    sums = [(i, p, lane) for i in range(rows) for p, lane in columns]
    # All that does not change with k is computed before the loop: it has one address a row of a
    # and one a vector of b, to which it adds the same two offsets.
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

    # Start from zero, or from c where a chain is resumed; c is not even read otherwise.
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
    if ks is not None:
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
    """Emit the micro-kernel's end: the sums are the result, or a step down from what is there.

    `tile_sums` holds each sum's address and value.
    """
    store = builder.append_basic_block("tile.store")
    update = builder.append_basic_block("tile.update")
    builder.cbranch(builder.fcmp_ordered("==", rate, ir.Constant(FLOAT, 0.0)), store, update)
    builder.position_at_end(store)
    for pointer, total in tile_sums:
        builder.store(total, pointer, align=4)
    builder.ret_void()
    builder.position_at_end(update)
    downwards = builder.fsub(ir.Constant(FLOAT, -0.0), rate)
    step = emit_splat(builder, downwards, tile_sums[0][1].type)
    for pointer, total in tile_sums:
        before = builder.load(pointer, align=4)
        builder.store(emit_multiply_add(builder, step, total, before), pointer, align=4)
    builder.ret_void()


def _keep_rolled(module):
    """Return loop metadata that forbids unrolling.

    LLVM would unroll the micro-kernel by two and load both steps' operands first; the sums then
    no longer fit into the registers, and it ran at half the speed.
    """
    disable = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = module.add_metadata([constant(len(module.metadata)), disable])
    loop.operands = (loop, disable)  # a loop's metadata begins with itself
    return loop


@intrinsic(prefer_literal=True)
def tile(typingctx, rows, panels, c, a, b, depth, resume, rate):
    """Multiply one register tile: ``c = a b``, ``c += a b`` where `resume` is true.

    Where `rate` is not 0: ``c = c - rate · (a b)``, and `resume` is false.

    `c` is rows × panels·NR, `a` rows × depth and `b` depth × panels·NR, each an `Operand`;
    `rows` and `panels` are constants. Every element is one chain of fused multiply-adds in
    increasing k, so its bits depend neither on the tile's size nor on where a chain was cut.
    """
    signature = types.void(rows, panels, c, a, b, types.intp, types.boolean, types.float32)
    size = _literal(rows), _literal(panels), LANES

    def codegen(context, builder, signature, args):
        emit_call(builder, args[2:5], None, *args[5:], size)
        return context.get_dummy_value()

    return (signature, codegen) if None not in size else None


@intrinsic(prefer_literal=True)
def tile_listed(typingctx, rows, panels, c, a, b, ks, count, resume, rate):
    """Multiply one register tile over some k only: ``c[i, j] (+)= Σ a[i, k] b[k, j]``.

    The `count` k are int32 at the address `ks`, increasing. Where all others have zeros in `a`,
    and `b` is finite, the bits are those of `tile`: adding zero changes no sum.
    """
    counts = types.intp, types.boolean, types.float32
    signature = types.void(rows, panels, c, a, b, types.intp, *counts)
    size = _literal(rows), _literal(panels), LANES

    def codegen(context, builder, signature, args):
        emit_call(builder, args[2:5], args[5], *args[6:], size, LISTED)
        return context.get_dummy_value()

    return (signature, codegen) if None not in size else None


@intrinsic(prefer_literal=True)
def tile_compact(typingctx, rows, panels, c, a, b, ks, count, resume, rate):
    """Multiply as `tile_listed` does, by an `a` that has the listed k alone, side by side.

    ``c[i, j] (+)= Σ a[i, n] b[ks[n], j]``, n from 0 to count - 1.
    """
    counts = types.intp, types.boolean, types.float32
    signature = types.void(rows, panels, c, a, b, types.intp, *counts)
    size = _literal(rows), _literal(panels), LANES

    def codegen(context, builder, signature, args):
        emit_call(builder, args[2:5], args[5], *args[6:], size, COMPACT)
        return context.get_dummy_value()

    return (signature, codegen) if None not in size else None


def _literal(value):
    """Return a literal type's value; None for a type that is not literal, which Numba tries too."""
    return getattr(value, "literal_value", None)


if config.DISABLE_JIT:

    def tile(rows, panels, c, a, b, depth, resume, rate):  # noqa: F811
        """Plain twin: the same sums, in float64 rounded to float32 at every step."""
        for p in range(panels):
            for i in range(rows):
                _plain_sum(c, a, b, i, p, range(depth), range(depth), resume, rate)

    def tile_listed(rows, panels, c, a, b, ks, count, resume, rate):  # noqa: F811
        """Plain twin."""
        for p in range(panels):
            for i in range(rows):
                listed = array_at(ks, count, np.int32)
                _plain_sum(c, a, b, i, p, listed, listed, resume, rate)

    def tile_compact(rows, panels, c, a, b, ks, count, resume, rate):  # noqa: F811
        """Plain twin."""
        for p in range(panels):
            for i in range(rows):
                listed = array_at(ks, count, np.int32)
                _plain_sum(c, a, b, i, p, range(count), listed, resume, rate)

    def _plain_sum(c, a, b, i, p, columns, ks, resume, rate):
        c_row = _floats(right(down(c, i), p), NR)
        total = c_row.copy() if resume else np.zeros(NR, np.float32)
        for column, k in zip(map(int, columns), map(int, ks), strict=True):
            (factor,) = _floats(right(down(a, i), column), 1)
            total = fma(factor, _floats(right(down(b, k), p), NR), total)
        c_row[:] = fma(-rate, total, c_row) if rate else total

    def _floats(matrix, count):
        return array_at(matrix.at, count, np.float32)
