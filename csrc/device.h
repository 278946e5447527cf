// SPDX-License-Identifier: Apache-2.0
// What the .cu files share: vector access, launches, reductions in a fixed order. No torch header. Under NVRTC only the
// device half exists. tests/cuda/emulate.h stands in for the CUDA runtime to run the kernels on a CPU.
#pragma once
#include "portable.h"

#if !defined(__CUDACC_RTC__) && !defined(GT_EMULATE)
#include <cuda_runtime.h>
#endif

namespace gt {

// Kernels with much state say __launch_bounds__(256, 3): 80 registers. Without the second number ptxas spills a few
// bytes in order to reach the next step of occupancy (up to 64 on sm_90; none with it, on any architecture).

// N consecutive elements, moved as one access of up to 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
};

template <class T, int N>
__device__ __forceinline__ Vec<T, N> load(const void* base, int64_t i) {
  return *reinterpret_cast<const Vec<T, N>*>(static_cast<const T*>(base) + i);
}
template <class T, int N>
__device__ __forceinline__ void store(void* base, int64_t i, const Vec<T, N>& v) {
  *reinterpret_cast<Vec<T, N>*>(static_cast<T*>(base) + i) = v;
}

// Elements of a 16-byte access.
template <class T>
constexpr int kVec = 16 / int(sizeof(T));

// Stores N results rounded to the storage type; two at a time where one instruction does that.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <class T>
__device__ __forceinline__ uint32_t narrow_pair(float low, float high) {
  uint32_t r;
  if constexpr (IsBf16<T>::value)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
#else
template <class T>
__device__ __forceinline__ uint32_t narrow_pair(float low, float high) {
  return uint32_t(Convert<T>::from(low).v) | uint32_t(Convert<T>::from(high).v) << 16;
}
#endif
template <class T, int N, class A>
__device__ __forceinline__ void narrow(T* at, const A* v) {
  if constexpr (sizeof(T) * N >= 4 && sizeof(T) <= 4) {
    constexpr int kWords = sizeof(T) * N / 4;
    Vec<uint32_t, kWords> out;
#pragma unroll
    for (int i = 0; i < kWords; i++)
      if constexpr (sizeof(T) == 2)
        out.v[i] = narrow_pair<T>(v[2 * i], v[2 * i + 1]);
      else
        out.v[i] = bits_of(v[i]);
#ifdef __CUDA_ARCH__
    // Said outright: of a structure, the compiler often makes one store per word.
    const size_t to = __cvta_generic_to_global(at);
    if constexpr (kWords == 4)
      asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(out.v[0]), "r"(out.v[1]), "r"(out.v[2]),
                   "r"(out.v[3]));
    else if constexpr (kWords == 2)
      asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(out.v[0]), "r"(out.v[1]));
    else
      asm volatile("st.global.b32 [%0], %1;" ::"l"(to), "r"(out.v[0]));
#else
    *reinterpret_cast<Vec<uint32_t, kWords>*>(at) = out;
#endif
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) at[i] = Convert<T>::from(v[i]);
  }
}

// N stored values as 32-bit words: what is loaded stays in whole registers until it is used. Loaded into variables of 16
// bits, values are taken apart at once, and every load would wait for the one before.
template <class T, int N>
struct Words {
  static constexpr int kWords = (sizeof(T) * N + 3) / 4;
  Vec<uint32_t, kWords> words;

  __device__ __forceinline__ void load(const T* at) {
    if constexpr (sizeof(T) * N < 4)
      words.v[0] = *reinterpret_cast<const uint16_t*>(at);
    else
      words = *reinterpret_cast<const Vec<uint32_t, kWords>*>(at);
  }
  __device__ __forceinline__ float value(int i) const {
    const uint32_t* w = words.v;
    if constexpr (sizeof(T) == 4) {
      return float_of(w[i]);
    } else if constexpr (IsBf16<T>::value) {
      return float_of(i & 1 ? w[i / 2] & 0xffff0000u : w[i / 2] << 16);
    } else {
#ifdef __CUDA_ARCH__
      float low, high;
      asm("{.reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
          : "=f"(low), "=f"(high) : "r"(w[i / 2]));
      return i & 1 ? high : low;
#else
      f16 half;
      half.v = uint16_t(w[i / 2] >> (i & 1) * 16);
      return to_acc(half);
#endif
    }
  }
};

// The epilogue's value (epilogue.h) with slope * gain multiplied beforehand, and the clamp in two instructions where
// there is a minimum that keeps NaN.
template <class A>
__device__ __forceinline__ A finish_value(A u, A gain, A low_gain, A bound) {
  const A y = u * (u > A(0) ? gain : low_gain);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (sizeof(A) == 4) {
    A r;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(y), "f"(bound));
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(r), "f"(-bound));
    return r;
  }
#endif
  const A top = y > bound ? bound : y;
  return top < -bound ? -bound : top;
}

// Sum over the block's threads, in the same order every time; the result is valid in thread 0. Threads are a multiple
// of 32. `scratch`: shared, 32 values.
template <class A>
__device__ __forceinline__ A warp_sum(A s) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) s += __shfl_down_sync(0xffffffffu, s, d);
  return s;
}
template <class A>
__device__ __forceinline__ A block_sum(A s, A* scratch, int thread, int threads) {
  s = warp_sum(s);
  if (thread % 32 == 0) scratch[thread / 32] = s;
  __syncthreads();
  s = thread < threads / 32 ? scratch[thread] : A(0);
  if (thread < 32) s = warp_sum(s);
  __syncthreads();
  return s;
}

#ifndef __CUDACC_RTC__
inline bool aligned16(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

inline unsigned blocks_for(int64_t work, int64_t per_block) {
  int64_t n = (work - 1) / per_block + 1;
  return unsigned(n < (int64_t(1) << 30) ? n : (int64_t(1) << 30));  // kernels stride over the rest
}

#ifndef GT_EMULATE
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, void* stream, A... args) {
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(args...);
}
inline int launch_status() { return int(cudaGetLastError()); }
#endif
#endif

}  // namespace gt
