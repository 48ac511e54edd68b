"""The assembly code that is emitted for ARM; the test runs on any machine."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

PROGRAM = """
import llvmlite.binding as llvm
from llvmlite import ir
from fastnn.kernels.jit import simd
from fastnn.kernels.gemm import tile

simd.X86, simd.ARM64, simd.HAS_FMA = False, True, True
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
triple = "aarch64-unknown-linux-gnu"
module = ir.Module()
module.triple = triple
vector = ir.VectorType(simd.FLOAT, 4)
kernel = ir.Function(module, ir.FunctionType(vector, [vector, vector, simd.FLOAT]), "kernel")
builder = ir.IRBuilder(kernel.append_basic_block())
state = simd._read_float_state(builder)
simd._write_float_state(builder, builder.or_(state, simd.constant(1 << 24)))
x, y, scalar = kernel.args
builder.ret(simd.emit_multiply_add(builder, x, y, simd.emit_splat(builder, scalar, vector)))
tile.micro_kernel(module, (4, 1, 4), kind="")
machine = llvm.Target.from_triple(triple).create_target_machine(features="+neon", opt=3)
print(machine.emit_assembly(llvm.parse_assembly(str(module))))
"""


def test_micro_kernel_uses_fused_vector_instructions():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No available targets" in done.stderr or "has no attribute 'initialize_all" in done.stderr:
        pytest.skip("llvmlite was built without ARM")
    assert done.returncode == 0, done.stderr
    code = done.stdout.lower()
    for instruction in ("mrs\tx8, fpcr", "msr\tfpcr, x8", "fmla\tv2.4s"):
        assert instruction in code, code
    tile = code[code.index("fastnn.tile.4.1.4:") :]
    # 4 rows by a panel of 4 vectors: 16 instructions in the loop and 16 in the update. The sums are
    # stored only at one of the two ends.
    assert tile.count("fmla\t") + tile.count("fmls\t") == 2 * 16
    assert tile.count("str\tq") == 2 * 16
