// SPDX-License-Identifier: Apache-2.0
// epilogue: schema, checks, entries of the kernels.
#include "epilogue.h"

#include "arguments.h"

namespace gt {

void epilogue_cpu(const EpilogueParams& p, DType dtype, bool gradient);
#ifdef GT_WITH_CUDA
int epilogue_launch(const EpilogueParams& p, DType dtype, bool gradient, void* stream);
int64_t epilogue_partials(const EpilogueParams& p);
#endif

namespace {

struct Arguments : EpilogueArguments {
  Tensor x;
};

Arguments prepare(const Tensor& x, const OptTensor& d, double scale, const OptTensor& noise, const OptTensor& strength,
                  const OptTensor& b, double slope, double gain, double clamp) {
  TORCH_CHECK(x.dim() == 4, "epilogue: x [N, C, H, W] expected, got ", x.sizes());
  Arguments a{epilogue_arguments(x, x.size(0), x.size(1), x.size(2) * x.size(3), d, scale, noise, strength, b, slope,
                                 gain, clamp), in_layout(x, layout_of(x))};
  a.p.x = ptr(a.x);
  return a;
}

void execute(EpilogueParams& p, const Tensor& x, bool gradient) {
  const DType dtype = dtype_of(x);
#ifdef GT_WITH_CUDA
  if (on_cuda(x)) {
    c10::DeviceGuard guard(x.device());
    Tensor partial;
    if (gradient) partial = at::empty({epilogue_partials(p)}, x.options().dtype(acc_type(x)));
    p.partial = ptr(partial);
    return check_launch(epilogue_launch(p, dtype, gradient, current_stream(x)), "epilogue");
  }
#endif
  if constexpr (!kEmulated) epilogue_cpu(p, dtype, gradient);
}

Tensor epilogue(const Tensor& x, const OptTensor& d, double scale, const OptTensor& noise, const OptTensor& strength,
                const OptTensor& b, double slope, double gain, double clamp) {
  Arguments a = prepare(x, d, scale, noise, strength, b, slope, gain, clamp);
  Tensor y = fresh(at::empty_like(a.x));
  if (y.numel() == 0) return y;
  a.p.out = y.data_ptr();
  execute(a.p, a.x, false);
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> epilogue_grad(const Tensor& dy_, const Tensor& y, const OptTensor& d,
                                                         double scale, const OptTensor& noise,
                                                         const OptTensor& strength, const OptTensor& b, double slope,
                                                         double gain, double clamp) {
  TORCH_CHECK(dy_.sizes() == y.sizes() && dy_.dtype() == y.dtype() && dy_.device() == y.device(),
              "epilogue_grad: dy ", dy_.sizes(), " ", dy_.dtype(), " does not fit y ", y.sizes(), " ", y.dtype());
  Arguments a = prepare(y, d, scale, noise, strength, b, slope, gain, clamp);
  const Tensor dy = in_layout(dy_, layout_of(y));
  const auto options = y.options().dtype(acc_type(y));
  Tensor dx = fresh(at::empty_like(a.x));
  Tensor dd = d ? at::empty({y.size(0), y.size(1)}, options) : at::empty({0}, options);
  Tensor dstrength = noise ? at::empty({}, options) : at::empty({0}, options);
  Tensor db = b ? at::empty({y.size(1)}, options) : at::empty({0}, options);
  if (dx.numel() == 0) {
    dd.zero_();
    dstrength.zero_();
    db.zero_();
    return {dx, dd, dstrength, db};
  }
  a.p.dy = dy.data_ptr();
  a.p.out = dx.data_ptr();
  a.p.dd = d ? dd.data_ptr() : nullptr;
  a.p.dstrength = noise ? dstrength.data_ptr() : nullptr;
  a.p.db = b ? db.data_ptr() : nullptr;
  execute(a.p, a.x, true);
  return {dx, dd, dstrength, db};
}

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) {
  m.def("epilogue(Tensor x, Tensor? d, float scale, Tensor? noise, Tensor? strength, Tensor? b, float slope, "
        "float gain, float clamp) -> Tensor");
  m.def("epilogue_grad(Tensor dy, Tensor y, Tensor? d, float scale, Tensor? noise, Tensor? strength, Tensor? b, "
        "float slope, float gain, float clamp) -> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) {
  m.impl("epilogue", gt::epilogue);
  m.impl("epilogue_grad", gt::epilogue_grad);
}

#ifdef GT_WITH_CUDA
TORCH_LIBRARY_IMPL(gantransfer, CUDA, m) {
  m.impl("epilogue", gt::epilogue);
  m.impl("epilogue_grad", gt::epilogue_grad);
}
#endif
