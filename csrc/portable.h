// SPDX-License-Identifier: Apache-2.0
// What every kernel header stands on: one source for g++, nvcc and NVRTC. Includes neither torch nor CUDA.
#pragma once

#ifdef __CUDACC_RTC__
typedef signed int int32_t;
typedef unsigned int uint32_t;
typedef unsigned short uint16_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <cmath>
#include <cstdint>
#include <cstring>
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define GT_HD __host__ __device__ __forceinline__
#define GT_DEVICE_CODE 1
#else
#define GT_HD inline __attribute__((always_inline))
#endif
#define GT_INLINE inline __attribute__((always_inline))

namespace gt {

// Also the order of the integer codes that cross the language border.
enum class DType : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };

GT_HD uint32_t bits_of(float v) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(v);
#else
  uint32_t u;
  __builtin_memcpy(&u, &v, 4);
  return u;
#endif
}

GT_HD float float_of(uint32_t u) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(u);
#else
  float v;
  __builtin_memcpy(&v, &u, 4);
  return v;
#endif
}

// Storage of the 16-bit types. All conversions are branch-free, so that host loops vectorise.
struct f16 {
  uint16_t v;
};
struct bf16 {
  uint16_t v;
};

template <class T>
struct IsBf16 {
  static constexpr bool value = false;
};
template <>
struct IsBf16<bf16> {
  static constexpr bool value = true;
};

GT_HD float to_acc(float x) { return x; }
GT_HD double to_acc(double x) { return x; }

GT_HD float to_acc(bf16 x) { return float_of(uint32_t(x.v) << 16); }

GT_HD float to_acc(f16 x) {
#ifdef __CUDA_ARCH__
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x.v));
  return r;
#else
  uint32_t sign = uint32_t(x.v & 0x8000) << 16, mag = uint32_t(x.v & 0x7fff) << 13;
  float scaled = float_of(mag) * float_of(0x77800000u);  // * 2^112: right for normal and subnormal alike
  uint32_t u = bits_of(scaled);
  u = mag >= 0x0f800000u ? (mag | 0x7f800000u) : u;  // infinity and NaN
  return float_of(u | sign);
#endif
}

template <class T>
struct Convert;
template <>
struct Convert<float> {
  using acc = float;
  static GT_HD float from(float v) { return v; }
};
template <>
struct Convert<double> {
  using acc = double;
  static GT_HD double from(double v) { return v; }
};
template <>
struct Convert<bf16> {
  using acc = float;
  static GT_HD bf16 from(float v) {  // to nearest, ties to even; NaN stays NaN
    bf16 out;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.v) : "f"(v));
#else
    uint32_t u = bits_of(v);
    uint32_t r = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    r = (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : r;
    out.v = uint16_t(r);
#endif
    return out;
  }
};
template <>
struct Convert<f16> {
  using acc = float;
  static GT_HD f16 from(float v) {
    f16 out;
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.v) : "f"(v));
#else
    uint32_t u = bits_of(v), sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    // Below 2^-14 the sum with 0.5 rounds to the subnormal grid; above, add half a unit and drop 13 bits.
    uint32_t small = bits_of(float_of(u) + 0.5f) - 0x3f000000u;
    uint32_t normal = (u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13;
    uint32_t r = u < 0x38800000u ? small : normal;
    r = u >= 0x477ff000u ? 0x7c00u : r;
    r = u > 0x7f800000u ? 0x7e00u : r;
    out.v = uint16_t(r | sign);
#endif
    return out;
  }
};
template <class T>
using acc_t = typename Convert<T>::acc;

// expm1 and log1p that g++ vectorises without unsafe flags (about 2 ulp in float); the device has its own.
GT_HD double expm1_(double u) {
#ifdef GT_DEVICE_CODE
  return ::expm1(u);
#else
  return std::expm1(u);
#endif
}
GT_HD double log1p_(double u) {
#ifdef GT_DEVICE_CODE
  return ::log1p(u);
#else
  return std::log1p(u);
#endif
}

GT_HD float expm1_(float u) {
#ifdef __CUDA_ARCH__
  return ::expm1f(u);
#else
  float c = u < -87.f ? -87.f : u;
  c = c > 88.f ? 88.f : c;
  float n = (c * 1.44269504f + 12582912.f) - 12582912.f;
  float r = (c - n * 0.693145752f) - n * 1.42860677e-6f;  // |r| <= ln(2) / 2
  float p = 1.f / 5040;
  p = p * r + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r * r + r;
  float s = float_of(uint32_t(int32_t(n) + 127) << 23);  // 2^n
  float v = s * p + (s - 1.f);
  v = u > 88.f ? u * 3e38f : v;  // overflows to infinity
  return u != u ? u : v;
#endif
}

GT_HD float log1p_(float z) {  // for 0 <= z <= 1
#ifdef __CUDA_ARCH__
  return ::log1pf(z);
#else
  float s = z / (2.f + z), q = s * s, p = 1.f / 17;
  p = p * q + 1.f / 15;
  p = p * q + 1.f / 13;
  p = p * q + 1.f / 11;
  p = p * q + 1.f / 9;
  p = p * q + 1.f / 7;
  p = p * q + 1.f / 5;
  p = p * q + 1.f / 3;
  return 2.f * (p * q * s + s);
#endif
}

template <class A>
GT_HD A exp_(A u) {
  return expm1_(u) + A(1);
}
template <class A>
GT_HD A abs_(A u) {
  return u < A(0) ? -u : u;
}

// A clamp bound as the storage type can hold it: what the forward writes is what the backward compares with.
template <class T>
GT_HD acc_t<T> stored(double v) {
  return to_acc(Convert<T>::from(acc_t<T>(v)));
}

// The bound that a clamp sets, infinity where there is none. (1 / 0 would be divided at run time, with every use.)
template <class T>
GT_HD acc_t<T> clamp_bound(double clamp) {
  return clamp < 0 ? acc_t<T>(float_of(0x7f800000u)) : stored<T>(clamp);
}

}  // namespace gt
