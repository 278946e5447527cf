// SPDX-License-Identifier: Apache-2.0
// weight_sq on CUDA: one output per thread, a warp takes 32 neighbours. Channels last every access is whole lines; else
// a warp reads the same few lines k times, which its first-level cache serves. The gradient: one element per thread.
#include "device.h"
#include "weight_sq.h"

namespace gt {

template <class A, int K>
__global__ void __launch_bounds__(256) weight_sq(WeightSqParams p) {
  const int64_t total = p.o * p.i, step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t e = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; e < total; e += step)
    static_cast<A*>(p.out)[e] = weight_sq_value<A, K>(p, e / p.i, e % p.i);
}

template <class A>
__global__ void __launch_bounds__(256) weight_sq_grad(WeightSqParams p) {
  const int64_t total = p.o * p.i * p.k, step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t e = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; e < total; e += step)
    static_cast<A*>(p.out)[e] = weight_sq_slope<A>(p, e);
}

#ifdef __CUDACC_RTC__
template __global__ void weight_sq<float, 9>(WeightSqParams);
template __global__ void weight_sq<double, 0>(WeightSqParams);
template __global__ void weight_sq_grad<float>(WeightSqParams);
#else

namespace {

template <class A>
void run(const WeightSqParams& p, bool gradient, void* stream) {
  if (gradient) return launch(weight_sq_grad<A>, blocks_for(p.o * p.i * p.k, 256), 256, stream, p);
  const unsigned blocks = blocks_for(p.o * p.i, 256);
  p.k == 9 ? launch(weight_sq<A, 9>, blocks, 256, stream, p) : launch(weight_sq<A, 0>, blocks, 256, stream, p);
}

}  // namespace

// float32 and float64.
int weight_sq_launch(const WeightSqParams& p, DType dtype, bool gradient, void* stream) {
  dtype == DType::f64 ? run<double>(p, gradient, stream) : run<float>(p, gradient, stream);
  return launch_status();
}
#endif

}  // namespace gt
