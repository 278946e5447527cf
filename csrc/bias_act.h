// SPDX-License-Identifier: Apache-2.0
// y = clamp(gain * a(x + b)): value, first and second derivative of one element.
#pragma once
#include "portable.h"

namespace gt {

enum Act : int { kLinear = 1, kRelu, kLrelu, kTanh, kSigmoid, kElu, kSelu, kSoftplus, kSwish };

struct BiasActParams {
  // A dense tensor seen from the bias's dimension: [outer, channels, inner].
  int64_t outer, channels, inner;
  const void* x;      // order 0: input. Orders 1, 2: saved tensor, y or (from_x) x; null when neither is needed
  const void* b;      // [channels] in the accumulate type, or null
  const void* dy;     // orders 1, 2
  const void* v;      // order 2: the tensor that multiplies dy
  void* out;          // y, dx or the gradient with respect to the saved tensor
  void* db;           // [channels] in the accumulate type, or null
  void* partial;      // workspace of db, see bias_act_partials
  int act, order;     // order 0, 1, 2
  bool from_x;
  double alpha, gain, clamp;  // clamp < 0: none
};

// Activations whose slope cannot be read off the output.
GT_HD bool act_needs_x(int act, double alpha) { return act == kSwish || (act == kLrelu && alpha < 0); }

template <int ACT, class A>
struct ActMath {
  static GT_HD A sigmoid(A u) {
    A e = exp_(-abs_(u));  // never overflows
    return (u < A(0) ? e : A(1)) / (A(1) + e);
  }
  static GT_HD A value(A u, A alpha) {
    if (ACT == kRelu) return u > A(0) ? u : (u != u ? u : A(0));
    if (ACT == kLrelu) return u > A(0) ? u : u * alpha;
    if (ACT == kTanh) {
      A e = expm1_(A(-2) * abs_(u)), t = -e / (e + A(2));
      return u < A(0) ? -t : t;
    }
    if (ACT == kSigmoid) return sigmoid(u);
    if (ACT == kElu) return u > A(0) ? u : expm1_(u);
    if (ACT == kSelu) return (u > A(0) ? u : expm1_(u) * A(1.6732632423543772)) * A(1.0507009873554805);
    if (ACT == kSoftplus) return (u > A(0) ? u : (u != u ? u : A(0))) + log1p_(exp_(-abs_(u)));
    if (ACT == kSwish) return u * sigmoid(u);
    return u;
  }
  // a'(u) as a function of t = a(u), and its derivative with respect to t.
  static GT_HD A slope_t(A t, A alpha) {
    if (ACT == kRelu) return t > A(0) ? A(1) : A(0);
    if (ACT == kLrelu) return t > A(0) ? A(1) : alpha;
    if (ACT == kTanh) return A(1) - t * t;
    if (ACT == kSigmoid) return t * (A(1) - t);
    if (ACT == kElu) return t > A(0) ? A(1) : t + A(1);
    if (ACT == kSelu) return t > A(0) ? A(1.0507009873554805) : t + A(1.0507009873554805 * 1.6732632423543772);
    if (ACT == kSoftplus) return -expm1_(-t);
    return A(1);
  }
  static GT_HD A curve_t(A t) {
    if (ACT == kTanh) return A(-2) * t;
    if (ACT == kSigmoid) return A(1) - A(2) * t;
    if (ACT == kElu || ACT == kSelu) return t > A(0) ? A(0) : A(1);
    if (ACT == kSoftplus) return exp_(-t);
    return A(0);
  }
  // a'(u) and a''(u), for the activations of act_needs_x.
  static GT_HD A slope_u(A u, A alpha) {
    if (ACT == kSwish) {
      A s = sigmoid(u);
      return s + u * s * (A(1) - s);
    }
    return u > A(0) ? A(1) : alpha;
  }
  static GT_HD A curve_u(A u) {
    if (ACT == kSwish) {
      A s = sigmoid(u);
      return s * (A(1) - s) * (A(2) + u * (A(1) - A(2) * s));
    }
    return A(0);
  }
};

// The whole element. `scale` = 1 / gain (0 when gain is 0); `bound` = clamp, or infinity.
template <int ACT, int ORDER, bool FROM_X, class A>
GT_HD A bias_act_element(A x, A b, A dy, A v, A alpha, A gain, A scale, A bound) {
  using F = ActMath<ACT, A>;
  if (ORDER == 0) {
    A y = F::value(x + b, alpha) * gain;
    y = y > bound ? bound : y;
    return y < -bound ? -bound : y;
  }
  A y = FROM_X ? F::value(x + b, alpha) * gain : x;
  A m;
  if (ORDER == 1)
    m = gain * dy * (FROM_X ? F::slope_u(x + b, alpha) : F::slope_t(x * scale, alpha));
  else
    m = dy * v * (FROM_X ? gain * F::curve_u(x + b) : F::curve_t(x * scale));
  return abs_(y) < bound ? m : A(0);
}

// The same with the activation known at run time only. FROM_X: one of act_needs_x.
template <int ORDER, bool FROM_X, class A>
GT_HD A bias_act_any(int act, A x, A b, A dy, A v, A alpha, A gain, A scale, A bound) {
  if constexpr (FROM_X)
    return act == kSwish ? bias_act_element<kSwish, ORDER, FROM_X, A>(x, b, dy, v, alpha, gain, scale, bound)
                         : bias_act_element<kLrelu, ORDER, FROM_X, A>(x, b, dy, v, alpha, gain, scale, bound);
  else {
    switch (act) {
#define GT_CASE(K) \
  case K: return bias_act_element<K, ORDER, FROM_X, A>(x, b, dy, v, alpha, gain, scale, bound);
      GT_CASE(kRelu)
      GT_CASE(kLrelu)
      GT_CASE(kTanh)
      GT_CASE(kSigmoid)
      GT_CASE(kElu)
      GT_CASE(kSelu)
      GT_CASE(kSoftplus)
      GT_CASE(kSwish)
#undef GT_CASE
      default: return bias_act_element<kLinear, ORDER, FROM_X, A>(x, b, dy, v, alpha, gain, scale, bound);
    }
  }
}

}  // namespace gt
