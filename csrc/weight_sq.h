// SPDX-License-Identifier: Apache-2.0
// Squared weights summed over the kernel: q[o, i] = sum_k w[o, i, k]^2, what demodulation needs of a weight.
#pragma once
#include "portable.h"

namespace gt {

struct WeightSqParams {
  const void* w;   // [o, i, k] or, channels last, [o, k, i]
  const void* dq;  // [o, i], the gradient only
  void* out;       // q [o, i]; the gradient: dw, as w
  int64_t o, i, k;
  bool channels_last;
};

// K: k where it is known when compiling, else 0.
template <class A, int K>
GT_HD A weight_sq_value(const WeightSqParams& p, int64_t o, int64_t i) {
  const int64_t taps = K ? K : p.k, step = p.channels_last ? p.i : 1;
  const A* w = static_cast<const A*>(p.w) + o * p.i * taps + (p.channels_last ? i : i * taps);
  A sum = A(0);
#ifdef GT_DEVICE_CODE
#pragma unroll
#endif
  for (int64_t k = 0; k < taps; k++) sum += w[k * step] * w[k * step];
  return sum;
}

// dw = 2 w dq, element e of memory.
template <class A>
GT_HD A weight_sq_slope(const WeightSqParams& p, int64_t e) {
  const int64_t at = p.channels_last ? e / (p.i * p.k) * p.i + e % p.i : e / p.k;
  return static_cast<const A*>(p.w)[e] * (A(2) * static_cast<const A*>(p.dq)[at]);
}

}  // namespace gt
