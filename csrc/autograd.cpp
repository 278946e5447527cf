// SPDX-License-Identifier: Apache-2.0
// Gradients of the operators, in C++ because small networks are bound by host time: one call of a tiny operator with a
// gradient formula in Python costs 100 us forward and backward, several times what its kernel does.
//
// Every formula consists of operators that are differentiable themselves, so the second order needs nothing else.
// Tensors that carry gradient travel through save_for_backward only.
#include <ATen/TensorOperators.h>
#include <ATen/ops/leaky_relu_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include "bias_act.h"
#include "binding.h"

namespace gt::derivatives {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

bool wants(const Tensor& t) { return t.defined() && t.requires_grad(); }
bool wants(const OptTensor& t) { return t.has_value() && wants(*t); }
Tensor given(const OptTensor& t) { return t.value_or(Tensor()); }
OptTensor optional(const Tensor& t) { return t.defined() ? OptTensor(t) : OptTensor(); }

// A gradient as its tensor wants it.
Tensor fit(const Tensor& g, const Tensor& like, bool wanted) {
  return wanted ? g.to(like.scalar_type()).reshape_symint(like.sym_sizes()) : Tensor();
}

// ---- bias_act: for the piecewise-linear activations the gradient operator is its own derivative; the smooth ones have
// a second.

struct Conf {  // of bias_act, as one value in the context
  int64_t dim, act;
  double alpha, gain, clamp;
  void save(AutogradContext* ctx) const {
    ctx->saved_data["dim"] = dim;
    ctx->saved_data["act"] = act;
    ctx->saved_data["alpha"] = alpha;
    ctx->saved_data["gain"] = gain;
    ctx->saved_data["clamp"] = clamp;
  }
  static Conf load(AutogradContext* ctx) {
    auto& d = ctx->saved_data;
    return {d["dim"].toInt(), d["act"].toInt(), d["alpha"].toDouble(), d["gain"].toDouble(), d["clamp"].toDouble()};
  }
};

Tensor call_bias_act(const Tensor& x, const OptTensor& b, const Conf& c) {
  static const auto f = op<Tensor(const Tensor&, const OptTensor&, int64_t, int64_t, double, double, double)>(
      "gantransfer::bias_act");
  return f.call(x, b, c.dim, c.act, c.alpha, c.gain, c.clamp);
}

std::tuple<Tensor, Tensor> call_bias_act_grad(const Tensor& dy, const OptTensor& saved, const OptTensor& b,
                                              const Conf& c, bool want_db) {
  static const auto f = op<std::tuple<Tensor, Tensor>(const Tensor&, const OptTensor&, const OptTensor&, int64_t,
                                                      int64_t, double, double, double, bool)>(
      "gantransfer::bias_act_grad");
  return f.call(dy, saved, b, c.dim, c.act, c.alpha, c.gain, c.clamp, want_db);
}

std::tuple<Tensor, Tensor> call_bias_act_grad2(const Tensor& dy, const Tensor& v, const Tensor& saved,
                                               const OptTensor& b, const Conf& c, bool want_db) {
  static const auto f = op<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const OptTensor&,
                                                      int64_t, int64_t, double, double, double, bool)>(
      "gantransfer::bias_act_grad2");
  return f.call(dy, v, saved, b, c.dim, c.act, c.alpha, c.gain, c.clamp, want_db);
}

struct BiasAct : Function<BiasAct> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptTensor& b, int64_t dim, int64_t act,
                        double alpha, double gain, double clamp) {
    const Conf conf{dim, act, alpha, gain, clamp};
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor y = call_bias_act(x, b, conf);
    conf.save(ctx);
    ctx->saved_data["want_b"] = wants(b);
    if (act_needs_x(int(act), alpha))
      ctx->save_for_backward({x, given(b)});
    else if (act == kLinear && clamp < 0)
      ctx->save_for_backward({Tensor(), given(b)});
    else
      ctx->save_for_backward({y, given(b)});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const bool want_b = ctx->saved_data["want_b"].toBool();
    const Conf conf = Conf::load(ctx);
    const Tensor& b = saved[1];
    const bool from_x = act_needs_x(int(conf.act), conf.alpha);
    auto [dx, db] = call_bias_act_grad(grads[0], optional(saved[0]), from_x ? optional(b) : OptTensor(), conf, want_b);
    return {dx, fit(db, b, want_b), {}, {}, {}, {}, {}};
  }
};

