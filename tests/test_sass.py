# SPDX-License-Identifier: Apache-2.0
"""The instruction counter on a listing made up here, and on a kernel compiled here where the tools are."""

import pytest

from tests.cuda import sass
from torch_utils import build

LISTING = """
//--------------------- .text.kernel --------------------------
\t.section\t.text.kernel,"ax",@progbits
        .type           kernel,@function
kernel:
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   ISETP.GE.AND P1, PT, R0, R2, PT ;
        /*0020*/               @P1 EXIT ;
.L_x_0:
        /*0030*/                   IMAD.WIDE R2, R0, R4, c[0x0][0x160] ;
        /*0040*/               @P0 BRA `(.L_x_1) ;
        /*0050*/                   MOV R20, 0x70 ;
        /*0060*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_s64) ;
.L_x_1:
        /*0070*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_2:
        /*0080*/                   LDS.64 R8, [R9] ;
        /*0090*/                   FFMA R4, R5, R8, R4 ;
        /*00a0*/              @!P0 BRA `(.L_x_2) ;
        /*00b0*/                   F2FP.F16.F32.PACK_AB R4, R5, R4 ;
        /*00c0*/                   STG.E.64 desc[UR4][R2.64], R4 ;
        /*00d0*/              @!P1 STG.E.U16 desc[UR4][R2.64], R4 ;
        /*00e0*/               @P1 BRA `(.L_x_0) ;
        /*00f0*/                   EXIT ;
.L_x_3:
        /*0100*/                   BRA `(.L_x_3);
        /*0110*/                   NOP;
"""


def test_loops_are_found_and_counted():
    (name, lines), = sass.kernels_of(LISTING).items()
    assert name == "kernel"
    loops, outside = sass.loops_of("f<gt::f16, 4>", lines)
    outer, inner = sorted(loops, key=lambda x: x.depth)
    # The block that calls the division is left out, the trap behind the code is no loop of the kernel.
    assert dict(outer.counts) == {"integer": 1, "branch": 2, "ldg": 1, "convert": 1, "stg": 2}
    assert (outer.depth, outer.bytes_loaded, outer.bytes_global, outer.stored) == (1, 16, 10, 5)
    assert dict(inner.counts) == {"shared": 1, "fp32": 1, "branch": 1} and inner.depth == 2
    assert outside == 4 and sass.hottest(loops) is outer


def test_a_kernel_compiled_here(tmp_path):
    """Twice the work of a loop is found as twice the instructions of its kind."""
    if build.nvcc() is None or sass.nvdisasm() is None:
        pytest.skip("needs nvcc and nvdisasm")
    arch = build.offered_architectures(build.nvcc())[0]
    text = """
template <class T, int K> __global__ void run(const T* x, T* y, int n) {
#pragma unroll 1
  for (int i = threadIdx.x; i < n; i += 32) {
    T v = x[i];
#pragma unroll
    for (int k = 0; k < K; k++) v = v * v + T(1);
    y[i] = v;
  }
}
template __global__ void run<float, 8>(const float*, float*, int);
template __global__ void run<float, 16>(const float*, float*, int);
"""
    source = tmp_path / "loop.cu"
    source.write_text(text, encoding="utf-8")
    few, many = (sass.hottest(loops) for _, loops, _ in sorted(
        sass.analyse(source, arch, tmp_path), key=lambda row: row[1][0].counts["fp32"]))
    assert (few.counts["fp32"], many.counts["fp32"]) == (8, 16)
    assert few.stored == many.stored == 1 and few.counts["ldg"] == few.counts["stg"] == 1
