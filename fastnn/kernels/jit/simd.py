"""Intrinsics that Numba lacks: fused multiply-add, masks, denormals, addresses and others.

An intrinsic generates LLVM instructions inside the compiled function that calls it. The plain
versions at the end of the file, with the same names and signatures, replace the intrinsics if the
JIT is disabled. (`compress_places` has none: it is not used then.)
"""

import ctypes

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.registry import cpu_target
from numba.extending import intrinsic

ZERO, ONE = np.float32(0), np.float32(1)  # literals would be float64
NR = 16  # lanes of a panel, on every machine

TRIPLE, CPU, _features = cpu_target.target_context.codegen().magic_tuple()[:3]
CPU_FEATURES = frozenset(_features.split(","))


def _on(feature: str) -> bool:
    return f"+{feature}" in CPU_FEATURES


# The target that Numba compiles for; NUMBA_CPU_NAME may choose one with fewer features.
ARM64 = TRIPLE.startswith(("aarch64", "arm64"))
X86 = TRIPLE.startswith(("x86_64", "i386", "i686"))
HAS_FMA = ARM64 or _on("fma") or _on("avx512f")
LANES = 16 if _on("avx512f") else 8 if _on("avx2") else 4  # float32 in a vector register
HAS_COMPRESS = _on("avx512f")

FLOAT = ir.FloatType()
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)


def name_address(symbol: str, address: int) -> None:
    """Define a symbol, by which compiled code can call the function at an address."""
    llvm.add_symbol(symbol, address)


def constant(value: int) -> ir.Constant:
    """Return an int64 constant."""
    return ir.Constant(INT64, value)


def emit_pointer(context, builder, buffer_type, buffer, index):
    """Emit the address of an element of an array or a pointer."""
    if not isinstance(buffer_type, types.CPointer):
        buffer = context.make_array(buffer_type)(context, builder, buffer).data
    return builder.gep(buffer, [index])


def emit_multiply_add(builder, x, y, z):
    """Emit ``x * y + z`` for scalars or vectors, fused if the target has the instruction."""
    if not HAS_FMA:
        return builder.fadd(builder.fmul(x, y), z)
    name = f"llvm.fma.v{x.type.count}f32" if isinstance(x.type, ir.VectorType) else "llvm.fma.f32"
    signature = ir.FunctionType(x.type, [x.type] * 3)
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(function, [x, y, z])


def emit_splat(builder, scalar, vector):
    """Emit a vector with the scalar in all lanes."""
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(INT32, 0))
    lanes = ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(single, undefined, lanes)


@intrinsic
def nonzero_mask(typingctx, array, at):
    """Return which of the NR numbers from ``array[at]`` are not zero; the first is in bit 0."""

    def codegen(context, builder, signature, args):
        vector = ir.VectorType(FLOAT, NR)
        pointer = emit_pointer(context, builder, signature.args[0], *args[:2])
        pointer = builder.bitcast(pointer, vector.as_pointer())
        zeros = ir.Constant(vector, [0.0] * NR)
        lanes = builder.fcmp_unordered("!=", builder.load(pointer, align=4), zeros)
        return builder.zext(builder.bitcast(lanes, ir.IntType(NR)), INT64)

    return types.int64(array, types.intp), codegen


@intrinsic
def marked_mask(typingctx, masks, at, bits):
    """Return which of the NR uint16 masks from ``masks[at]`` have any of `bits` set.

    The first mask is in bit 0 of the result.
    """

    def codegen(context, builder, signature, args):
        element = ir.IntType(16)
        vector = ir.VectorType(element, NR)
        pointer = emit_pointer(context, builder, signature.args[0], *args[:2])
        pointer = builder.bitcast(pointer, vector.as_pointer())
        wanted = emit_splat(builder, builder.trunc(args[2], element), vector)
        common = builder.and_(builder.load(pointer, align=2), wanted)
        marked = builder.icmp_unsigned("!=", common, ir.Constant(vector, [0] * NR))
        return builder.zext(builder.bitcast(marked, ir.IntType(NR)), INT64)

    return types.int64(masks, types.intp, types.int64), codegen


@intrinsic
def lowest_bit(typingctx, bits):
    """Return the index of the lowest set bit; there must be one."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), True))

    return types.int64(types.int64), codegen


@intrinsic
def count_bits(typingctx, bits):
    """Return the number of set bits."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen


