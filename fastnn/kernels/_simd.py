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
# A tile over listed k may be lower, for the fewer rows, the fewer k they have in common.
LISTED_ROWS, LISTED_PANELS = (4, 4) if LANES == 16 else (TILE_ROWS, TILE_PANELS)


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


class _Matrix:
    """An operand in emitted code: where its rows and panels begin."""

    def __init__(self, context, builder, operand_type, operand):
        array, at, self.row, self.step = (builder.extract_value(operand, i) for i in range(4))
        self.builder = builder
        data = context.make_array(operand_type[0])(context, builder, array).data
        self.start = builder.gep(data, [at])

    def pointer(self, rows=0, steps=0, lane=0):
        """Address of ``data[at + rows * row + steps * step + lane]``, all three constants."""
        b = self.builder
        offset = b.add(b.mul(_int(rows), self.row), b.mul(_int(steps), self.step))
        return b.gep(self.start, [b.add(offset, _int(lane))])


def emit_tile(context, builder, operands, depth, resume, size, ks=None):
    """Emit the micro-kernel; `tile` and `tile_listed` say what it computes.

    ::

                     b   k ↓  [ panel 0 | panel 1 ]     a row of b: panels·NR/lanes loads
        a  k →
        [ a a a a ]           [ sums    | sums    ]     rows · panels·NR/lanes registers,
        [ a a a a ] rows      [ sums    | sums    ]     one multiply-add each for every k;
        [ a a a a ]           [ sums    | sums    ]     an element of a is spread to all lanes

    `operands` are c, a and b as (type, value); `size` is rows, panels and lanes of a register;
    `ks`, where there is a list, is the address of its first k.
    """
    c, a, b = (_Matrix(context, builder, *operand) for operand in operands)
    rows, panels, lanes = size
    vector = ir.VectorType(_f32, lanes)
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
    builder.cbranch(cgutils.as_bool_bit(builder, resume), load, head)
    builder.position_at_end(load)
    loaded = [builder.load(pointer, align=4) for pointer in c_starts]
    builder.branch(head)

    builder.position_at_end(head)
    position = builder.phi(_i64)
    accumulators = [builder.phi(vector) for _ in sums]
    zeros = [ir.Constant(vector, [0.0] * lanes)] * len(sums)
    for block, values in ((entry, zeros), (load, loaded)):
        position.add_incoming(_int(0), block)
        for accumulator, value in zip(accumulators, values, strict=True):
            accumulator.add_incoming(value, block)
    builder.cbranch(builder.icmp_signed("<", position, depth), body, done)

    builder.position_at_end(body)
    k = position
    if ks is not None:
        k = builder.sext(builder.load(builder.gep(ks, [position])), _i64)
    b_offset, a_offset = builder.mul(k, b.row), builder.mul(k, a.step)
    b_row = {}
    for place, start in b_starts.items():
        pointer = builder.bitcast(builder.gep(start, [b_offset]), vector.as_pointer())
        b_row[place] = builder.load(pointer, align=4)
    a_column = [
        _splat(builder, builder.load(builder.gep(start, [a_offset])), vector) for start in a_starts
    ]
    for (i, p, lane), accumulator in zip(sums, accumulators, strict=True):
        total = _multiply_add(builder, a_column[i], b_row[p, lane], accumulator)
        accumulator.add_incoming(total, body)
    position.add_incoming(builder.add(position, _int(1)), body)
    builder.branch(head).set_metadata("llvm.loop", _keep_rolled(builder.module))

    builder.position_at_end(done)
    for pointer, accumulator in zip(c_starts, accumulators, strict=True):
        builder.store(accumulator, pointer, align=4)
    return context.get_dummy_value()


def _keep_rolled(module):
    """Return loop metadata that forbids unrolling.

    LLVM would unroll the micro-kernel by two and load both steps' operands first; the sums then
    no longer fit into the registers, and it ran at half the speed.
    """
    disable = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = module.add_metadata([_int(len(module.metadata)), disable])
    loop.operands = (loop, disable)  # a loop's metadata begins with itself
    return loop


@intrinsic(prefer_literal=True)
def tile(typingctx, rows, panels, c, a, b, depth, resume):
    """Multiply one register tile: ``c = a b``, or ``c += a b`` where `resume` is true.

    `c` is rows × panels·NR, `a` rows × depth and `b` depth × panels·NR, each an `Operand`;
    `rows` and `panels` are constants. Every element is one chain of fused multiply-adds in
    increasing k, so its bits depend neither on the tile's size nor on where a chain was cut.
    """
    signature = types.void(rows, panels, c, a, b, types.intp, types.boolean)
    size = _literal(rows), _literal(panels), LANES

    def codegen(context, builder, signature, args):
        operands = list(zip(signature.args, args, strict=True))[2:5]
        return emit_tile(context, builder, operands, args[5], args[6], size)

    return (signature, codegen) if None not in size else None


@intrinsic(prefer_literal=True)
def tile_listed(typingctx, rows, panels, c, a, b, ks, start, count, resume):
    """Multiply one register tile over some k only: ``c[i, j] (+)= Σ a[i, k] b[k, j]``.

    The k are ``ks[start : start + count]``, int32 and increasing. Where all others have zeros in
    `a`, and `b` is finite, the bits are those of `tile`: adding zero changes no sum.
    """
    counts = types.intp, types.intp, types.boolean
    signature = types.void(rows, panels, c, a, b, ks, *counts)
    size = _literal(rows), _literal(panels), LANES

    def codegen(context, builder, signature, args):
        operands = list(zip(signature.args, args, strict=True))[2:5]
        array = context.make_array(signature.args[5])(context, builder, args[5])
        first = builder.gep(array.data, [args[6]])
        return emit_tile(context, builder, operands, args[7], args[8], size, first)

    return (signature, codegen) if None not in size else None


