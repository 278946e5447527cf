// SPDX-License-Identifier: Apache-2.0
// What upfirdn2d and epilogue, alone or fused, make of their arguments: checks, layout, parameters.
#pragma once
#include "binding.h"
#include "epilogue.h"
#include "upfirdn2d.h"

namespace gt {

struct FirArguments {
  UpfirdnParams p{};  // y is not set: see result
  Tensor x, f;        // dense

  // Memory for y.
  Tensor result() const {
    const auto layout = p.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    return fresh(at::empty({p.n, p.c, p.ho, p.wo}, x.options(), layout));
  }
};

inline FirArguments fir_arguments(const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
                                  at::IntArrayRef pad, bool flip, double gain) {
  TORCH_CHECK(x.dim() == 4, "upfirdn2d: x [N, C, H, W] expected, got ", x.sizes());
  TORCH_CHECK(f.scalar_type() == at::kFloat && (f.dim() == 1 || f.dim() == 2) && f.numel() > 0,
              "upfirdn2d: f must be float32 [taps] or [fh, fw]");
  TORCH_CHECK(f.device() == x.device(), "upfirdn2d: the filter is on ", f.device(), ", x on ", x.device());
  TORCH_CHECK(up.size() == 2 && down.size() == 2 && pad.size() == 4 && up[0] > 0 && up[1] > 0 && down[0] > 0 &&
                  down[1] > 0, "upfirdn2d: up, down: two positive numbers each; pad: four numbers");
  const auto layout = layout_of(x);
  FirArguments a;
  a.x = in_layout(x, layout);
  a.f = f.contiguous();
  UpfirdnParams& p = a.p;
  p.separable = f.dim() == 1;
  p.fw = int(f.size(-1));
  p.fh = int(f.size(0));
  const int64_t w = x.size(3) * up[0] + pad[0] + pad[1] - p.fw, h = x.size(2) * up[1] + pad[2] + pad[3] - p.fh;
  TORCH_CHECK(w >= 0 && h >= 0, "upfirdn2d: the padded image is smaller than the filter");
  const int64_t wo = w / down[0] + 1, ho = h / down[1] + 1;
  constexpr int64_t limit = 1 << 30;
  TORCH_CHECK(std::max({x.size(2) * up[1], x.size(3) * up[0], ho * down[1], wo * down[0]}) < limit,
              "upfirdn2d: an image side is too long: ", x.sizes());
  p.x = ptr(a.x);
  p.f = a.f.const_data_ptr<float>();
  p.n = x.size(0);
  p.c = x.size(1);
  p.h = int(x.size(2));
  p.w = int(x.size(3));
  p.ho = int(ho);
  p.wo = int(wo);
  p.upx = int(up[0]);
  p.upy = int(up[1]);
  p.downx = int(down[0]);
  p.downy = int(down[1]);
  p.px = int(pad[0]);
  p.py = int(pad[2]);
  p.flip = flip;
  p.channels_last = layout == at::MemoryFormat::ChannelsLast;
  p.gain = gain;
  return a;
}

struct EpilogueArguments {
  EpilogueParams p{};  // x, dy, out and what the gradient writes are not set
  Tensor d, noise, strength, b;
};

// For an image [n, c, hw] of x's type, device and layout.
inline EpilogueArguments epilogue_arguments(const Tensor& x, int64_t n, int64_t c, int64_t hw, const OptTensor& d,
                                            double scale, const OptTensor& noise, const OptTensor& strength,
                                            const OptTensor& b, double slope, double gain, double clamp) {
  TORCH_CHECK(gain > 0 && slope >= 0, "epilogue: gain > 0 and slope >= 0 expected, got ", gain, " and ", slope);
  EpilogueArguments a;
  EpilogueParams& p = a.p;
  p.channels_last = layout_of(x) == at::MemoryFormat::ChannelsLast;
  p.n = n;
  p.c = c;
  p.hw = hw;
  if (d) a.d = vector_of(d, x, n * c, "epilogue: d");
  if (b) a.b = vector_of(b, x, c, "epilogue: b");
  TORCH_CHECK(noise.has_value() == strength.has_value(), "epilogue: noise and strength come together");
  if (noise) {
    p.noise_step = noise->numel() == hw && noise->dim() == 2 ? 0 : hw;
    a.noise = vector_of(noise, x, p.noise_step ? n * hw : hw, "epilogue: noise");
    a.strength = vector_of(strength, x, 1, "epilogue: strength");
  }
  p.d = ptr(a.d);
  p.b = ptr(a.b);
  p.noise = ptr(a.noise);
  p.strength = ptr(a.strength);
  p.scale = scale;
  p.slope = slope;
  p.gain = gain;
  p.clamp = clamp;
  return a;
}

}  // namespace gt