@intrinsic
def compress_places(typingctx, lists, end, mask, base):
    """Append ``base`` plus the index of each set bit of a mask at ``lists[end]``; return the end.

    lists is int32. NR numbers are always written, for any mask. Only AVX-512 has the instruction.
    """

    def codegen(context, builder, signature, args):
        vector, bits = ir.VectorType(INT32, NR), builder.trunc(args[2], ir.IntType(NR))
        flags = builder.bitcast(bits, ir.VectorType(ir.IntType(1), NR))
        places = builder.add(
            emit_splat(builder, builder.trunc(args[3], INT32), vector),
            ir.Constant(vector, list(range(NR))),
        )
        compress = ir.FunctionType(vector, [vector, vector, flags.type])
        name = "llvm.x86.avx512.mask.compress.v16i32"
        function = cgutils.get_or_insert_function(builder.module, compress, name)
        packed = builder.call(function, [places, ir.Constant(vector, [0] * NR), flags])
        pointer = emit_pointer(context, builder, signature.args[0], *args[:2])
        builder.store(packed, builder.bitcast(pointer, vector.as_pointer()), align=4)
        return builder.add(args[1], builder.ctpop(builder.zext(bits, INT64)))

    return types.int64(lists, types.intp, types.int64, types.int64), codegen


@intrinsic
def fma(typingctx, x, y, z):
    """Return ``x * y + z`` in float32, rounded once if the target has the instruction."""

    def codegen(context, builder, signature, args):
        return emit_multiply_add(builder, *args)

    return types.float32(types.float32, types.float32, types.float32), codegen


@intrinsic
def flush_denormals(typingctx):
    """Treat denormal numbers as zero in this thread; return the state before.

    Operations on them take a hundred times as long on many processors, and momentum produces them.
    """

    def codegen(context, builder, signature, args):
        state = _read_float_state(builder)
        flush = 0x8040 if X86 else 1 << 24  # FTZ and DAZ; FPCR.FZ
        _write_float_state(builder, builder.or_(state, constant(flush)))
        return state

    return types.int64(), codegen


@intrinsic
def restore_denormals(typingctx, state):
    """Restore the state that `flush_denormals` returned."""

    def codegen(context, builder, signature, args):
        _write_float_state(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def _read_float_state(builder):
    if X86:
        slot = cgutils.alloca_once(builder, INT32)
        _mxcsr(builder, "st", slot)
        return builder.zext(builder.load(slot), INT64)
    if ARM64:
        read = ir.FunctionType(INT64, [])
        name = "llvm.aarch64.get.fpcr"
        return builder.call(cgutils.get_or_insert_function(builder.module, read, name), [])
    return constant(0)


def _write_float_state(builder, state):
    if X86:
        slot = cgutils.alloca_once(builder, INT32)
        builder.store(builder.trunc(state, INT32), slot)
        _mxcsr(builder, "ld", slot)
    elif ARM64:
        write = ir.FunctionType(ir.VoidType(), [INT64])
        name = "llvm.aarch64.set.fpcr"
        builder.call(cgutils.get_or_insert_function(builder.module, write, name), [state])


def _mxcsr(builder, verb, slot):
    """Emit a store ("st") of the SSE control register to the slot, or a load ("ld") from it."""
    bytes_type = ir.IntType(8).as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [bytes_type])
    name = f"llvm.x86.sse.{verb}mxcsr"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    builder.call(function, [builder.bitcast(slot, bytes_type)])


@intrinsic
def prefetch(typingctx, address):
    """Prefetch the cache line at an address; any address is allowed."""

    def codegen(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.VoidType(), [pointer, INT32, INT32, INT32])
        name = builder.module.declare_intrinsic("llvm.prefetch", [pointer], function).name
        callee = builder.module.globals[name]
        read, into_second_cache, data = (ir.Constant(INT32, n) for n in (0, 2, 1))
        line = builder.inttoptr(args[0], pointer)
        builder.call(callee, [line, read, into_second_cache, data])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def transpose_square(typingctx, target, target_at, source, source_at, count):
    """Transpose NR × NR numbers: ``target[at + j * NR + i] = source[at + i * NR + j]``.

    Only the first `count` rows of the source are read; the others count as zeros. Each of the
    log₂ NR rounds swaps the two off-diagonal quarters of every square; the next round does so with
    squares of half the size.
    """

    def codegen(context, builder, signature, args):
        vector = ir.VectorType(FLOAT, NR)

        def pointer(array_type, array, at):
            pointer = emit_pointer(context, builder, array_type, array, at)
            return builder.bitcast(pointer, vector.as_pointer())

        rows = []
        for i in range(NR):
            exists = builder.icmp_signed("<", constant(i), args[4])
            at = builder.select(exists, builder.add(args[3], constant(i * NR)), args[3])
            row = builder.load(pointer(signature.args[2], args[2], at), align=4)
            rows.append(builder.select(exists, row, ir.Constant(vector, [0.0] * NR)))
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
            at = builder.add(args[1], constant(j * NR))
            builder.store(row, pointer(signature.args[0], args[0], at), align=4)
        return context.get_dummy_value()

    signature = types.void(target, types.intp, source, types.intp, types.intp)
    return signature, codegen


