// SPDX-License-Identifier: Apache-2.0
// weight_sq: schema, checks, CPU kernel, CUDA entry.
#include "weight_sq.h"

#include "binding.h"

namespace gt {

#ifdef GT_WITH_CUDA
int weight_sq_launch(const WeightSqParams& p, DType dtype, void* stream);
#endif

namespace {

// `last` as a constant, so that the inner loops have constant strides.
template <class A, int K>
void rows(WeightSqParams p, bool last, int64_t first, int64_t end) {
  p.channels_last = last;
  for (int64_t o = first; o < end; o++) {
    A* __restrict q = static_cast<A*>(p.q) + o * p.i;
#pragma omp simd
    for (int64_t i = 0; i < p.i; i++) q[i] = weight_sq_value<A, K>(p, o, i);
  }
}

template <class A>
void run(const WeightSqParams& p) {
  const int64_t chunk = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, p.i * p.k));
  for_chunks(p.o, chunk, [&](int64_t first, int64_t end) {
    if (p.k == 9)
      p.channels_last ? rows<A, 9>(p, true, first, end) : rows<A, 9>(p, false, first, end);
    else
      p.channels_last ? rows<A, 0>(p, true, first, end) : rows<A, 0>(p, false, first, end);
  });
}

Tensor weight_sq(const Tensor& w_) {
  TORCH_CHECK(w_.dim() == 4, "weight_sq: w [O, I, kh, kw] expected, got ", w_.sizes());
  const DType dtype = dtype_of(w_);
  TORCH_CHECK(dtype == DType::f32 || dtype == DType::f64, "weight_sq: float32 or float64 expected, got ",
              w_.scalar_type());
  const auto layout = layout_of(w_);
  const Tensor w = in_layout(w_, layout);
  Tensor q = at::empty({w.size(0), w.size(1)}, w.options());
  if (w.numel() == 0) return q.zero_();
  const WeightSqParams p{ptr(w), ptr(q), w.size(0), w.size(1), w.size(2) * w.size(3),
                         layout == at::MemoryFormat::ChannelsLast};
#ifdef GT_WITH_CUDA
  if (on_cuda(w)) {
    c10::DeviceGuard guard(w.device());
    check_launch(weight_sq_launch(p, dtype, current_stream(w)), "weight_sq");
    return q;
  }
#endif
  dtype == DType::f32 ? run<float>(p) : run<double>(p);
  return q;
}

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) { m.def("weight_sq(Tensor w) -> Tensor"); }

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) { m.impl("weight_sq", gt::weight_sq); }

#if defined(GT_WITH_CUDA) && !defined(GT_EMULATE)
TORCH_LIBRARY_IMPL(gantransfer, CUDA, m) { m.impl("weight_sq", gt::weight_sq); }
#endif
