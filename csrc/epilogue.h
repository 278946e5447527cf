// SPDX-License-Identifier: Apache-2.0
// What follows a convolution: y = clamp(gain * a(d * x + strength * noise + b)) with a(u) = u for u > 0, slope * u else.
#pragma once
#include "portable.h"

namespace gt {

struct EpilogueParams {
  const void* x;         // [n, c, hw] or, channels last, [n, hw, c]; the gradient has y here
  const void* dy;        // the gradient only
  void* out;             // y or dx
  const void* d;         // [n, c], null = 1       } accumulate type
  const void* noise;     // [n or 1, hw], or null  }
  const void* strength;  // one value, on x's device }
  const void* b;         // [c], or null           }
  int64_t n, c, hw;
  int64_t noise_step;    // hw, or 0 for noise that all samples share
  bool channels_last;
  double scale;          // further factor of x
  double slope, gain, clamp;  // clamp < 0: none
  // The gradient's results, null where not asked for; and its workspace, see epilogue_partials.
  void *dd, *dstrength, *db;
  void* partial;
};

template <class A>
GT_HD A epilogue_value(A u, A slope, A gain, A bound) {
  A y = (u > A(0) ? u : u * slope) * gain;
  y = y > bound ? bound : y;
  return y < -bound ? -bound : y;
}

// Gradient with respect to u, without the gain; `passed` is dy where the clamp let it through.
template <class A>
GT_HD A epilogue_slope(A y, A dy, A slope, A bound, A& passed) {
  passed = abs_(y) < bound ? dy : A(0);
  return y > A(0) ? passed : passed * slope;
}

// d's gradient from the sums over one sample and channel: sum g, sum g * noise, sum dy * y. Uses gain * slope * u = y,
// so the pre-activation is never stored.
template <class A>
GT_HD A epilogue_dd(A g, A g_noise, A dy_y, A d, A strength, A b, A gain) {
  return (dy_y - gain * (strength * g_noise + b * g)) / d;
}

}  // namespace gt