def _pick(builder, low, high, lane):
    """Emit the vector whose lane j is lane ``lane(j)`` of `low` followed by `high`."""
    lanes = ir.Constant(ir.VectorType(INT32, NR), [lane(j) for j in range(NR)])
    return builder.shuffle_vector(low, high, lanes)


@intrinsic
def call_region(typingctx, region, task, job):
    """Call the compiled region at an address: ``region(task, job)``."""

    def codegen(context, builder, signature, args):
        function = ir.FunctionType(ir.VoidType(), [INT64, INT64])
        pointer = builder.inttoptr(args[0], function.as_pointer())
        builder.call(pointer, [args[1], args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def address_in(typingctx, buffer, at):
    """Return the address of ``buffer[at]``; the buffer is an array or from `array_at`."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(emit_pointer(context, builder, signature.args[0], *args), INT64)

    return types.int64(buffer, types.intp), codegen


@intrinsic(prefer_literal=False)
def array_at(typingctx, address, size, dtype):
    """Return the buffer (size,) of a dtype at an address, which only supports indexing.

    It is a pointer, not an array of Numba: functions count references to such an array, which takes
    longer than a small product.
    """
    pointer = types.CPointer(dtype.dtype)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(types.int64, types.int64, dtype), codegen


@intrinsic(prefer_literal=False)
def record_at(typingctx, address, index, dtype):
    """Return a record of the array of records at an address."""
    record = dtype.dtype

    def codegen(context, builder, signature, args):
        offset = builder.mul(args[1], constant(record.size))
        return builder.inttoptr(builder.add(args[0], offset), context.get_value_type(record))

    return record(types.int64, types.int64, dtype), codegen


if config.DISABLE_JIT:
    HAS_COMPRESS = False

    def nonzero_mask(array, at):  # noqa: F811
        """Plain version."""
        return sum(1 << j for j in range(NR) if array[at + j] != 0)

    def marked_mask(masks, at, bits):  # noqa: F811
        """Plain version."""
        return sum(1 << j for j in range(NR) if int(masks[at + j]) & bits)

    def lowest_bit(bits):  # noqa: F811
        """Plain version."""
        return (int(bits) & -int(bits)).bit_length() - 1

    def count_bits(bits):  # noqa: F811
        """Plain version."""
        return int(bits).bit_count()

    def fma(x, y, z):  # noqa: F811
        """Plain version: the product of two float32 is exact in float64."""
        with np.errstate(all="ignore"):
            return (np.float64(1) * x * y + z).astype(np.float32)

    def prefetch(address):  # noqa: F811
        """Plain version: nothing to do."""

    def transpose_square(target, target_at, source, source_at, count):  # noqa: F811
        """Plain version."""
        square = np.zeros((NR, NR), np.float32)
        square.flat[: count * NR] = source[source_at : source_at + count * NR]
        target[target_at : target_at + NR * NR] = square.T.ravel()

    def flush_denormals():  # noqa: F811
        """Plain version: NumPy keeps denormals."""
        return 0

    def restore_denormals(state):  # noqa: F811
        """Plain version: nothing to do."""

    def call_region(region, task, job):  # noqa: F811
        """Plain version: a region is a Python function."""
        region(task, job)

    def address_in(buffer, at):  # noqa: F811
        """Plain version."""
        return buffer.__array_interface__["data"][0] + int(at) * buffer.itemsize

    def array_at(address, size, dtype):  # noqa: F811
        """Plain version."""
        memory = (ctypes.c_byte * int(size * np.dtype(dtype).itemsize)).from_address(int(address))
        return np.frombuffer(memory, dtype)

    def record_at(address, index, dtype):  # noqa: F811
        """Plain version: the fields are attributes, as in compiled code."""
        return array_at(address, index + 1, dtype).view(np.recarray)[index]
