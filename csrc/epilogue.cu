// SPDX-License-Identifier: Apache-2.0
// The epilogue on CUDA: one pass forward; one pass backward with all sums in a fixed order, and a small combination.
#include "device.h"
#include "epilogue.h"

namespace gt {

// CHANNELS: channels last, a thread's columns are channels with their d and b; else they are pixels with their noise.
template <class T, int V, bool CHANNELS>
__global__ void __launch_bounds__(256, 3) epilogue_forward(EpilogueParams p, unsigned column_blocks, int64_t group) {
  using A = acc_t<T>;
  const RowWalk walk(CHANNELS ? p.hw : p.c, V, column_blocks, group);
  const int64_t length = CHANNELS ? p.c : p.hw, n = walk.sample;
  if (walk.column >= length || n >= p.n) return;
  const A* d = p.d ? static_cast<const A*>(p.d) + n * p.c : nullptr;
  const A* b = static_cast<const A*>(p.b);
  const A* noise = p.noise ? static_cast<const A*>(p.noise) + n * p.noise_step : nullptr;
  const A gain = A(p.gain), low_gain = gain * A(p.slope), scale = A(p.scale);
  const A bound = clamp_bound<T>(p.clamp), strength = noise ? *static_cast<const A*>(p.strength) : A(0);
  A times[V], plus[V];
#pragma unroll
  for (int j = 0; j < V; j++) {
    times[j] = CHANNELS && d ? d[walk.column + j] * scale : scale;
    plus[j] = CHANNELS ? (b ? b[walk.column + j] : A(0)) : (noise ? noise[walk.column + j] * strength : A(0));
  }
  const int64_t at = (n * (CHANNELS ? p.hw : p.c) + walk.row) * length + walk.column, step = length * blockDim.y;
  const T* x = static_cast<const T*>(p.x) + at;
  T* y = static_cast<T*>(p.out) + at;
#pragma unroll 4
  for (int64_t row = walk.row; row < walk.end; row += blockDim.y, x += step, y += step) {
    Words<T, V> in;
    in.load(x);
    const A factor = !CHANNELS && d ? d[row] : A(1);
    const A shift = CHANNELS ? (noise ? noise[row] * strength : A(0)) : (b ? b[row] : A(0));
    A v[V];
#pragma unroll
    for (int j = 0; j < V; j++)
      v[j] = finish_value(in.value(j) * (CHANNELS ? times[j] : times[0] * factor) + (plus[j] + shift), gain, low_gain,
                          bound);
    narrow<T, V>(y, v);
  }
}

// partial[((n * splits + split) * 3 + k) * c + channel], k: sum g, sum g * noise, sum dy * y.
template <class A>
__device__ __forceinline__ A& epilogue_slot(const EpilogueParams& p, int64_t n, int splits, int64_t split, int k,
                                            int64_t c) {
  return static_cast<A*>(p.partial)[((n * splits + split) * 3 + k) * p.c + c];
}

// V neighbours of the gradient from `e` on. CHANNELS: d and the sums are per element, the noise is one; else the other way
// round. `d` has the gain in it.
template <class T, int V, bool CHANNELS, class A>
__device__ __forceinline__ void epilogue_gradient(const EpilogueParams& p, int64_t e, A slope, A bound, const A* d,
                                                  const A* noise, A* g_sum, A* noise_sum, A* y_sum) {
  Words<T, V> y, dy;
  y.load(static_cast<const T*>(p.x) + e);
  dy.load(static_cast<const T*>(p.dy) + e);
  A dx[V];
#pragma unroll
  for (int j = 0; j < V; j++) {
    constexpr int S = CHANNELS;
    A passed;
    const A value = y.value(j), g = epilogue_slope(value, A(dy.value(j)), slope, bound, passed);
    dx[j] = g * d[j * S];
    g_sum[j * S] += g;
    if (noise) noise_sum[j * S] += g * noise[j * (1 - S)];
    y_sum[j * S] += passed * value;
  }
  narrow<T, V>(static_cast<T*>(p.out) + e, dx);
}

// NCHW: blockDim.x threads share a piece of a plane, blockDim.y pieces per block.
template <class T, int V>
__global__ void __launch_bounds__(256, 3) epilogue_planes(EpilogueParams p, int splits) {
  using A = acc_t<T>;
  __shared__ A scratch[32];
  const int64_t pieces = p.n * p.c * splits, len = ((p.hw / V - 1) / splits + 1) * V;
  const A slope = A(p.slope), bound = clamp_bound<T>(p.clamp);
  for (int64_t first = int64_t(blockIdx.x) * blockDim.y; first < pieces; first += int64_t(gridDim.x) * blockDim.y) {
    const int64_t piece = first + threadIdx.y, plane = quotient(piece, splits), n = quotient(plane, p.c);
    A s[3] = {A(0), A(0), A(0)};
    if (piece < pieces) {
      const A d = (p.d ? static_cast<const A*>(p.d)[plane] : A(1)) * A(p.scale) * A(p.gain);
      const A* noise = p.noise ? static_cast<const A*>(p.noise) + n * p.noise_step : nullptr;
      const int64_t start = (piece - plane * splits) * len, end = start + len < p.hw ? start + len : p.hw;
#pragma unroll 2
      for (int64_t i = start + int64_t(threadIdx.x) * V; i < end; i += int64_t(blockDim.x) * V)
        epilogue_gradient<T, V, false, A>(p, plane * p.hw + i, slope, bound, &d, noise ? noise + i : nullptr, &s[0],
                                          &s[1], &s[2]);
    }
#pragma unroll
    for (int k = 0; k < 3; k++) {
      const A t = blockDim.y > 1 ? warp_sum(s[k]) : block_sum(s[k], scratch, int(threadIdx.x), int(blockDim.x));
      if (threadIdx.x == 0 && piece < pieces)
        epilogue_slot<A>(p, n, splits, piece - plane * splits, k, plane - n * p.c) = t;
    }
  }
}

// Channels last: 32 channel vectors x 8 pixel lanes walk a strip of pixels of one sample.
template <class T, int V>
__global__ void __launch_bounds__(256, 3) epilogue_pixels(EpilogueParams p, int splits) {
  using A = acc_t<T>;
  __shared__ A scratch[8][32 * V + 1];
  const int64_t c = (int64_t(blockIdx.x) * 32 + threadIdx.x) * V, strip = (p.hw - 1) / splits + 1;
  const A slope = A(p.slope), bound = clamp_bound<T>(p.clamp);
  for (int64_t t = blockIdx.y; t < p.n * splits; t += gridDim.y) {
    const int64_t n = quotient(t, splits), start = (t - n * splits) * strip;
    const int64_t end = start + strip < p.hw ? start + strip : p.hw;
    A s[3][V], d[V];
#pragma unroll
    for (int j = 0; j < V; j++) {
      s[0][j] = s[1][j] = s[2][j] = A(0);
      d[j] = (p.d && c < p.c ? static_cast<const A*>(p.d)[n * p.c + c + j] : A(1)) * A(p.scale) * A(p.gain);
    }
    const A* noise = p.noise ? static_cast<const A*>(p.noise) + n * p.noise_step : nullptr;
    if (c < p.c)
#pragma unroll(V > 4 ? 1 : 2)
      for (int64_t i = start + threadIdx.y; i < end; i += 8)
        epilogue_gradient<T, V, true, A>(p, (n * p.hw + i) * p.c + c, slope, bound, d, noise ? noise + i : nullptr, s[0],
                                         s[1], s[2]);
#pragma unroll
    for (int k = 0; k < 3; k++) {
#pragma unroll
      for (int j = 0; j < V; j++) scratch[threadIdx.y][threadIdx.x * V + j] = s[k][j];
      __syncthreads();
      for (int i = int(threadIdx.y) * 32 + int(threadIdx.x); i < 32 * V; i += 256) {
        const int64_t column = int64_t(blockIdx.x) * 32 * V + i;
        A sum = A(0);
        for (int r = 0; r < 8; r++) sum += scratch[r][i];
        if (column < p.c) epilogue_slot<A>(p, n, splits, t - n * splits, k, column) = sum;
      }
      __syncthreads();
    }
  }
}

// A warp per channel: dd[n, c], db[c], and this channel's share of dstrength into the first slots of the workspace.
template <class A>
__global__ void __launch_bounds__(256) epilogue_combine(EpilogueParams p, int splits) {
  const int64_t c = int64_t(blockIdx.x) * 8 + threadIdx.y;
  A all = A(0), all_noise = A(0);
  if (c < p.c)
    for (int64_t n = threadIdx.x; n < p.n; n += 32) {
      A s[3] = {A(0), A(0), A(0)};
      for (int64_t k = 0; k < splits; k++)
        for (int i = 0; i < 3; i++) s[i] += epilogue_slot<A>(p, n, splits, k, i, c);
      all += s[0];
      all_noise += s[1];
      if (p.dd)
        static_cast<A*>(p.dd)[n * p.c + c] = epilogue_dd<A>(
            s[0], s[1], s[2], static_cast<const A*>(p.d)[n * p.c + c],
            p.strength ? *static_cast<const A*>(p.strength) : A(0), p.b ? static_cast<const A*>(p.b)[c] : A(0),
            A(p.gain));
    }
  all = warp_sum(all);
  all_noise = warp_sum(all_noise);
  if (c < p.c && threadIdx.x == 0) {
    if (p.db) static_cast<A*>(p.db)[c] = all * A(p.gain);
    static_cast<A*>(p.partial)[p.n * splits * 3 * p.c + c] = all_noise;
  }
}

template <class A>
__global__ void __launch_bounds__(256) epilogue_strength(EpilogueParams p, int splits) {
  __shared__ A scratch[32];
  A s = A(0);
  for (int64_t c = threadIdx.x; c < p.c; c += 256) s += static_cast<const A*>(p.partial)[p.n * splits * 3 * p.c + c];
  s = block_sum(s, scratch, int(threadIdx.x), 256);
  if (threadIdx.x == 0) *static_cast<A*>(p.dstrength) = s * A(p.gain);
}

#ifdef __CUDACC_RTC__
template __global__ void epilogue_forward<f16, 8, true>(EpilogueParams, unsigned, int64_t);
template __global__ void epilogue_forward<f16, 8, false>(EpilogueParams, unsigned, int64_t);
template __global__ void epilogue_planes<f16, 8>(EpilogueParams, int);
template __global__ void epilogue_pixels<f16, 8>(EpilogueParams, int);
template __global__ void epilogue_combine<float>(EpilogueParams, int);
template __global__ void epilogue_strength<float>(EpilogueParams, int);
#else

namespace {

int splits_of(const EpilogueParams& p) {
  // Channels last: strips of at least 64 pixels, so that combining stays small. Planes: pieces of 64 K elements.
  const int64_t s = p.channels_last ? p.hw / 64 : p.hw >> 16;
  return int(s < 1 ? 1 : s > 512 ? 512 : s);
}

template <class T, int V>
void run(const EpilogueParams& p, bool gradient, void* stream) {
  using A = acc_t<T>;
  if (!gradient) {
    const RowLaunch to(p.n, p.channels_last ? p.hw : p.c, (p.channels_last ? p.c : p.hw) / V);
    const auto kernel = p.channels_last ? epilogue_forward<T, V, true> : epilogue_forward<T, V, false>;
    return launch(kernel, to.grid, to.block, stream, p, to.column_blocks, to.group);
  }
  const int splits = splits_of(p);
  const dim3 warps(32, 8);
  if (p.channels_last) {
    const int64_t y = p.n * splits;
    launch(epilogue_pixels<T, V>, dim3(blocks_for(p.c, 32 * V), unsigned(y < 32768 ? y : 32768)), warps, stream, p,
           splits);
  } else {
    const dim3 block = p.hw / V >= 256 ? dim3(256) : warps;
    launch(epilogue_planes<T, V>, blocks_for(p.n * p.c * splits, block.y), block, stream, p, splits);
  }
  launch(epilogue_combine<A>, blocks_for(p.c, 8), warps, stream, p, splits);
  if (p.dstrength) launch(epilogue_strength<A>, 1, 256, stream, p, splits);
}

template <class T>
void run_vector(const EpilogueParams& p, bool gradient, void* stream) {
  constexpr int V = sizeof(T) == 8 ? 1 : kVec<T>;
  const bool whole = (p.channels_last ? p.c : p.hw) % V == 0;
  if (whole && aligned16(p.x) && aligned16(p.dy) && aligned16(p.out)) return run<T, V>(p, gradient, stream);
  run<T, 1>(p, gradient, stream);
}

}  // namespace

// Accumulate-type values of the gradient's workspace.
int64_t epilogue_partials(const EpilogueParams& p) { return (p.n * splits_of(p) * 3 + 1) * p.c; }

int epilogue_launch(const EpilogueParams& p, DType dtype, bool gradient, void* stream) {
  switch (dtype) {
    case DType::f32: run_vector<float>(p, gradient, stream); break;
    case DType::f64: run_vector<double>(p, gradient, stream); break;
    case DType::f16: run_vector<f16>(p, gradient, stream); break;
    case DType::bf16: run_vector<bf16>(p, gradient, stream); break;
  }
  return launch_status();
}
#endif

}  // namespace gt
