// SPDX-License-Identifier: Apache-2.0
// styled_conv: schema, checks, entries of the kernels.
#include "styled_conv.h"

#include "binding.h"

namespace gt {

void styled_conv_weights_cpu(const float* from, int64_t c, int64_t o, int64_t form, float* to);
void styled_conv_demodulation_cpu(const float* s, const float* q, float* d, int64_t n, int64_t c, int64_t o);
void styled_conv_cpu(const StyledConvParams& params, bool by_filters);
void styled_conv_up_cpu(const StyledConvParams& params, bool by_filters);

namespace {

using winograd::kGroup;
using winograd::kTile;

Tensor prepared(const Tensor& w_, int64_t form) {
  TORCH_CHECK(w_.dim() == 4 && w_.is_cpu() && w_.scalar_type() == at::kFloat && w_.size(2) == 3 && w_.size(3) == 3 &&
                  w_.size(0) % kGroup == 0 && w_.size(1) % kGroup == 0 && form >= kFiltered && form <= kDirectUp,
              "styled_conv: weights [O, C, 3, 3] in float32 on the CPU with channels in sixteens expected, got ",
              w_.sizes());
  const Tensor w = w_.contiguous();
  const int64_t o = w.size(0), c = w.size(1);
  Tensor to = at::zeros({styled_conv_numbers(form, c, o)}, w.options());  // between panels nothing is written
  styled_conv_weights_cpu(w.data_ptr<float>(), c, o, form, to.data_ptr<float>());
  return to;
}

const float* floats(const Tensor& t) { return t.numel() ? t.data_ptr<float>() : nullptr; }

Tensor vector_like(const Tensor& t, at::IntArrayRef sizes, const char* name) {
  TORCH_CHECK(t.sizes() == sizes && t.scalar_type() == at::kFloat && t.is_cpu(), "styled_conv: ", name, " ", sizes,
              " float32 expected, got ", t.sizes(), " ", t.scalar_type());
  return t.contiguous();
}

Tensor demodulation(const Tensor& s, const Tensor& q) {
  Tensor d = at::empty({s.size(0), q.size(1)}, at::kFloat);
  styled_conv_demodulation_cpu(floats(s), floats(q), d.data_ptr<float>(), s.size(0), q.size(0), q.size(1));
  return d;
}

// x in channels last and everything that both operators check.
Tensor checked(const Tensor& x, const Tensor& s, const Tensor& w, const Tensor& q, int64_t form) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat && x.is_cpu() && q.dim() == 2 && x.size(1) == q.size(0),
              "styled_conv: x [N, C, H, W] float32 expected, got ", x.sizes(), " ", x.scalar_type());
  TORCH_CHECK(q.size(0) % kGroup == 0 && q.size(1) % kGroup == 0, "styled_conv: channels in sixteens expected, got ",
              q.sizes());
  TORCH_CHECK(w.is_contiguous() && w.scalar_type() == at::kFloat &&
                  w.numel() == styled_conv_numbers(form, q.size(0), q.size(1)),
              "styled_conv: prepared weights expected, got ", w.sizes());
  TORCH_CHECK(s.sizes() == at::IntArrayRef({x.size(0), x.size(1)}) && s.scalar_type() == at::kFloat,
              "styled_conv: s [N, C] float32 expected, got ", s.sizes());
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

Tensor styled_conv(const Tensor& x_, const Tensor& s_, const Tensor& w, const Tensor& q_, const OptTensor& noise_,
                   const OptTensor& strength, const OptTensor& b_, double slope, double gain, double clamp,
                   bool by_filters) {
  const int64_t form = by_filters ? kFiltered : kDirect;
  const Tensor x = checked(x_, s_, w, q_, form), s = s_.contiguous(), q = q_.contiguous();
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), width = x.size(3), o = q.size(1);
  TORCH_CHECK(!by_filters || (h % kTile == 0 && width % kTile == 0), "styled_conv: sides in fours expected, got ",
              x.sizes());
  TORCH_CHECK(noise_.has_value() == strength.has_value(), "styled_conv: noise and strength come together");
  Tensor b, noise;
  if (b_) b = vector_like(*b_, {o}, "b");
  if (noise_) noise = noise_->dim() == 2 ? vector_like(*noise_, {h, width}, "noise")
                                         : vector_like(*noise_, {n, 1, h, width}, "noise");
  Tensor y = fresh(at::empty({n, o, h, width}, x.options(), at::MemoryFormat::ChannelsLast));
  if (y.numel() == 0) return y;
  const Tensor d = demodulation(s, q);
  StyledConvParams p{floats(x), floats(s), floats(w), y.data_ptr<float>(), floats(d)};
  p.noise = noise_ ? floats(noise) : nullptr;
  p.b = b_ ? floats(b) : nullptr;
  p.strength = strength ? strength->item<float>() * float(gain) : 0.f;
  p.gain = float(gain);
  p.slope = float(slope);
  p.bound = clamp_bound<float>(clamp);
  p.noise_step = noise_ && noise.dim() == 4 ? h * width : 0;
  p.n = n, p.c = c, p.h = h, p.w = width, p.o = o;
  styled_conv_cpu(p, by_filters);
  return y;
}

std::tuple<Tensor, Tensor> styled_conv_up(const Tensor& x_, const Tensor& s_, const Tensor& w, const Tensor& q_,
                                          bool by_filters) {
  const Tensor x = checked(x_, s_, w, q_, by_filters ? kFilteredUp : kDirectUp), s = s_.contiguous(),
               q = q_.contiguous();
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), width = x.size(3), o = q.size(1);
  TORCH_CHECK(!by_filters || (h % kTile == 0 && width % kTile == 0), "styled_conv: sides in fours expected, got ",
              x.sizes());
  Tensor y = fresh(at::empty({n, o, 2 * h + 1, 2 * width + 1}, x.options(), at::MemoryFormat::ChannelsLast));
  const Tensor d = demodulation(s, q);
  if (y.numel() == 0) return {y, d};
  StyledConvParams p{floats(x), floats(s), floats(w), y.data_ptr<float>()};
  p.n = n, p.c = c, p.h = h, p.w = width, p.o = o;
  styled_conv_up_cpu(p, by_filters);
  return {y, d};
}

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) {
  m.def("styled_conv_weights(Tensor w, int form) -> Tensor");
  m.def("styled_conv(Tensor x, Tensor s, Tensor w, Tensor q, Tensor? noise, Tensor? strength, Tensor? b, float slope, "
        "float gain, float clamp, bool filtered) -> Tensor");
  m.def("styled_conv_up(Tensor x, Tensor s, Tensor w, Tensor q, bool filtered) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) {
  m.impl("styled_conv_weights", gt::prepared);
  m.impl("styled_conv", gt::styled_conv);
  m.impl("styled_conv_up", gt::styled_conv_up);
}