struct BiasActGrad : Function<BiasActGrad> {
  static variable_list forward(AutogradContext* ctx, const Tensor& dy, const OptTensor& saved, const OptTensor& b,
                               int64_t dim, int64_t act, double alpha, double gain, double clamp, bool want_db) {
    const Conf conf{dim, act, alpha, gain, clamp};
    at::AutoDispatchBelowADInplaceOrView below;
    auto [dx, db] = call_bias_act_grad(dy, saved, b, conf, want_db);
    conf.save(ctx);
    ctx->saved_data["want_db"] = want_db;
    ctx->saved_data["wants"] = wants(dy) | wants(saved) << 1 | wants(b) << 2;
    ctx->save_for_backward({dy, given(saved), given(b)});
    ctx->set_materialize_grads(false);
    return {dx, db};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &dy = saved[0], &y = saved[1], &b = saved[2];
    const Conf conf = Conf::load(ctx);
    const int64_t want = ctx->saved_data["wants"].toInt();
    Tensor v = grads[0];
    if (ctx->saved_data["want_db"].toBool() && grads[1].defined()) {
      std::vector<int64_t> shape(dy.dim(), 1);
      shape[conf.dim] = -1;
      const Tensor vb = grads[1].to(dy.scalar_type()).reshape(shape).expand_as(dy);
      v = v.defined() ? v + vb : vb;
    }
    variable_list out(9);
    if (!v.defined()) return out;
    if (want & 1) out[0] = std::get<0>(call_bias_act_grad(v, optional(y), optional(b), conf, false));
    const bool need_b = want & 4, smooth = conf.act != kLinear && conf.act != kRelu && conf.act != kLrelu;
    if (smooth && (want & 2 || need_b)) {
      auto [d_saved, d_b] = call_bias_act_grad2(dy, v, y, optional(b), conf, need_b);
      out[1] = d_saved;
      if (need_b) out[2] = d_b.to(b.scalar_type());
    }
    return out;
  }
};

struct BiasActGrad2 : Function<BiasActGrad2> {
  static variable_list forward(AutogradContext* ctx, const Tensor& dy, const Tensor& v, const Tensor& saved,
                               const OptTensor& b, int64_t dim, int64_t act, double alpha, double gain, double clamp,
                               bool want_db) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [a, db] = call_bias_act_grad2(dy, v, saved, b, {dim, act, alpha, gain, clamp}, want_db);
    return {a, db};
  }
  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "bias_act can be differentiated twice, not three times, for activations that ",
                                "are not piecewise linear; use impl='ref' for higher orders");
  }
};

// ---- upfirdn2d: its gradient is itself, up and down swapped, the filter mirrored.

Tensor call_upfirdn2d(const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef pad,
                      bool flip, double gain) {
  static const auto g = op<Tensor(const Tensor&, const Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, bool,
                                  double)>("gantransfer::upfirdn2d");
  return g.call(x, f, up, down, pad, flip, gain);
}

// Keeps the arguments of the gradient of upfirdn2d(x, f, ...) = y.
void save_adjoint(AutogradContext* ctx, const Tensor& x, const Tensor& f, const Tensor& y, at::IntArrayRef up,
                  at::IntArrayRef down, at::IntArrayRef pad, bool flip, double gain) {
  auto size = [](const Tensor& t, int i) { return t.sym_size(i).guard_int(__FILE__, __LINE__); };
  const int64_t fw = size(f, f.dim() - 1), fh = size(f, 0);
  auto& d = ctx->saved_data;
  d["up"] = down;
  d["down"] = up;
  d["pad"] = std::vector<int64_t>{fw - 1 - pad[0], size(x, 3) * up[0] - size(y, 3) * down[0] + pad[0] - up[0] + 1,
                                  fh - 1 - pad[2], size(x, 2) * up[1] - size(y, 2) * down[1] + pad[2] - up[1] + 1};
  d["flip"] = !flip;
  d["fir_gain"] = gain;
  if (size(x, 2) == 0 || size(x, 3) == 0) d["empty"] = std::vector<int64_t>{size(x, 0), size(x, 1), size(x, 2), size(x, 3)};
}

