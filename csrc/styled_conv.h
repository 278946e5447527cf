// SPDX-License-Identifier: Apache-2.0
// A StyleGAN2 synthesis layer for inference on the CPU: float32, channels last, weights prepared once. The modulated 3x3
// convolution is minimal filtering (conv3x3.h), or direct for images too small for it. Styles are part of either; so are
// demodulation, noise, bias and activation where the size stays. Where it doubles, the convolution is transposed with
// stride 2, and the rest follows in blur_epilogue. Every output is summed in one order whatever else is in the batch.
#pragma once
#include "conv3x3.h"

namespace gt {

// How a layer's weights are prepared: kernels of minimal filtering (Panels), or the taps of each phase of the output,
// [phases][panels of outputs][taps][inputs][panel].
enum StyledConvForm : int64_t { kFiltered, kDirect, kFilteredUp, kDirectUp };

inline bool filtered(int64_t form) { return form == kFiltered || form == kFilteredUp; }

// So many numbers are a layer's prepared weights.
inline int64_t styled_conv_numbers(int64_t form, int64_t c, int64_t o) {
  using namespace winograd;
  return filtered(form) ? Panels::numbers(kKernels, o, c) : kTaps * c * o;
}

struct StyledConvParams {
  const float *x, *s, *weights;  // [n, h, w, c], [n, c], prepared
  float* y;                      // [n, h, w, o] or, doubling, [n, 2 h + 1, 2 w + 1, o]
  // What follows, where the size stays: d [n, o]; noise [n or 1, h, w] and b [o], or null.
  const float *d, *noise, *b;
  float strength, gain, slope, bound;  // strength has the gain in it
  int64_t noise_step;                  // h * w, or 0 for noise that all samples share
  int64_t n, c, h, w, o;
};

}  // namespace gt
