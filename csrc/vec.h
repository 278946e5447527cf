// SPDX-License-Identifier: Apache-2.0
// Vectors of 16 float32, for CPU kernels whose loops are too short for the compiler's own vectorisation.
#pragma once
#include "twice.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace gt::vec {

// Vectors of the compiler (GCC and Clang): plain loops of a fixed length are left scalar as soon as a 16-bit type is
// involved. Where neither AVX-512 nor AVX is, the compiler splits them.
constexpr int kLanes = 16;
typedef float Flat __attribute__((vector_size(64)));
typedef int32_t FlatMask __attribute__((vector_size(64)));
typedef uint16_t VecHalf __attribute__((vector_size(32)));
#if defined(__AVX__) && !defined(__AVX512F__)
#define GT_TWICE
typedef float Eight __attribute__((vector_size(32)));
typedef uint32_t EightBits __attribute__((vector_size(32)));
typedef int32_t EightMask __attribute__((vector_size(32)));
typedef uint16_t EightHalf __attribute__((vector_size(16)));
using Vec = Twice<Eight>;
using VecBits = Twice<EightBits>;
using VecMask = Twice<EightMask>;
#else
using Vec = Flat;
typedef uint32_t VecBits __attribute__((vector_size(64)));
using VecMask = FlatMask;
#endif

// Holds v in a register where the compiler would rather load it again for every use.
#if defined(__AVX512F__) && defined(__GNUC__)
#define GT_HOLD(v) asm("" : "+v"(v))
#else
#define GT_HOLD(v)
#endif
// Takes what p points at from memory at every use: a dozen row pointers do not fit the registers.
#define GT_RELOAD(p) asm("" : "+r"(p))

// Elements of (a, b) by constant indices.
#if defined(__clang__) || __GNUC__ >= 12
#define GT_SHUFFLED(Mask, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define GT_SHUFFLED(Mask, a, b, ...) __builtin_shuffle(a, b, Mask{__VA_ARGS__})
#endif
#ifdef GT_TWICE
template <int... I>
GT_INLINE Vec shuffled(Vec a, Vec b) {
  Flat flat[2];
  __builtin_memcpy(flat, &a, sizeof a);
  __builtin_memcpy(flat + 1, &b, sizeof b);
  flat[0] = GT_SHUFFLED(FlatMask, flat[0], flat[1], I...);
  __builtin_memcpy(&a, flat, sizeof a);
  return a;
}
#define GT_SHUFFLE(a, b, ...) ::gt::vec::shuffled<__VA_ARGS__>(a, b)
#else
#define GT_SHUFFLE(a, b, ...) GT_SHUFFLED(::gt::vec::FlatMask, a, b, __VA_ARGS__)
#endif