Tensor adjoint(AutogradContext* ctx, const Tensor& dy, const Tensor& f) {
  auto& d = ctx->saved_data;
  if (d.count("empty")) return dy.new_zeros(d["empty"].toIntVector());
  return call_upfirdn2d(dy, f, d["up"].toIntVector(), d["down"].toIntVector(), d["pad"].toIntVector(),
                        d["flip"].toBool(), d["fir_gain"].toDouble());
}

struct Upfirdn2d : Function<Upfirdn2d> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& f, at::IntArrayRef up,
                        at::IntArrayRef down, at::IntArrayRef pad, bool flip, double gain) {
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor y = call_upfirdn2d(x, f, up, down, pad, flip, gain);
    save_adjoint(ctx, x, f, y, up, down, pad, flip, gain);
    ctx->save_for_backward({f});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {adjoint(ctx, grads[0], ctx->get_saved_variables()[0]), {}, {}, {}, {}, {}, {}};
  }
};

// ---- epilogue: keeps its output only. A gradient that must be differentiable itself, and one for the noise, are
// composed of torch's operators.

Tensor call_epilogue(const Tensor& x, const OptTensor& d, double scale, const OptTensor& noise,
                     const OptTensor& strength, const OptTensor& b, double slope, double gain, double clamp) {
  static const auto f = op<Tensor(const Tensor&, const OptTensor&, double, const OptTensor&, const OptTensor&,
                                  const OptTensor&, double, double, double)>("gantransfer::epilogue");
  return f.call(x, d, scale, noise, strength, b, slope, gain, clamp);
}

using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Four call_epilogue_grad(const Tensor& dy, const Tensor& y, const OptTensor& d, double scale, const OptTensor& noise,
                        const OptTensor& strength, const OptTensor& b, double slope, double gain, double clamp) {
  static const auto f = op<Four(const Tensor&, const Tensor&, const OptTensor&, double, const OptTensor&,
                                const OptTensor&, const OptTensor&, double, double, double)>(
      "gantransfer::epilogue_grad");
  return f.call(dy, y, d, scale, noise, strength, b, slope, gain, clamp);
}

// The gradient of an epilogue, also of one that follows a blur: x is its own input, the blurred image.
struct EpilogueGradient {
  Tensor x, d, noise, strength, b;

  // The context keeps the numbers, and whose gradient is asked for; tensors are the caller's to save.
  static void save(AutogradContext* ctx, const Tensor& x, const OptTensor& d, double scale, const OptTensor& noise,
                   const OptTensor& strength, const OptTensor& b, double slope, double gain, double clamp) {
    auto& s = ctx->saved_data;
    s["scale"] = scale;
    s["slope"] = slope;
    s["gain"] = gain;
    s["clamp"] = clamp;
    s["wants"] = wants(x) | wants(d) << 1 | wants(noise) << 2 | wants(strength) << 3 | wants(b) << 4;
  }

  EpilogueGradient(AutogradContext* ctx, const Tensor& dy, const Tensor& y, const Tensor& d_, const Tensor& noise_,
                   const Tensor& strength_, const Tensor& b_) {
    auto& s = ctx->saved_data;
    const double scale = s["scale"].toDouble(), slope = s["slope"].toDouble(), gain = s["gain"].toDouble(),
                 clamp = s["clamp"].toDouble();
    const int64_t want = s["wants"].toInt();
    if (at::GradMode::is_enabled() || want & 4)
      composed(dy, y, d_, noise_, strength_, b_, scale, slope, gain, clamp, want);
    else
      std::tie(x, d, strength, b) = call_epilogue_grad(dy, y, optional(d_), scale, optional(noise_),
                                                       optional(strength_), optional(b_), slope, gain, clamp);
    d = fit(d, d_, want & 2);
    noise = fit(noise, noise_, want & 4);
    strength = fit(strength, strength_, want & 8);
    b = fit(b, b_, want & 16);
  }