def _literal(value):
    """Return a literal type's value; None for a type that is not literal, which Numba tries too."""
    return getattr(value, "literal_value", None)


@intrinsic
def nonzero_mask(typingctx, array, at):
    """Return which of the NR numbers from ``array[at]`` are not zero, the first in bit 0."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        vector = ir.VectorType(_f32, NR)
        pointer = builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())
        zeros = ir.Constant(vector, [0.0] * NR)
        lanes = builder.fcmp_unordered("!=", builder.load(pointer, align=4), zeros)
        return builder.zext(builder.bitcast(lanes, ir.IntType(NR)), _i64)

    return types.int64(array, types.intp), codegen


@intrinsic
def marked_mask(typingctx, masks, at, bits):
    """Return which of the NR uint16 masks from ``masks[at]`` have any of `bits`, first in bit 0."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        element = ir.IntType(16)
        vector = ir.VectorType(element, NR)
        pointer = builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())
        wanted = builder.trunc(args[2], element)
        undefined = ir.Constant(vector, ir.Undefined)
        single = builder.insert_element(undefined, wanted, ir.Constant(_i32, 0))
        lanes = ir.Constant(ir.VectorType(_i32, NR), [0] * NR)
        wanted = builder.shuffle_vector(single, undefined, lanes)
        common = builder.and_(builder.load(pointer, align=2), wanted)
        marked = builder.icmp_unsigned("!=", common, ir.Constant(vector, [0] * NR))
        return builder.zext(builder.bitcast(marked, ir.IntType(NR)), _i64)

    return types.int64(masks, types.intp, types.int64), codegen


@intrinsic
def lowest_bit(typingctx, bits):
    """Return the place of the lowest bit that is set, of at least one."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), True))

    return types.int64(types.int64), codegen


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
def prefetch(typingctx, address):
    """Ask for the cache line at an address, which will be read soon; a hint, never a fault."""

    def codegen(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.VoidType(), [pointer, _i32, _i32, _i32])
        name = builder.module.declare_intrinsic("llvm.prefetch", [pointer], function).name
        callee = builder.module.globals[name]
        read, into_second_cache, data = (ir.Constant(_i32, n) for n in (0, 2, 1))
        line = builder.inttoptr(args[0], pointer)
        builder.call(callee, [line, read, into_second_cache, data])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def transpose_square(typingctx, target, target_at, target_row, source, source_at):
    """Transpose NR × NR numbers: ``target[at + j * row + i] = source[at + i * NR + j]``.

    In log₂ NR rounds, each of which swaps the off-diagonal quarters of squares half the size.
    """

    def codegen(context, builder, signature, args):
        vector = ir.VectorType(_f32, NR)

        def pointer(array_type, array, at):
            data = context.make_array(array_type)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())

        rows = []
        for i in range(NR):
            at = builder.add(args[4], _int(i * NR))
            rows.append(builder.load(pointer(signature.args[3], args[3], at), align=4))
        half = NR // 2
        while half:
            for i in range(NR):
                if not i & half:
                    low, high = rows[i], rows[i + half]
                    rows[i] = _pick(
                        builder, low, high, lambda j, h=half: j if not j & h else j - h + NR
                    )
                    rows[i + half] = _pick(
                        builder, low, high, lambda j, h=half: j + h if not j & h else j + NR
                    )
            half //= 2
        for j, row in enumerate(rows):
            at = builder.add(args[1], builder.mul(args[2], _int(j)))
            builder.store(row, pointer(signature.args[0], args[0], at), align=4)
        return context.get_dummy_value()

    signature = types.void(target, types.intp, types.intp, source, types.intp)
    return signature, codegen


def _pick(builder, low, high, lane):
    """Emit the vector whose lane j is lane ``lane(j)`` of the two put together."""
    lanes = ir.Constant(ir.VectorType(_i32, NR), [lane(j) for j in range(NR)])
    return builder.shuffle_vector(low, high, lanes)


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
                _plain_sum(c, a, b, i, p, range(depth), resume)

    def tile_listed(rows, panels, c, a, b, ks, start, count, resume):  # noqa: F811
        """Plain twin."""
        for p in range(panels):
            for i in range(rows):
                _plain_sum(c, a, b, i, p, ks[start : start + count], resume)

    def _plain_sum(c, a, b, i, p, ks, resume):
        at = c.at + i * c.row + p * c.step
        total = c.data[at : at + NR].copy() if resume else np.zeros(NR, np.float32)
        for k in ks:
            b_row = b.data[b.at + k * b.row + p * b.step :][:NR]
            total = fma(a.data[a.at + i * a.row + k * a.step], b_row, total)
        c.data[at : at + NR] = total

    def nonzero_mask(array, at):  # noqa: F811
        """Plain twin."""
        return sum(1 << j for j in range(NR) if array[at + j] != 0)

    def marked_mask(masks, at, bits):  # noqa: F811
        """Plain twin."""
        return sum(1 << j for j in range(NR) if int(masks[at + j]) & bits)

    def lowest_bit(bits):  # noqa: F811
        """Plain twin."""
        return (int(bits) & -int(bits)).bit_length() - 1

    def fma(x, y, z):  # noqa: F811
        """Plain twin: the product of two float32 is exact in float64."""
        with np.errstate(all="ignore"):
            return (np.float64(1) * x * y + z).astype(np.float32)

    def prefetch(address):  # noqa: F811
        """Plain twin of nothing."""

    def transpose_square(target, target_at, target_row, source, source_at):  # noqa: F811
        """Plain twin."""
        square = source[source_at : source_at + NR * NR].reshape(NR, NR)
        for j in range(NR):
            target[target_at + j * target_row :][:NR] = square[:, j]

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
