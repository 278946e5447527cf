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