 private:
  void composed(const Tensor& dy, const Tensor& y, const Tensor& d_, const Tensor& noise_, const Tensor& strength_,
                const Tensor& b_, double scale, double slope, double gain, double clamp, int64_t want) {
    const auto wide = acc_type(dy);
    const Tensor fixed = y.detach();
    Tensor passed = clamp < 0 ? dy : dy * (fixed.abs() < clamp);
    Tensor g = slope == 1 ? passed : at::leaky_relu_backward(passed, fixed, slope, /*self_is_result=*/true);
    Tensor sums, noise_sums;
    if (want & 16 || (want & 2 && b_.defined())) sums = g.sum({2, 3}, false, wide) * gain;  // [N, C]
    if (want & 16) b = sums.sum(0);
    if (noise_.defined() && want & (2 | 8)) {
      noise_sums = (g.to(wide) * noise_.to(wide)).sum({2, 3}) * gain;
      if (want & 8) strength = noise_sums.sum();
    }
    if (want & 2) {
      // With u = d x + rest: sum g u = sum dy y (masked), whatever the slope; divide what x contributed by d.
      d = (passed.to(wide) * y).sum({2, 3});
      if (noise_.defined()) d = d - strength_ * noise_sums;
      if (b_.defined()) d = d - b_ * sums;
      d = d / d_;
    }
    if (want & 4) {
      noise = g.sum({1}, true, wide) * (strength_ * gain);
      if (noise_.dim() != 4) noise = noise.sum({0, 1});
    }
    if (want & 1) {
      const double factor = gain * scale;
      x = d_.defined() ? g * (d_ * factor).to(g.scalar_type()).unsqueeze(-1).unsqueeze(-1) : g * factor;
    }
  }
};

struct Epilogue : Function<Epilogue> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptTensor& d, double scale,
                        const OptTensor& noise, const OptTensor& strength, const OptTensor& b, double slope,
                        double gain, double clamp) {
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor y = call_epilogue(x, d, scale, noise, strength, b, slope, gain, clamp);
    EpilogueGradient::save(ctx, x, d, scale, noise, strength, b, slope, gain, clamp);
    ctx->save_for_backward({y, given(d), given(noise), given(strength), given(b)});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto s = ctx->get_saved_variables();
    const EpilogueGradient g(ctx, grads[0], s[0], s[1], s[2], s[3], s[4]);
    return {g.x, g.d, {}, g.noise, g.strength, g.b, {}, {}, {}};
  }
};

// ---- blur_epilogue: the gradient of the epilogue, then that of the blur. The blurred image is never kept.

Tensor call_blur_epilogue(const Tensor& x, const Tensor& f, at::IntArrayRef pad, bool flip, double fir_gain,
                          const OptTensor& d, double scale, const OptTensor& noise, const OptTensor& strength,
                          const OptTensor& b, double slope, double gain, double clamp) {
  static const auto g = op<Tensor(const Tensor&, const Tensor&, at::IntArrayRef, bool, double, const OptTensor&, double,
                                  const OptTensor&, const OptTensor&, const OptTensor&, double, double, double)>(
      "gantransfer::blur_epilogue");
  return g.call(x, f, pad, flip, fir_gain, d, scale, noise, strength, b, slope, gain, clamp);
}

