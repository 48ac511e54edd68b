"""What Numba cannot say in Python: the micro-kernel, fused multiply-add, denormals, addresses.

The only file that speaks LLVM. Each function here is an intrinsic, that is, a generator of LLVM
instructions which end up inside the compiled function that calls it. Each has a plain twin of
the same name and signature for interpreters where the JIT is off; the twins stand at the end.
"""

import ctypes
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils, config
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from fastnn.kernels._jit import jit

NR = 16  # lanes of a panel: how many outputs stand side by side, on every machine

TRIPLE, CPU, _features = cpu_target.target_context.codegen().magic_tuple()[:3]
FEATURES = frozenset(_features.split(","))


def _on(feature: str) -> bool:
    return f"+{feature}" in FEATURES


# What Numba compiles for, which may be less than what the host has (NUMBA_CPU_NAME).
ARM64 = TRIPLE.startswith(("aarch64", "arm64"))
X86 = TRIPLE.startswith(("x86_64", "i386", "i686"))
HAS_FMA = ARM64 or _on("fma") or _on("avx512f")
LANES = 16 if _on("avx512f") else 8 if _on("avx2") else 4  # float32 in a vector register

# A tile of the result lives in registers: TILE_ROWS × TILE_PANELS·NR numbers. AVX-512 has 32
# registers, of which 8·2 hold sums; AVX2 has 16, and 4·2 leave room for the operands (16 wide
# code spills there, at a third of the speed); ARM has 32 short ones.
TILE_ROWS, TILE_PANELS = (8, 2) if LANES == 16 else (4, 1) if LANES == 8 or ARM64 else (2, 1)


class Operand(NamedTuple):
    """A matrix inside a flat float32 array, as the micro-kernel walks it.

    Element (i, k) of the left factor is ``data[at + i * row + k * step]``. Lane j of row k in
    panel p of the right factor is ``data[at + k * row + p * step + j]``, and the same holds
    for row i of the result: ``step`` leads from one panel to the next.
    """

    data: np.ndarray
    at: int
    row: int
    step: int


_f32 = ir.FloatType()
_i32 = ir.IntType(32)
_i64 = ir.IntType(64)


def _int(value: int) -> ir.Constant:
    return ir.Constant(_i64, value)


def _multiply_add(builder, x, y, z):
    """Emit ``x * y + z`` for scalars or vectors: fused where the target can."""
    if not HAS_FMA:
        return builder.fadd(builder.fmul(x, y), z)
    name = f"llvm.fma.v{x.type.count}f32" if isinstance(x.type, ir.VectorType) else "llvm.fma.f32"
    signature = ir.FunctionType(x.type, [x.type] * 3)
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(function, [x, y, z])


