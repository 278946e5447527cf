// SPDX-License-Identifier: Apache-2.0
// bias_act: schema, checks, entries of the kernels.
#include "bias_act.h"

#include "binding.h"

namespace gt {

void bias_act_cpu(const BiasActParams& p, DType dtype);
#ifdef GT_WITH_CUDA
int bias_act_launch(const BiasActParams& p, DType dtype, void* stream);
int64_t bias_act_partials(const BiasActParams& p, DType dtype);
#endif

namespace {

// Fills the part of the parameters that depends on shapes and runs the device's kernel.
void execute(BiasActParams& p, const Tensor& like, int64_t dim, bool channels_last, Tensor& db) {
  if (like.numel() == 0) {
    if (db.defined()) db.zero_();
    return;
  }
  p.outer = p.channels = p.inner = 1;
  if (p.b || db.defined()) {
    // Sizes in the order of memory.
    std::vector<int64_t> order;
    for (int64_t i = 0; i < like.dim(); i++) order.push_back(i);
    if (channels_last) order = {0, 2, 3, 1};
    bool past = false;
    for (int64_t i : order) {
      if (i == dim) {
        p.channels = like.size(i);
        past = true;
      } else {
        (past ? p.inner : p.outer) *= like.size(i);
      }
    }
  } else {
    p.inner = like.numel();
  }
  p.db = db.defined() ? db.data_ptr() : nullptr;
  const DType dtype = dtype_of(like);
#ifdef GT_WITH_CUDA
  if (on_cuda(like)) {
    c10::DeviceGuard guard(like.device());
    const int64_t n = p.db ? bias_act_partials(p, dtype) : 0;
    Tensor partial = n ? at::empty({n}, like.options().dtype(acc_type(like))) : Tensor();
    p.partial = ptr(partial);
    return check_launch(bias_act_launch(p, dtype, current_stream(like)), "bias_act");
  }
#endif
  if constexpr (!kEmulated) bias_act_cpu(p, dtype);
}

BiasActParams params(int64_t act, double alpha, double gain, double clamp) {
  TORCH_CHECK(act >= kLinear && act <= kSwish, "bias_act: no activation ", act);
  BiasActParams p{};
  p.act = int(act);
  p.alpha = alpha;
  p.gain = gain;
  p.clamp = clamp;
  p.from_x = act_needs_x(p.act, alpha);
  return p;
}

Tensor bias_of(const OptTensor& b, const Tensor& x, int64_t dim) {
  if (!b) return Tensor();
  TORCH_CHECK(dim >= 0 && dim < x.dim(), "bias_act: no dimension ", dim, " in ", x.sizes());
  return vector_of(b, x, x.size(dim), "bias_act: b");
}

Tensor bias_act(const Tensor& x_, const OptTensor& b_, int64_t dim, int64_t act, double alpha, double gain,
                double clamp) {
  BiasActParams p = params(act, alpha, gain, clamp);
  const auto layout = layout_of(x_);
  const Tensor x = in_layout(x_, layout), b = bias_of(b_, x, dim);
  Tensor y = fresh(at::empty_like(x)), none;
  p.x = ptr(x);
  p.b = ptr(b);
  p.out = ptr(y);
  execute(p, y, dim, layout == at::MemoryFormat::ChannelsLast, none);
  return y;
}

// Orders 1 and 2. saved: y, or x for the activations of act_needs_x; absent for linear without clamp.
std::tuple<Tensor, Tensor> derivative(const Tensor& dy_, const OptTensor& v_, const OptTensor& saved_,
                                      const OptTensor& b_, int64_t dim, int64_t act, double alpha, double gain,
                                      double clamp, bool want_db) {
  BiasActParams p = params(act, alpha, gain, clamp);
  TORCH_CHECK(saved_ || (p.act == kLinear && clamp < 0), "bias_act_grad: the saved tensor is missing");
  const auto layout = layout_of(saved_ ? *saved_ : dy_);
  const Tensor dy = in_layout(dy_, layout);
  if (saved_)
    TORCH_CHECK(saved_->sizes() == dy.sizes() && saved_->dtype() == dy.dtype() && saved_->device() == dy.device(),
                "bias_act_grad: dy ", dy.sizes(), " ", dy.dtype(), " does not fit the saved ", saved_->sizes(), " ",
                saved_->dtype());
  const Tensor saved = saved_ ? in_layout(*saved_, layout) : Tensor();
  const Tensor v = v_ ? in_layout(*v_, layout) : Tensor();
  const Tensor b = p.from_x ? bias_of(b_, dy, dim) : Tensor();
  if (v.defined()) TORCH_CHECK(v.sizes() == dy.sizes() && v.dtype() == dy.dtype(), "bias_act_grad2: v does not fit dy");
  TORCH_CHECK(!want_db || (dim >= 0 && dim < dy.dim()), "bias_act_grad: no dimension ", dim, " in ", dy.sizes());
  Tensor out = fresh(at::empty_like(dy));
  Tensor db = at::empty({want_db ? dy.size(dim) : 0}, dy.options().dtype(acc_type(dy)));
  Tensor db_out = want_db ? db : Tensor();
  p.order = v.defined() ? 2 : 1;
  p.x = ptr(saved);
  p.b = ptr(b);
  p.dy = ptr(dy);
  p.v = ptr(v);
  p.out = ptr(out);
  execute(p, dy, dim, layout == at::MemoryFormat::ChannelsLast, db_out);
  return {out, db};
}

std::tuple<Tensor, Tensor> bias_act_grad(const Tensor& dy, const OptTensor& saved, const OptTensor& b, int64_t dim,
                                         int64_t act, double alpha, double gain, double clamp, bool want_db) {
  return derivative(dy, {}, saved, b, dim, act, alpha, gain, clamp, want_db);
}

std::tuple<Tensor, Tensor> bias_act_grad2(const Tensor& dy, const Tensor& v, const Tensor& saved, const OptTensor& b,
                                          int64_t dim, int64_t act, double alpha, double gain, double clamp,
                                          bool want_db) {
  return derivative(dy, v, saved, b, dim, act, alpha, gain, clamp, want_db);
}

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) {
  m.def("bias_act(Tensor x, Tensor? b, int dim, int act, float alpha, float gain, float clamp) -> Tensor");
  m.def("bias_act_grad(Tensor dy, Tensor? saved, Tensor? b, int dim, int act, float alpha, float gain, float clamp, "
        "bool want_db) -> (Tensor, Tensor)");
  m.def("bias_act_grad2(Tensor dy, Tensor v, Tensor saved, Tensor? b, int dim, int act, float alpha, float gain, "
        "float clamp, bool want_db) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) {
  m.impl("bias_act", gt::bias_act);
  m.impl("bias_act_grad", gt::bias_act_grad);
  m.impl("bias_act_grad2", gt::bias_act_grad2);
}

#ifdef GT_WITH_CUDA
TORCH_LIBRARY_IMPL(gantransfer, CUDA, m) {
  m.impl("bias_act", gt::bias_act);
  m.impl("bias_act_grad", gt::bias_act_grad);
  m.impl("bias_act_grad2", gt::bias_act_grad2);
}
#endif
