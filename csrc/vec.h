// SPDX-License-Identifier: Apache-2.0
// Vectors of 16 float32, for CPU kernels whose loops are too short for the compiler's own vectorisation.
#pragma once
#include "portable.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace gt::vec {

// Vectors of the compiler (GCC and Clang), split by it where registers are shorter: plain loops of a fixed length are
// left scalar as soon as a 16-bit type is involved.
constexpr int kLanes = 16;
typedef float Vec __attribute__((vector_size(64)));
typedef uint32_t VecBits __attribute__((vector_size(64)));
typedef int32_t VecMask __attribute__((vector_size(64)));
typedef uint16_t VecHalf __attribute__((vector_size(32)));

#define GT_INLINE inline __attribute__((always_inline))

// Elements of (a, b) by constant indices.
#if defined(__clang__) || __GNUC__ >= 12
#define GT_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define GT_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, ::gt::vec::VecMask{__VA_ARGS__})
#endif

GT_INLINE Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
GT_INLINE Vec load(const bf16* p) {
  VecHalf h;
  __builtin_memcpy(&h, p, sizeof h);
  return (Vec)(__builtin_convertvector(h, VecBits) << 16);
}
GT_INLINE void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }
GT_INLINE void store(bf16* p, Vec v) {  // as Convert<bf16>::from; the instruction also makes subnormals zero
#ifdef __AVX512BF16__
  const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
  __builtin_memcpy(p, &h, sizeof h);
#else
  const VecBits u = (VecBits)v, r = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const VecBits nan = (VecBits)(v != v);
  const VecHalf h = __builtin_convertvector((r & ~nan) | (nan & 0x7fc0u), VecHalf);
  __builtin_memcpy(p, &h, sizeof h);
#endif
}

// The pairs (a[j], b[j]).
template <class O>
GT_INLINE void store_pairs(O* p, Vec a, Vec b) {
  store(p, GT_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
  store(p + kLanes, GT_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
}

// Elements O .. O + kLanes of (a, b).
template <int O>
GT_INLINE Vec window(Vec a, Vec b) {
  return GT_SHUFFLE(a, b, O, O + 1, O + 2, O + 3, O + 4, O + 5, O + 6, O + 7, O + 8, O + 9, O + 10, O + 11,
                                 O + 12, O + 13, O + 14, O + 15);
}
GT_INLINE Vec evens(Vec a, Vec b) {
  return GT_SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
GT_INLINE Vec odds(Vec a, Vec b) {
  return GT_SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

// Every second element of 2 * kLanes from p.
GT_INLINE Vec load_even(const float* p) {
  return evens(load(p), load(p + kLanes));
}

// The first n < kLanes elements at p, then zeros. readable: so are the kLanes elements at p.
template <class T>
GT_INLINE Vec load_part(const T* p, int64_t n, bool readable) {
  Vec v;
  if (readable) {
    v = load(p);
  } else {
    T copy[kLanes] = {};
    __builtin_memcpy(copy, p, size_t(n) * sizeof(T));
    v = load(copy);
  }
  const VecMask index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return (Vec)((VecMask)v & (index < int(n)));
}
template <class O>
GT_INLINE void store_part(O* p, Vec v, int64_t n) {
  if (n >= kLanes) return store(p, v);
  O copy[kLanes];
  store(copy, v);
  __builtin_memcpy(p, copy, size_t(n) * sizeof(O));
}

// Calls block(i) for runs of kLanes elements that cover [0, len), the last one overlapping its neighbour, or, for short
// rows, single(i) for every element.
template <class B, class S>
GT_INLINE void cover(int64_t len, const B& block, const S& single) {
  if (len < kLanes) {
    for (int64_t i = 0; i < len; i++) single(i);
    return;
  }
  int64_t i = 0;
  for (; i + kLanes <= len; i += kLanes) block(i);
  if (i < len) block(len - kLanes);
}

GT_INLINE Vec choose(VecMask mask, Vec yes, Vec no) { return (Vec)((mask & (VecMask)yes) | (~mask & (VecMask)no)); }

// In one fixed order.
GT_INLINE float sum(Vec v) {
  typedef float Half __attribute__((vector_size(32)));
  typedef float Quarter __attribute__((vector_size(16)));
  Half h[2];
  __builtin_memcpy(h, &v, sizeof v);
  h[0] += h[1];
  Quarter q[2];
  __builtin_memcpy(q, h, sizeof q);
  q[0] += q[1];
  return (q[0][0] + q[0][2]) + (q[0][1] + q[0][3]);
}

}  // namespace gt::vec
