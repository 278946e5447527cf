// SPDX-License-Identifier: Apache-2.0
// Class-conditional batch norm: schema, checks, entries of the kernels.
#include "cond_bn.h"

#include "binding.h"

namespace gt {

void cond_bn_cpu(const CondBnParams& p, DType dtype, CondBnJob job);
#ifdef GT_WITH_CUDA
int cond_bn_launch(const CondBnParams& p, DType dtype, CondBnJob job, void* stream);
int64_t cond_bn_partials(const CondBnParams& p, CondBnJob job);
#endif

namespace {

struct Sources {
  CondBnParams p{};
  Tensor x, gain, bias, mean, invstd, s1, s2;
};

void prepare(Sources& a, const Tensor& x, const OptTensor& gain, const OptTensor& bias, const OptTensor& mean,
             const OptTensor& invstd, bool relu, bool up2) {
  TORCH_CHECK(x.dim() == 4, "cond_bn: x [N, C, H, W] expected, got ", x.sizes());
  TORCH_CHECK(x.size(2) < (1 << 30) && x.size(3) < (1 << 30), "cond_bn: an image side is too long: ", x.sizes());
  const auto layout = layout_of(x);
  CondBnParams& p = a.p;
  a.x = in_layout(x, layout);
  p.n = x.size(0);
  p.c = x.size(1);
  p.h = int(x.size(2));
  p.w = int(x.size(3));
  p.up = up2 ? 2 : 1;
  p.relu = relu;
  p.channels_last = layout == at::MemoryFormat::ChannelsLast;
  if (gain) a.gain = vector_of(gain, x, p.n * p.c, "cond_bn: gain");
  if (bias) a.bias = vector_of(bias, x, p.n * p.c, "cond_bn: bias");
  if (mean) a.mean = vector_of(mean, x, p.c, "cond_bn: mean");
  if (invstd) a.invstd = vector_of(invstd, x, p.c, "cond_bn: invstd");
  p.x = ptr(a.x);
  p.gain = ptr(a.gain);
  p.bias = ptr(a.bias);
  p.mean = ptr(a.mean);
  p.invstd = ptr(a.invstd);
}

void execute(CondBnParams& p, const Tensor& x, CondBnJob job) {
  const DType dtype = dtype_of(x);
#ifdef GT_WITH_CUDA
  if (on_cuda(x)) {
    c10::DeviceGuard guard(x.device());
    const int64_t n = cond_bn_partials(p, job);
    Tensor partial = n ? at::empty({n}, x.options().dtype(acc_type(x))) : Tensor();
    p.partial = ptr(partial);
    return check_launch(cond_bn_launch(p, dtype, job, current_stream(x)), "cond_bn");
  }
#endif
  if constexpr (!kEmulated) cond_bn_cpu(p, dtype, job);
}

std::tuple<Tensor, Tensor> cond_bn_stats(const Tensor& x) {
  Sources a;
  prepare(a, x, {}, {}, {}, {}, false, false);
  Tensor mean = at::zeros({a.p.c}, x.options().dtype(acc_type(x))), m2 = at::zeros_like(mean);
  if (x.numel()) {
    a.p.a = mean.data_ptr();
    a.p.b = m2.data_ptr();
    execute(a.p, a.x, kCondBnStats);
  }
  return {mean, m2};
}

Tensor cond_bn(const Tensor& x, const OptTensor& gain, const OptTensor& bias, const Tensor& mean, const Tensor& invstd,
               bool relu, bool up2) {
  Sources a;
  prepare(a, x, gain, bias, mean, invstd, relu, up2);
  Tensor y = fresh(
      at::empty({a.p.n, a.p.c, int64_t(a.p.h) * a.p.up, int64_t(a.p.w) * a.p.up}, x.options(), layout_of(x)));
  if (y.numel()) {
    a.p.out = y.data_ptr();
    execute(a.p, a.x, kCondBnApply);
  }
  return y;
}

Tensor checked_dy(const Tensor& dy, const Tensor& x, const CondBnParams& p) {
  TORCH_CHECK(dy.dim() == 4 && dy.size(0) == p.n && dy.size(1) == p.c && dy.size(2) == int64_t(p.h) * p.up &&
                  dy.size(3) == int64_t(p.w) * p.up && dy.dtype() == x.dtype() && dy.device() == x.device(),
              "cond_bn: dy ", dy.sizes(), " ", dy.dtype(), " does not fit x ", x.sizes(), " ", x.dtype());
  return in_layout(dy, layout_of(x));
}

std::tuple<Tensor, Tensor> cond_bn_reduce(const Tensor& dy_, const Tensor& x, const OptTensor& gain,
                                          const OptTensor& bias, const Tensor& mean, const Tensor& invstd, bool relu,
                                          bool up2) {
  Sources a;
  prepare(a, x, gain, bias, mean, invstd, relu, up2);
  const Tensor dy = checked_dy(dy_, x, a.p);
  Tensor sa = at::zeros({a.p.n, a.p.c}, x.options().dtype(acc_type(x))), sb = at::zeros_like(sa);
  if (x.numel()) {
    a.p.dy = dy.data_ptr();
    a.p.a = sa.data_ptr();
    a.p.b = sb.data_ptr();
    execute(a.p, a.x, kCondBnReduce);
  }
  return {sa, sb};
}

Tensor cond_bn_dx_(const Tensor& dy_, const Tensor& x, const OptTensor& gain, const OptTensor& bias, const Tensor& mean,
                   const Tensor& invstd, const OptTensor& s1, const OptTensor& s2, bool relu, bool up2) {
  Sources a;
  prepare(a, x, gain, bias, mean, invstd, relu, up2);
  const Tensor dy = checked_dy(dy_, x, a.p);
  Tensor dx = fresh(at::empty_like(a.x));
  if (x.numel()) {
    if (s1) a.s1 = vector_of(s1, x, a.p.c, "cond_bn: s1");
    if (s2) a.s2 = vector_of(s2, x, a.p.c, "cond_bn: s2");
    a.p.s1 = ptr(a.s1);
    a.p.s2 = ptr(a.s2);
    a.p.dy = dy.data_ptr();
    a.p.out = dx.data_ptr();
    execute(a.p, a.x, kCondBnDx);
  }
  return dx;
}

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) {
  m.def("cond_bn_stats(Tensor x) -> (Tensor, Tensor)");
  m.def("cond_bn(Tensor x, Tensor? gain, Tensor? bias, Tensor mean, Tensor invstd, bool relu, bool up2) -> Tensor");
  m.def("cond_bn_reduce(Tensor dy, Tensor x, Tensor? gain, Tensor? bias, Tensor mean, Tensor invstd, bool relu, "
        "bool up2) -> (Tensor, Tensor)");
  m.def("cond_bn_dx(Tensor dy, Tensor x, Tensor? gain, Tensor? bias, Tensor mean, Tensor invstd, Tensor? s1, "
        "Tensor? s2, bool relu, bool up2) -> Tensor");
}

#define GT_IMPLEMENT(m)                        \
  m.impl("cond_bn_stats", gt::cond_bn_stats);  \
  m.impl("cond_bn", gt::cond_bn);              \
  m.impl("cond_bn_reduce", gt::cond_bn_reduce);\
  m.impl("cond_bn_dx", gt::cond_bn_dx_);

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) { GT_IMPLEMENT(m) }

#ifdef GT_WITH_CUDA
TORCH_LIBRARY_IMPL(gantransfer, CUDA, m) { GT_IMPLEMENT(m) }
#endif
