// SPDX-License-Identifier: Apache-2.0
// weight_sq: schema, checks, entries of the kernels.
#include "weight_sq.h"

#include "binding.h"

namespace gt {

void weight_sq_cpu(const WeightSqParams& p, DType dtype, bool gradient);
#ifdef GT_WITH_CUDA
int weight_sq_launch(const WeightSqParams& p, DType dtype, bool gradient, void* stream);
#endif

namespace {

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
  if constexpr (!kEmulated) weight_sq_cpu(p, dtype, gradient);
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
