// SPDX-License-Identifier: Apache-2.0
// weight_sq: schema, checks, CPU kernel, CUDA entry.
#include "weight_sq.h"

#include "binding.h"

namespace gt {

#ifdef GT_WITH_CUDA
int weight_sq_launch(const WeightSqParams& p, DType dtype, bool gradient, void* stream);
#endif

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

// q of w, or dw of w and dq.
Tensor execute(const Tensor& w_, const Tensor* dq_) {
  TORCH_CHECK(w_.dim() == 4, "weight_sq: w [O, I, kh, kw] expected, got ", w_.sizes());
  const DType dtype = dtype_of(w_);
  TORCH_CHECK(dtype == DType::f32 || dtype == DType::f64, "weight_sq: float32 or float64 expected, got ",
              w_.scalar_type());
  const auto layout = layout_of(w_);
  const Tensor w = in_layout(w_, layout);
  Tensor dq, out;
  if (dq_) {
    TORCH_CHECK(dq_->sizes() == w.sizes().slice(0, 2) && dq_->dtype() == w.dtype() && dq_->device() == w.device(),
                "weight_sq_grad: dq ", dq_->sizes(), " ", dq_->dtype(), " does not fit w ", w.sizes(), " ", w.dtype());
    dq = dq_->contiguous();
    out = fresh(at::empty_like(w));
  } else {
    out = at::empty({w.size(0), w.size(1)}, w.options());
  }
  if (w.numel() == 0) return out.zero_();
  const WeightSqParams p{ptr(w), ptr(dq), ptr(out), w.size(0), w.size(1), w.size(2) * w.size(3),
                         layout == at::MemoryFormat::ChannelsLast};
  const bool gradient = dq_ != nullptr;
#ifdef GT_WITH_CUDA
  if (on_cuda(w)) {
    c10::DeviceGuard guard(w.device());
    check_launch(weight_sq_launch(p, dtype, gradient, current_stream(w)), "weight_sq");
    return out;
  }
#endif
  dtype == DType::f32 ? run<float>(p, gradient) : run<double>(p, gradient);
  return out;
}

Tensor weight_sq(const Tensor& w) { return execute(w, nullptr); }
Tensor weight_sq_grad(const Tensor& dq, const Tensor& w) { return execute(w, &dq); }

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) {
  m.def("weight_sq(Tensor w) -> Tensor");
  m.def("weight_sq_grad(Tensor dq, Tensor w) -> Tensor");
}

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) {
  m.impl("weight_sq", gt::weight_sq);
  m.impl("weight_sq_grad", gt::weight_sq_grad);
}

#ifdef GT_WITH_CUDA
TORCH_LIBRARY_IMPL(gantransfer, CUDA, m) {
  m.impl("weight_sq", gt::weight_sq);
  m.impl("weight_sq_grad", gt::weight_sq_grad);
}
#endif