struct BlurEpilogue : Function<BlurEpilogue> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& f, at::IntArrayRef pad, bool flip,
                        double fir_gain, const OptTensor& d, double scale, const OptTensor& noise,
                        const OptTensor& strength, const OptTensor& b, double slope, double gain, double clamp) {
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor y = call_blur_epilogue(x, f, pad, flip, fir_gain, d, scale, noise, strength, b, slope, gain, clamp);
    save_adjoint(ctx, x, f, y, {1, 1}, {1, 1}, pad, flip, fir_gain);
    EpilogueGradient::save(ctx, x, d, scale, noise, strength, b, slope, gain, clamp);
    ctx->save_for_backward({y, given(d), given(noise), given(strength), given(b), f});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto s = ctx->get_saved_variables();
    const EpilogueGradient g(ctx, grads[0], s[0], s[1], s[2], s[3], s[4]);
    const bool want_x = ctx->saved_data["wants"].toInt() & 1;
    return {want_x ? adjoint(ctx, g.x, s[5]) : Tensor(), {}, {}, {}, {}, g.d, {}, g.noise, g.strength, g.b, {}, {}, {}};
  }
};

// ---- weight_sq and its gradient 2 w dq, which is linear in either.

Tensor call_weight_sq(const Tensor& w) {
  static const auto f = op<Tensor(const Tensor&)>("gantransfer::weight_sq");
  return f.call(w);
}

Tensor call_weight_sq_grad(const Tensor& dq, const Tensor& w) {
  static const auto f = op<Tensor(const Tensor&, const Tensor&)>("gantransfer::weight_sq_grad");
  return f.call(dq, w);
}

struct WeightSq : Function<WeightSq> {
  static Tensor forward(AutogradContext* ctx, const Tensor& w) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({w});
    return call_weight_sq(w);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {call_weight_sq_grad(grads[0], ctx->get_saved_variables()[0])};
  }
};

struct WeightSqGrad : Function<WeightSqGrad> {
  static Tensor forward(AutogradContext* ctx, const Tensor& dq, const Tensor& w) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->saved_data["wants"] = wants(dq) | wants(w) << 1;
    ctx->save_for_backward({dq, w});
    return call_weight_sq_grad(dq, w);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const int64_t want = ctx->saved_data["wants"].toInt();
    return {want & 1 ? (grads[0] * saved[1]).sum({2, 3}) * 2 : Tensor(),
            want & 2 ? call_weight_sq_grad(saved[0], grads[0]) : Tensor()};
  }
};

// ---- conv3x3, its gradient for x and that for w: linear in either argument, and each the gradient of the others.

enum Conv { kForward, kInputGrad, kWeightGrad };

Tensor call_conv(Conv which, const Tensor& a, const Tensor& b, int64_t stride) {
  using Signature = Tensor(const Tensor&, const Tensor&, int64_t);
  static const auto f = op<Signature>("gantransfer::conv3x3");
  static const auto g = op<Signature>("gantransfer::conv3x3_input_grad");
  static const auto h = op<Signature>("gantransfer::conv3x3_weight_grad");
  return (which == kForward ? f : which == kInputGrad ? g : h).call(a, b, stride);
}

template <Conv Which>
struct Conv3x3 : Function<Conv3x3<Which>> {
  static Tensor forward(AutogradContext* ctx, const Tensor& a, const Tensor& b, int64_t stride) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->saved_data["wants"] = wants(a) | wants(b) << 1;
    ctx->saved_data["stride"] = stride;
    ctx->save_for_backward({a, b});
    return call_conv(Which, a, b, stride);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &a = saved[0], &b = saved[1], &v = grads[0];
    const int64_t want = ctx->saved_data["wants"].toInt(), stride = ctx->saved_data["stride"].toInt();
    Tensor da, db;
    if constexpr (Which == kForward) {  // x, w
      if (want & 1) da = call_conv(kInputGrad, v, b, stride);
      if (want & 2) db = call_conv(kWeightGrad, v, a, stride);
    } else if constexpr (Which == kInputGrad) {  // dy, w
      if (want & 1) da = call_conv(kForward, v, b, stride);
      if (want & 2) db = call_conv(kWeightGrad, a, v, stride);
    } else {  // dy, x
      if (want & 1) da = call_conv(kForward, b, v, stride);
      if (want & 2) db = call_conv(kInputGrad, a, v, stride);
    }
    return {da, db, {}};
  }
};

// Without gradient mode (and in every first-order backward) no graph node is made.
bool plain() { return !at::GradMode::is_enabled(); }

