// SPDX-License-Identifier: Apache-2.0
// Class-conditional batch norm: y = act(gain[n, c] * xh + bias[n, c]), xh = (x - mean[c]) * invstd[c], then optionally
// every pixel written twice in both directions. Statistics come in from outside, so that they can be combined over
// processes.
#pragma once
#include "portable.h"

namespace gt {

struct CondBnParams {
  const void* x;       // [n, c, h, w] or, channels last, [n, h, w, c]
  const void* dy;      // [n, c, up * h, up * w]; the gradient only
  void* out;           // y, or dx in x's shape
  const void *gain, *bias;    // [n, c] or null (1 and 0)   } accumulate type
  const void *mean, *invstd;  // [c]                        }
  const void *s1, *s2;        // [c]: means over all elements of gain * dy and gain * dy * xh; null = 0 (fixed statistics)
  void *a, *b;         // results [n, c]: sums of dy and of dy * xh (reduce), or [c]: mean and m2 (stats)
  void* partial;       // workspace, see cond_bn_partials
  int64_t n, c;
  int h, w, up;        // up: 1 or 2
  bool channels_last, relu;
};

enum CondBnJob : int { kCondBnStats, kCondBnApply, kCondBnReduce, kCondBnDx };

template <class A>
GT_HD A cond_bn_value(A x, A mean, A invstd, A gain, A bias, bool relu) {
  const A v = gain * ((x - mean) * invstd) + bias;
  return relu && v < A(0) ? A(0) : v;
}

// dy where the activation let it through, recomputed: neither mask nor pre-activation is stored.
template <class A>
GT_HD A cond_bn_passed(A xh, A dy, A gain, A bias, bool relu) {
  return relu && !(gain * xh + bias > A(0)) ? A(0) : dy;
}

template <class A>
GT_HD A cond_bn_dx(A xh, A passed, A gain, A invstd, A s1, A s2) {
  return invstd * (gain * passed - s1 - xh * s2);
}

// Count, mean and sum of squared differences of a union (Chan et al.).
template <class A>
GT_HD void chan(A& n, A& mean, A& m2, A n2, A mean2, A m22) {
  const A all = n + n2;
  if (all == A(0)) return;
  const A delta = mean2 - mean;
  mean += delta * (n2 / all);
  m2 += m22 + delta * delta * (n * n2 / all);
  n = all;
}

}  // namespace gt
