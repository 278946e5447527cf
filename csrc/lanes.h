// SPDX-License-Identifier: Apache-2.0
// Vectors of float32 as long as the processor's registers, for sums that must stay in them. Of a longer vector (vec.h)
// compilers keep every intermediate value in memory: products of matrices take five times as long.
#pragma once
#include "portable.h"

namespace gt::lanes {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRegisters = 32;
#else
constexpr int kLanes = 4, kRegisters = 16;
#endif
typedef float Vec __attribute__((vector_size(4 * kLanes)));

GT_INLINE Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
GT_INLINE void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }
// x in every lane. Minus zero changes no number, so that nothing is computed; plus zero would change -0, and costs.
GT_INLINE Vec all(float x) { return x - Vec{}; }

// Holds v in a register where the compiler would rather load it again for every use.
GT_INLINE void hold(Vec& v) {
#if defined(__AVX__) && defined(__GNUC__)
  asm("" : "+v"(v));
#endif
}

}  // namespace gt::lanes