Tensor bias_act(const Tensor& x, const OptTensor& b, int64_t dim, int64_t act, double alpha, double gain,
                double clamp) {
  if (!plain()) return BiasAct::apply(x, b, dim, act, alpha, gain, clamp);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_bias_act(x, b, {dim, act, alpha, gain, clamp});
}

std::tuple<Tensor, Tensor> bias_act_grad(const Tensor& dy, const OptTensor& saved, const OptTensor& b, int64_t dim,
                                         int64_t act, double alpha, double gain, double clamp, bool want_db) {
  if (plain()) {
    at::AutoDispatchBelowADInplaceOrView below;
    return call_bias_act_grad(dy, saved, b, {dim, act, alpha, gain, clamp}, want_db);
  }
  auto r = BiasActGrad::apply(dy, saved, b, dim, act, alpha, gain, clamp, want_db);
  return {r[0], r[1]};
}

std::tuple<Tensor, Tensor> bias_act_grad2(const Tensor& dy, const Tensor& v, const Tensor& saved, const OptTensor& b,
                                          int64_t dim, int64_t act, double alpha, double gain, double clamp,
                                          bool want_db) {
  auto r = BiasActGrad2::apply(dy, v, saved, b, dim, act, alpha, gain, clamp, want_db);
  return {r[0], r[1]};
}

Tensor upfirdn2d(const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef pad,
                 bool flip, double gain) {
  if (!plain()) return Upfirdn2d::apply(x, f, up, down, pad, flip, gain);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_upfirdn2d(x, f, up, down, pad, flip, gain);
}

Tensor epilogue(const Tensor& x, const OptTensor& d, double scale, const OptTensor& noise, const OptTensor& strength,
                const OptTensor& b, double slope, double gain, double clamp) {
  if (!plain()) return Epilogue::apply(x, d, scale, noise, strength, b, slope, gain, clamp);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_epilogue(x, d, scale, noise, strength, b, slope, gain, clamp);
}

Tensor blur_epilogue(const Tensor& x, const Tensor& f, at::IntArrayRef pad, bool flip, double fir_gain,
                     const OptTensor& d, double scale, const OptTensor& noise, const OptTensor& strength,
                     const OptTensor& b, double slope, double gain, double clamp) {
  if (!plain())
    return BlurEpilogue::apply(x, f, pad, flip, fir_gain, d, scale, noise, strength, b, slope, gain, clamp);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_blur_epilogue(x, f, pad, flip, fir_gain, d, scale, noise, strength, b, slope, gain, clamp);
}

Tensor weight_sq(const Tensor& w) {
  if (!plain()) return WeightSq::apply(w);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_weight_sq(w);
}

Tensor weight_sq_grad(const Tensor& dq, const Tensor& w) {
  if (!plain()) return WeightSqGrad::apply(dq, w);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_weight_sq_grad(dq, w);
}

template <Conv Which>
Tensor conv3x3(const Tensor& a, const Tensor& b, int64_t stride) {
  if (!plain()) return Conv3x3<Which>::apply(a, b, stride);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_conv(Which, a, b, stride);
}

}  // namespace
}  // namespace gt::derivatives

TORCH_LIBRARY_IMPL(gantransfer, Autograd, m) {
  m.impl("bias_act", gt::derivatives::bias_act);
  m.impl("bias_act_grad", gt::derivatives::bias_act_grad);
  m.impl("bias_act_grad2", gt::derivatives::bias_act_grad2);
  m.impl("upfirdn2d", gt::derivatives::upfirdn2d);
  m.impl("epilogue", gt::derivatives::epilogue);
  m.impl("blur_epilogue", gt::derivatives::blur_epilogue);
  m.impl("weight_sq", gt::derivatives::weight_sq);
  m.impl("weight_sq_grad", gt::derivatives::weight_sq_grad);
  m.impl("conv3x3", gt::derivatives::conv3x3<gt::derivatives::kForward>);
  m.impl("conv3x3_input_grad", gt::derivatives::conv3x3<gt::derivatives::kInputGrad>);
  m.impl("conv3x3_weight_grad", gt::derivatives::conv3x3<gt::derivatives::kWeightGrad>);
}