def _splat(builder, scalar, vector):
    """Emit a vector whose lanes are all the scalar."""
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(_i32, 0))
    lanes = ir.Constant(ir.VectorType(_i32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(single, undefined, lanes)


class _Pointers:
    """Addresses of an operand's elements, as emitted code."""

    def __init__(self, context, builder, operand_type, operand):
        array, self.at, self.row, self.step = (builder.extract_value(operand, i) for i in range(4))
        self.builder = builder
        self.base = context.make_array(operand_type[0])(context, builder, array).data

    def element(self, row, step, lane=0):
        """Address of ``data[at + row * self.row + step * self.step + lane]``."""
        b = self.builder
        offset = b.add(self.at, b.add(b.mul(row, self.row), b.mul(step, self.step)))
        return b.gep(b.gep(self.base, [offset]), [_int(lane)])


def emit_tile(context, builder, signature, args, rows, panels, lanes):
    """Emit the micro-kernel; `tile` says what it computes.

    ::

                     b   k ↓  [ panel 0 | panel 1 ]     a row of b: panels·NR/lanes loads
        a  k →
        [ a a a a ]           [ sums    | sums    ]     rows · panels·NR/lanes registers,
        [ a a a a ] rows      [ sums    | sums    ]     one multiply-add each for every k;
        [ a a a a ]           [ sums    | sums    ]     an element of a is spread to all lanes
    """
    c, a, b = (_Pointers(context, builder, signature.args[i], args[i]) for i in (2, 3, 4))
    depth, resume = args[5], args[6]
    vector = ir.VectorType(_f32, lanes)
    columns = [(p, lane) for p in range(panels) for lane in range(0, NR, lanes)]
    sums = [(i, p, lane) for i in range(rows) for p, lane in columns]

    def address_of_sum(i, p, lane):
        return builder.bitcast(c.element(_int(i), _int(p), lane), vector.as_pointer())

    entry = builder.block
    load = builder.append_basic_block("tile.load")
    head = builder.append_basic_block("tile.head")
    body = builder.append_basic_block("tile.body")
    done = builder.append_basic_block("tile.done")

    # Start from zero, or from c where a chain is resumed; c is not even read otherwise.
    builder.cbranch(cgutils.as_bool_bit(builder, resume), load, head)
    builder.position_at_end(load)
    loaded = [builder.load(address_of_sum(*place), align=4) for place in sums]
    builder.branch(head)

    builder.position_at_end(head)
    k = builder.phi(_i64)
    accumulators = [builder.phi(vector) for _ in sums]
    for block, values in (
        (entry, [ir.Constant(vector, [0.0] * lanes)] * len(sums)),
        (load, loaded),
    ):
        k.add_incoming(_int(0), block)
        for accumulator, value in zip(accumulators, values, strict=True):
            accumulator.add_incoming(value, block)
    builder.cbranch(builder.icmp_signed("<", k, depth), body, done)

    builder.position_at_end(body)
    b_row = {}
    for p, lane in columns:
        pointer = builder.bitcast(b.element(k, _int(p), lane), vector.as_pointer())
        b_row[p, lane] = builder.load(pointer, align=4)
    a_column = [_splat(builder, builder.load(a.element(_int(i), k)), vector) for i in range(rows)]
    for (i, p, lane), accumulator in zip(sums, accumulators, strict=True):
        total = _multiply_add(builder, a_column[i], b_row[p, lane], accumulator)
        accumulator.add_incoming(total, body)
    k.add_incoming(builder.add(k, _int(1)), body)
    builder.branch(head)

    builder.position_at_end(done)
    for place, accumulator in zip(sums, accumulators, strict=True):
        builder.store(accumulator, address_of_sum(*place), align=4)
    return context.get_dummy_value()


@intrinsic(prefer_literal=True)
def tile(typingctx, rows, panels, c, a, b, depth, resume):
    """Multiply one register tile: ``c = a b``, or ``c += a b`` where `resume` is true.

    `c` is rows × panels·NR, `a` rows × depth and `b` depth × panels·NR, each an `Operand`;
    `rows` and `panels` are constants. Every element is one chain of fused multiply-adds in
    increasing k, so its bits depend neither on the tile's size nor on where a chain was cut.
    """
    signature = types.void(rows, panels, c, a, b, depth, resume)

    def codegen(context, builder, signature, args):
        size = rows.literal_value, panels.literal_value, LANES
        return emit_tile(context, builder, signature, args, *size)

    return signature, codegen


@intrinsic
def fma(typingctx, x, y, z):
    """Compute ``x * y + z`` in float32, rounded once where the machine has the instruction."""

    def codegen(context, builder, signature, args):
        return _multiply_add(builder, *args)

    return types.float32(types.float32, types.float32, types.float32), codegen


@intrinsic
def flush_denormals(typingctx):
    """Treat denormal numbers as zero on this thread from here on; return the state before.

    They cost a hundred times as much on many machines, and momentum breeds them.
    """

    def codegen(context, builder, signature, args):
        state = _read_float_state(builder)
        flush = 0x8040 if X86 else 1 << 24  # FTZ and DAZ; FPCR.FZ
        _write_float_state(builder, builder.or_(state, _int(flush)))
        return state

    return types.int64(), codegen


@intrinsic
def restore_denormals(typingctx, state):
    """Go back to the state that `flush_denormals` returned."""

    def codegen(context, builder, signature, args):
        _write_float_state(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def _read_float_state(builder):
    if X86:
        slot = cgutils.alloca_once(builder, _i32)
        _mxcsr(builder, "st", slot)
        return builder.zext(builder.load(slot), _i64)
    if ARM64:
        return builder.asm(ir.FunctionType(_i64, []), "mrs $0, fpcr", "=r", [], side_effect=True)
    return _int(0)


def _write_float_state(builder, state):
    if X86:
        slot = cgutils.alloca_once(builder, _i32)
        builder.store(builder.trunc(state, _i32), slot)
        _mxcsr(builder, "ld", slot)
    elif ARM64:
        write = ir.FunctionType(ir.VoidType(), [_i64])
        builder.asm(write, "msr fpcr, $0", "r", [state], side_effect=True)


def _mxcsr(builder, verb, slot):
    """Emit a store ("st") of the SSE control register to the slot, or a load ("ld") from it."""
    bytes_type = ir.IntType(8).as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [bytes_type])
    name = f"llvm.x86.sse.{verb}mxcsr"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    builder.call(function, [builder.bitcast(slot, bytes_type)])


@intrinsic
def call_region(typingctx, region, task, job):
    """Call the compiled region at an address: ``region(task, job)``."""

    def codegen(context, builder, signature, args):
        function = ir.FunctionType(ir.VoidType(), [_i64, _i64])
        pointer = builder.inttoptr(args[0], function.as_pointer())
        builder.call(pointer, [args[1], args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _pointer_at(typingctx, address):
    """Return an address as a pointer that `numba.carray` takes."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), codegen


@jit
def array_at(address, size, dtype):
    """Return the array (size,) of a dtype that lies at an address."""
    return carray(_pointer_at(address), size, dtype)


if config.DISABLE_JIT:

    def tile(rows, panels, c, a, b, depth, resume):  # noqa: F811
        """Plain twin: the same sums, in float64 rounded to float32 at every step."""
        for p in range(panels):
            for i in range(rows):
                at = c.at + i * c.row + p * c.step
                total = c.data[at : at + NR].copy() if resume else np.zeros(NR, np.float32)
                for k in range(depth):
                    b_row = b.data[b.at + k * b.row + p * b.step :][:NR]
                    total = fma(a.data[a.at + i * a.row + k * a.step], b_row, total)
                c.data[at : at + NR] = total

    def fma(x, y, z):  # noqa: F811
        """Plain twin: the product of two float32 is exact in float64."""
        with np.errstate(all="ignore"):
            return (np.float64(1) * x * y + z).astype(np.float32)

    def flush_denormals():  # noqa: F811
        """Plain twin: NumPy keeps denormals."""
        return 0

    def restore_denormals(state):  # noqa: F811
        """Plain twin of nothing."""

    def call_region(region, task, job):  # noqa: F811
        """Plain twin: where the JIT is off a region is a Python function."""
        region(task, job)

    def array_at(address, size, dtype):  # noqa: F811
        """Plain twin: records answer to their fields as attributes, as in compiled code."""
        dtype = np.dtype(dtype)
        memory = (ctypes.c_byte * int(size * dtype.itemsize)).from_address(int(address))
        array = np.frombuffer(memory, dtype)
        return array.view(np.recarray) if dtype.fields else array
