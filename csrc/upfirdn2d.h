// SPDX-License-Identifier: Apache-2.0
// Zero insertion, padding, FIR filter, decimation: y[i, j] = gain * sum_{a, b} k[a, b] Z[i * dy + a - py, j * dx + b - px]
// with Z the zero-inserted image and k the filter, mirrored unless `flip`.
#pragma once
#include "portable.h"

namespace gt {

struct UpfirdnParams {
  const void* x;   // [n, c, h, w], dense, NCHW or channels last
  const float* f;  // [fh, fw], or (separable) [fw] taken along both axes
  void* y;         // [n, c, ho, wo] in x's layout
  int64_t n, c;
  int h, w, ho, wo, fh, fw;
  int upx, upy, downx, downy, px, py;  // px, py: padding on the left and on top; negative = crop
  bool separable, flip, channels_last;
  double gain;
};

// Tap k of an axis as the correlation sees it.
GT_HD int upfirdn_tap(int k, int taps, bool flip) { return flip ? k : taps - 1 - k; }

GT_HD int64_t upfirdn_offset(const UpfirdnParams& p, int64_t n, int64_t c, int y, int x, int h, int w) {
  return p.channels_last ? ((n * h + y) * w + x) * p.c + c : ((n * p.c + c) * h + y) * int64_t(w) + x;
}

GT_HD int floor_div(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
GT_HD int ceil_div(int a, int b) { return -floor_div(-a, b); }

// One output pixel by the definition: any parameters.
template <class T>
GT_HD acc_t<T> upfirdn_pixel(const UpfirdnParams& p, int64_t n, int64_t c, int oy, int ox) {
  using A = acc_t<T>;
  const T* x = static_cast<const T*>(p.x);
  const int top = oy * p.downy - p.py, left = ox * p.downx - p.px;  // position of tap 0 in the zero-inserted image
  int y0 = ceil_div(top, p.upy), y1 = floor_div(top + p.fh - 1, p.upy);
  int x0 = ceil_div(left, p.upx), x1 = floor_div(left + p.fw - 1, p.upx);
  y0 = y0 < 0 ? 0 : y0;
  x0 = x0 < 0 ? 0 : x0;
  y1 = y1 >= p.h ? p.h - 1 : y1;
  x1 = x1 >= p.w ? p.w - 1 : x1;
  A sum = A(0);
  for (int iy = y0; iy <= y1; iy++) {
    const int a = upfirdn_tap(iy * p.upy - top, p.fh, p.flip);
    A row = A(0);
    for (int ix = x0; ix <= x1; ix++) {
      const int b = upfirdn_tap(ix * p.upx - left, p.fw, p.flip);
      row += A(p.separable ? p.f[b] : p.f[a * p.fw + b]) * to_acc(x[upfirdn_offset(p, n, c, iy, ix, p.h, p.w)]);
    }
    sum += p.separable ? A(p.f[a]) * row : row;
  }
  return sum * A(p.gain);
}

}  // namespace gt
