"""Philox-4x32-10 and dropout in vector instructions.

`fastnn.model.randomness.philox` is the same function in NumPy. The plain versions at the end of
the file replace the intrinsics if the JIT is disabled.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from fastnn.kernels.jit.simd import FLOAT, INT64, NR, constant, emit_pointer, emit_splat
from fastnn.model.randomness import GROUP, KEY_STEPS, MULTIPLIERS, ROUNDS, WORD, philox

_HALF_WORD = 0xFFFF


@intrinsic
def keep_bits(typingctx, key, group, position, epoch, layer, level):
    """Return which columns of a dropout block are kept: column 8 · h + i in bit 8 · h + i.

    Each counter (group + i, position, epoch, layer) gives eight random numbers of 16 bits. Column
    8 · h + i is kept if number h is below the level. All six arguments are int64; of the words of
    the counter only the low 32 bits are used, of the key all 64.
    """

    def codegen(context, builder, signature, args):
        key, group, position, epoch, layer, level = args
        vector = ir.VectorType(INT64, GROUP)

        def splat(value):
            return emit_splat(builder, value, vector)

        def all_lanes(value):
            return ir.Constant(vector, [value] * GROUP)

        def low(words):  # the bits above 32 are cleared only where they matter
            return builder.and_(words, all_lanes(WORD))

        lanes = ir.Constant(vector, list(range(GROUP)))
        x = [builder.add(splat(group), lanes), splat(position), splat(epoch), splat(layer)]
        keys = [builder.and_(key, constant(WORD)), builder.lshr(key, constant(32))]
        for number in range(ROUNDS):
            first = builder.mul(low(x[0]), all_lanes(MULTIPLIERS[0]))
            second = builder.mul(low(x[2]), all_lanes(MULTIPLIERS[1]))
            steps = [
                builder.and_(
                    builder.add(keys[i], constant(number * KEY_STEPS[i] & WORD)), constant(WORD)
                )
                for i in range(2)
            ]
            x = [
                _emit_xor(builder, builder.lshr(second, all_lanes(32)), x[1], splat(steps[0])),
                second,
                _emit_xor(builder, builder.lshr(first, all_lanes(32)), x[3], splat(steps[1])),
                first,
            ]
        bits = constant(0)
        for h in range(GROUP):
            half = builder.lshr(x[h // 2], all_lanes(16 * (h % 2)))
            below = builder.icmp_unsigned(
                "<", builder.and_(half, all_lanes(_HALF_WORD)), splat(level)
            )
            kept = builder.zext(builder.bitcast(below, ir.IntType(GROUP)), INT64)
            bits = builder.or_(bits, builder.shl(kept, constant(GROUP * h)))
        return bits

    return types.int64(*[types.int64] * 6), codegen


def _emit_xor(builder, a, b, c):
    return builder.xor(builder.xor(a, b), c)


@intrinsic
def keep_marked(typingctx, buffer, at, bits, factor):
    """Multiply NR numbers from ``buffer[at]`` by the factor if their bit is set; else write 0."""

    def codegen(context, builder, signature, args):
        vector = ir.VectorType(FLOAT, NR)
        pointer = emit_pointer(context, builder, signature.args[0], *args[:2])
        pointer = builder.bitcast(pointer, vector.as_pointer())
        lanes = builder.trunc(args[2], ir.IntType(NR))
        kept = builder.bitcast(lanes, ir.VectorType(ir.IntType(1), NR))
        scaled = builder.fmul(builder.load(pointer, align=4), emit_splat(builder, args[3], vector))
        zeros = ir.Constant(vector, [0.0] * NR)
        builder.store(builder.select(kept, scaled, zeros), pointer, align=4)
        return context.get_dummy_value()

    return types.void(buffer, types.intp, types.int64, types.float32), codegen


if config.DISABLE_JIT:

    def keep_bits(key, group, position, epoch, layer, level):  # noqa: F811
        """Plain version."""
        words = [np.uint64(int(word) & WORD) for word in (position, epoch, layer)]
        counters = np.arange(group, group + GROUP, dtype=np.uint64)
        rest = [np.full(GROUP, word) for word in words]
        bits = 0
        for w, word in enumerate(philox([counters, *rest], int(key) % 2**64)):
            for h in range(2):
                below = ((word >> np.uint64(16 * h)) & np.uint64(_HALF_WORD)) < np.uint64(level)
                for i in np.flatnonzero(below):
                    bits |= 1 << (GROUP * (2 * w + h) + int(i))
        return bits

    def keep_marked(buffer, at, bits, factor):  # noqa: F811
        """Plain version."""
        for i in range(NR):
            buffer[at + i] = buffer[at + i] * factor if bits >> i & 1 else np.float32(0)
