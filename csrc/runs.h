// SPDX-License-Identifier: Apache-2.0
// A run: neighbouring elements of an image in registers, in the accumulate type. 16 float32 or float16; 32 bfloat16, as
// the elements of even and of odd position (vec.h, Pair); one float64.
#pragma once
#include "lanes.h"
#include "vec.h"

namespace gt {

GT_INLINE double choose(bool yes, double a, double b) { return yes ? a : b; }
using vec::choose;

// Of two; the second one where either is NaN.
GT_INLINE double larger(double a, double b) { return a > b ? a : b; }
GT_INLINE double smaller(double a, double b) { return a < b ? a : b; }
GT_INLINE vec::Vec larger(vec::Vec a, vec::Vec b) {
#ifdef __AVX512F__
  return (vec::Vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return vec::choose(a > b, a, b);
#endif
}
GT_INLINE vec::Vec smaller(vec::Vec a, vec::Vec b) {
#ifdef __AVX512F__
  return (vec::Vec)_mm512_min_ps((__m512)a, (__m512)b);
#else
  return vec::choose(a < b, a, b);
#endif
}

#ifndef __AVX512F__  // where the registers' vectors are others
GT_INLINE lanes::Vec choose(decltype(lanes::Vec{} > lanes::Vec{}) yes, lanes::Vec a, lanes::Vec b) {
  return yes ? a : b;
}
GT_INLINE lanes::Vec larger(lanes::Vec a, lanes::Vec b) { return a > b ? a : b; }
GT_INLINE lanes::Vec smaller(lanes::Vec a, lanes::Vec b) { return a < b ? a : b; }
#endif

// An epilogue's activation and clamp of values that have the gain in them already: it is positive, and the activation
// takes it out.
template <class A>
struct Activation {
  A slope, bound;

  template <class V>
  GT_INLINE V operator()(V u) const {
    const V zero = {}, v = u * slope;
    const V y = slope <= A(1) ? larger(v, u) : choose(u > zero, u, v);
    return larger(zero - bound, smaller(zero + bound, y));
  }
};

// load, store: n elements, or all; elements past n are zero. values: the same of an array in the accumulate type.
template <class T>
struct Run {
  using V = vec::Vec;
  static constexpr int kParts = 1, kWidth = vec::kLanes;
  static GT_INLINE void load(const float* p, int64_t n, V* v) {
    v[0] = n >= kWidth ? vec::load(p) : vec::load_part(p, {0, int(n)});
  }
  static GT_INLINE void load(const f16* p, int64_t n, V* v) {
    float wide[kWidth] = {};
    const int count = n < kWidth ? int(n) : kWidth;
    for (int i = 0; i < count; i++) wide[i] = to_acc(p[i]);
    v[0] = vec::load(wide);
  }
  static GT_INLINE void store(float* p, int64_t n, const V* v) { vec::store_part(p, v[0], n); }
  static GT_INLINE void store(f16* p, int64_t n, const V* v) {
    float wide[kWidth];
    vec::store(wide, v[0]);
    const int count = n < kWidth ? int(n) : kWidth;
    for (int i = 0; i < count; i++) p[i] = Convert<f16>::from(wide[i]);
  }
  static GT_INLINE void values(const float* p, int64_t n, V* v) { load(p, n, v); }
};

template <>
struct Run<bf16> {
  using V = vec::Vec;
  static constexpr int kParts = 2, kWidth = 2 * vec::kLanes;
  static GT_INLINE void load(const bf16* p, int64_t n, V* v) {
    const vec::Pair a = n >= kWidth ? vec::load_pair(p) : vec::load_pair_part(p, {0, int(n)});
    v[0] = a.v[0], v[1] = a.v[1];
  }
  static GT_INLINE void store(bf16* p, int64_t n, const V* v) { vec::store_pairs(p, v[0], v[1], n); }
  static GT_INLINE void values(const float* p, int64_t n, V* v) {
    const vec::Pair a = vec::split(p, n >= kWidth ? vec::load_pair(p) : vec::load_pair_part(p, {0, int(n)}));
    v[0] = a.v[0], v[1] = a.v[1];
  }
};

// 16 bfloat16, for rows that are shorter than a run.
struct ShortRun {
  using V = vec::Vec;
  static constexpr int kParts = 1, kWidth = vec::kLanes;
  static GT_INLINE void load(const bf16* p, int64_t n, V* v) {
    v[0] = n >= kWidth ? vec::load(p) : vec::load_part(p, {0, int(n)});
  }
  static GT_INLINE void store(bf16* p, int64_t n, const V* v) { vec::store_part(p, v[0], n); }
  static GT_INLINE void values(const float* p, int64_t n, V* v) { Run<float>::load(p, n, v); }
};

template <>
struct Run<double> {
  using V = double;
  static constexpr int kParts = 1, kWidth = 1;
  static GT_INLINE void load(const double* p, int64_t, V* v) { v[0] = *p; }
  static GT_INLINE void store(double* p, int64_t, const V* v) { *p = v[0]; }
  static GT_INLINE void values(const double* p, int64_t n, V* v) { load(p, n, v); }
};

}  // namespace gt
