// SPDX-License-Identifier: Apache-2.0
// weight_sq on the CPU.
#include "parallel.h"
#include "weight_sq.h"

namespace gt {
namespace {

// `last` as a constant, so that the inner loops have constant strides.
template <class A, int K>
void rows(WeightSqParams p, bool last, int64_t first, int64_t end) {
  p.channels_last = last;
  for (int64_t o = first; o < end; o++) {
    A* __restrict q = static_cast<A*>(p.out) + o * p.i;
#pragma omp simd
    for (int64_t i = 0; i < p.i; i++) q[i] = weight_sq_value<A, K>(p, o, i);
  }
}

template <class A, int K>
void slopes(const WeightSqParams& p, bool last, int64_t first, int64_t end) {
  const int64_t taps = K ? K : p.k, outer = last ? taps : p.i, inner = last ? p.i : taps;
  for (int64_t o = first; o < end; o++) {
    const A *w = static_cast<const A*>(p.w) + o * p.i * taps, *__restrict dq = static_cast<const A*>(p.dq) + o * p.i;
    A* dw = static_cast<A*>(p.out) + o * p.i * taps;
    for (int64_t r = 0; r < outer; r++, w += inner, dw += inner) {
      const A* __restrict from = w;
      A* __restrict to = dw;
#pragma omp simd
      for (int64_t j = 0; j < inner; j++) to[j] = from[j] * (A(2) * dq[last ? j : r]);
    }
  }
}

template <class A, int K>
void run(const WeightSqParams& p, bool gradient) {
  const int64_t chunk = std::max<int64_t>(1, (1 << 15) / (p.i * p.k));
  for_chunks(p.o, chunk, [&](int64_t first, int64_t end) {
    if (p.channels_last)
      gradient ? slopes<A, K>(p, true, first, end) : rows<A, K>(p, true, first, end);
    else
      gradient ? slopes<A, K>(p, false, first, end) : rows<A, K>(p, false, first, end);
  });
}

template <class A>
void run(const WeightSqParams& p, bool gradient) {
  p.k == 9 ? run<A, 9>(p, gradient) : run<A, 0>(p, gradient);
}

}  // namespace

void weight_sq_cpu(const WeightSqParams& p, DType dtype, bool gradient) {
  dtype == DType::f32 ? run<float>(p, gradient) : run<double>(p, gradient);
}

}  // namespace gt
