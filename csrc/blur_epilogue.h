// SPDX-License-Identifier: Apache-2.0
// The 4-tap blur after a transposed convolution and the epilogue of its layer, in one pass:
// y = clamp(gain * a(d * blur(x) + strength * noise + b)).
#pragma once
#include "epilogue.h"
#include "upfirdn2d.h"

namespace gt {

struct BlurEpilogueParams {
  UpfirdnParams fir;       // up = down = 1; x and y, sizes, layout, filter, padding, gain of the filter
  EpilogueParams after;    // over y's pixels: n, c, hw = ho * wo, vectors and constants; out = fir.y, x unused
};

// One output pixel by the definition.
template <class T>
GT_HD acc_t<T> blur_epilogue_pixel(const BlurEpilogueParams& p, int64_t n, int64_t c, int oy, int ox) {
  using A = acc_t<T>;
  const EpilogueParams& e = p.after;
  const int64_t i = int64_t(oy) * p.fir.wo + ox;
  const A d = (e.d ? static_cast<const A*>(e.d)[n * e.c + c] : A(1)) * A(e.scale);
  const A z = e.noise ? static_cast<const A*>(e.noise)[n * e.noise_step + i] * *static_cast<const A*>(e.strength) : A(0);
  const A b = e.b ? static_cast<const A*>(e.b)[c] : A(0);
  const A bound = clamp_bound<T>(e.clamp);
  return epilogue_value(upfirdn_pixel<T>(p.fir, n, c, oy, ox) * d + (z + b), A(e.slope), A(e.gain), bound);
}

}  // namespace gt