template <class T>
GT_INLINE T load_as(const void* p) {
  T v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
#ifdef GT_TWICE
GT_INLINE Vec load(const float* p) { return {load_as<Eight>(p), load_as<Eight>(p + 8)}; }
GT_INLINE Vec load(const bf16* p) {
  return (Vec)(VecBits(__builtin_convertvector(load_as<EightHalf>(p), EightBits),
                       __builtin_convertvector(load_as<EightHalf>(p + 8), EightBits)) << 16);
}
GT_INLINE VecBits load_bits(const bf16* p) { return {load_as<EightBits>(p), load_as<EightBits>(p + 16)}; }  // two each
GT_INLINE VecHalf halves(VecBits u) {
  const EightHalf h[2] = {__builtin_convertvector(u.lo, EightHalf), __builtin_convertvector(u.hi, EightHalf)};
  return load_as<VecHalf>(h);
}
#else
GT_INLINE Vec load(const float* p) { return load_as<Vec>(p); }
GT_INLINE Vec load(const bf16* p) { return (Vec)(__builtin_convertvector(load_as<VecHalf>(p), VecBits) << 16); }
GT_INLINE VecBits load_bits(const bf16* p) { return load_as<VecBits>(p); }
GT_INLINE VecHalf halves(VecBits u) { return __builtin_convertvector(u, VecHalf); }
#endif
// To bfloat16 in the upper half of each element, as Convert<bf16>::from.
GT_INLINE VecBits rounded(Vec v) {
  const VecBits u = (VecBits)v, r = u + 0x7fffu + ((u >> 16) & 1u), nan = (VecBits)(v != v);
  return (r & ~nan) | (nan & 0x7fc00000u);
}
GT_INLINE void store(float* p, Vec v) {
#ifdef GT_TWICE
  __builtin_memcpy(p, &v.lo, sizeof v.lo);
  __builtin_memcpy(p + 8, &v.hi, sizeof v.hi);
#else
  __builtin_memcpy(p, &v, sizeof v);
#endif
}
GT_INLINE void store(bf16* p, Vec v) {  // as Convert<bf16>::from; the instruction also makes subnormals zero
#ifdef __AVX512BF16__
  const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
  __builtin_memcpy(p, &h, sizeof h);
#else
  const VecHalf h = halves(rounded(v) >> 16);
  __builtin_memcpy(p, &h, sizeof h);
#endif
}

#ifdef GT_TWICE
template <int O>
GT_INLINE Eight window(Eight a, Eight b) {
  return GT_SHUFFLED(EightMask, a, b, O, O + 1, O + 2, O + 3, O + 4, O + 5, O + 6, O + 7);
}
#endif
// Elements O .. O + kLanes of (a, b).
template <int O>
GT_INLINE Vec window(Vec a, Vec b) {
#ifdef GT_TWICE
  if constexpr (O < 8) return {window<O>(a.lo, a.hi), window<O>(a.hi, b.lo)};
  else if constexpr (O < 16) return {window<O - 8>(a.hi, b.lo), window<O - 8>(b.lo, b.hi)};
  else return b;
#else
#ifdef __AVX512F__  // keeps its operands, which the compiler's choice overwrites
  if constexpr (O == 0) return a;
  else if constexpr (O == kLanes) return b;
  else return (Vec)_mm512_alignr_epi32((__m512i)b, (__m512i)a, O);
#endif
  return GT_SHUFFLE(a, b, O, O + 1, O + 2, O + 3, O + 4, O + 5, O + 6, O + 7, O + 8, O + 9, O + 10, O + 11,
                                 O + 12, O + 13, O + 14, O + 15);
#endif
}
#ifdef GT_TWICE
GT_INLINE Eight evens(Eight a, Eight b) { return GT_SHUFFLED(EightMask, a, b, 0, 2, 4, 6, 8, 10, 12, 14); }
GT_INLINE Eight odds(Eight a, Eight b) { return GT_SHUFFLED(EightMask, a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
GT_INLINE Vec evens(Vec a, Vec b) { return {evens(a.lo, a.hi), evens(b.lo, b.hi)}; }
GT_INLINE Vec odds(Vec a, Vec b) { return {odds(a.lo, a.hi), odds(b.lo, b.hi)}; }
// a[0], b[0], a[1], b[1], ...
GT_INLINE Vec interleaved(Eight a, Eight b) {
  return {GT_SHUFFLED(EightMask, a, b, 0, 8, 1, 9, 2, 10, 3, 11), GT_SHUFFLED(EightMask, a, b, 4, 12, 5, 13, 6, 14, 7, 15)};
}
#else
GT_INLINE Vec evens(Vec a, Vec b) {
  return GT_SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
GT_INLINE Vec odds(Vec a, Vec b) {
  return GT_SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
#endif

// Every second element of 2 * kLanes from p.
GT_INLINE Vec load_even(const float* p) {
  return evens(load(p), load(p + kLanes));
}

// Which elements of a run are inside an image. Loads of a part give zeros for the others, which are not read.
struct Part {
  int first, last;
};
template <class T>
GT_INLINE Vec load_part(const T* p, Part part) {
#ifdef __AVX512BW__
  const uint32_t mask = ((1u << part.last) - 1) & ~((1u << part.first) - 1);
  if constexpr (sizeof(T) == 4) return (Vec)_mm512_maskz_loadu_ps(__mmask16(mask), p);
  else return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(__mmask16(mask), p)), 16);
#endif
  if (part.last - part.first == kLanes) return load(p);
  T copy[kLanes] = {};
  __builtin_memcpy(copy + part.first, p + part.first, size_t(part.last - part.first) * sizeof(T));
  return load(copy);
}
template <class O>
GT_INLINE void store_part(O* p, Vec v, int64_t n) {
  if (n >= kLanes) return store(p, v);
#ifdef __AVX512F__
  if constexpr (sizeof(O) == 4) return _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
#endif
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(O) == 2) {
    __m256i h;
    store(reinterpret_cast<O*>(&h), v);
    return _mm256_mask_storeu_epi16(p, __mmask16((1u << n) - 1), h);
  }
#endif
  O copy[kLanes];
  store(copy, v);
  __builtin_memcpy(p, copy, size_t(n) * sizeof(O));
}

// 2 * kLanes neighbouring elements: two vectors as loaded. Of a 16-bit type they are the elements of even and of odd
// position, because that takes an instruction each; of float32 the first and the second half.
struct Pair {
  Vec v[2];
};
GT_INLINE Pair load_pair(const float* p) { return {load(p), load(p + kLanes)}; }
GT_INLINE Pair load_pair(const bf16* p) {
  const VecBits u = load_bits(p);
  return {(Vec)(u << 16), (Vec)(u & 0xffff0000u)};
}
GT_INLINE Pair load_pair_part(const float* p, Part part) {
  auto half = [&](int at) {
    const int a = part.first - at, b = part.last - at;
    return load_part(p + at, {a < 0 ? 0 : a > kLanes ? kLanes : a, b < 0 ? 0 : b > kLanes ? kLanes : b});
  };
  return {half(0), half(kLanes)};
}
GT_INLINE Pair load_pair_part(const bf16* p, Part part) {
#ifdef __AVX512BW__
  const uint64_t mask = ((uint64_t(1) << part.last) - 1) & ~((uint64_t(1) << part.first) - 1);
  const VecBits u = (VecBits)_mm512_maskz_loadu_epi16(__mmask32(mask), p);
  return {(Vec)(u << 16), (Vec)(u & 0xffff0000u)};
#endif
  if (part.last - part.first == 2 * kLanes) return load_pair(p);
  bf16 copy[2 * kLanes] = {};
  __builtin_memcpy(copy + part.first, p + part.first, size_t(part.last - part.first) * sizeof(bf16));
  return load_pair(copy);
}
// Even and odd positions, whatever the type.
GT_INLINE Pair split(const float*, Pair a) { return {evens(a.v[0], a.v[1]), odds(a.v[0], a.v[1])}; }
GT_INLINE Pair split(const bf16*, Pair a) { return a; }

// The pairs (even[j], odd[j]), n of the 2 * kLanes elements.
GT_INLINE void store_pairs(float* p, Vec even, Vec odd, int64_t n = 2 * kLanes) {
#ifdef GT_TWICE
  const Vec low = interleaved(even.lo, odd.lo), high = interleaved(even.hi, odd.hi);
#else
  const Vec low = GT_SHUFFLE(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const Vec high = GT_SHUFFLE(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#endif
  store_part(p, low, n);
  if (n > kLanes) store_part(p + kLanes, high, n - kLanes);
}
GT_INLINE void store_pairs(bf16* p, Vec even, Vec odd, int64_t n = 2 * kLanes) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512bh both = _mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
  const __m512i u = _mm512_permutexvar_epi16(order, (__m512i)both);
  if (n >= 2 * kLanes)
    __builtin_memcpy(p, &u, sizeof u);
  else
    _mm512_mask_storeu_epi16(p, (__mmask32(1) << n) - 1, u);
#else
  const VecBits e = rounded(even) >> 16, o = rounded(odd) & 0xffff0000u, u = e | o;
  __builtin_memcpy(p, &u, size_t(n < 2 * kLanes ? n : 2 * kLanes) * sizeof(bf16));
#endif
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

// Calls block(i) for runs of L elements that cover [0, len), the last one overlapping its neighbour; len >= L.
template <int L, class B>
GT_INLINE void cover_runs(int64_t len, const B& block) {
  int64_t i = 0;
  for (; i + L <= len; i += L) block(i);
  if (i < len) block(len - L);
}

#ifdef GT_TWICE
GT_INLINE Vec choose(VecMask mask, Vec yes, Vec no) {
  return {mask.lo ? yes.lo : no.lo, mask.hi ? yes.hi : no.hi};
}
#else
GT_INLINE Vec choose(VecMask mask, Vec yes, Vec no) { return (Vec)((mask & (VecMask)yes) | (~mask & (VecMask)no)); }
#endif

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

// The sums of a, b and c, at to[0], to[1] and to[2] of four; in the same order as one another.
GT_INLINE void sums(Vec a, Vec b, Vec c, float* to) {
  typedef float Quarter __attribute__((vector_size(16)));
  // Pairs of lanes of (a, b), and of (c, c); then both side by side, four lanes each.
  const Vec ab = GT_SHUFFLE(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
                 GT_SHUFFLE(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  const Vec cc = GT_SHUFFLE(c, c, 0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13) +
                 GT_SHUFFLE(c, c, 2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15);
  const Vec all = GT_SHUFFLE(ab, cc, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                  GT_SHUFFLE(ab, cc, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  Quarter q[4];
  __builtin_memcpy(q, &all, sizeof all);
  q[0] = (q[0] + q[1]) + (q[2] + q[3]);
  __builtin_memcpy(to, q, sizeof q[0]);
}

}  // namespace gt::vec
