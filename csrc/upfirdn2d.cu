// SPDX-License-Identifier: Apache-2.0
// upfirdn2d on CUDA: marching kernels for 4 taps (march.h), a tiled one for up to 12 taps, and a generic one (one thread
// per output). The first two serve up, down in {1, 2} (never both 2) and find out by themselves whether a
// 2-D filter has rank one, so no tap ever crosses to the host.
#include "march.h"

namespace gt {

constexpr int kMaxTaps = 12;

// The filter in shared memory, as the correlation sees it, gain included: column x row when it has rank one.
struct SharedFilter {
  float column[kMaxTaps], row[kMaxTaps], all[kMaxTaps * kMaxTaps];
  int peak;  // where the largest tap is
  int broken;  // not of rank one
};

// By 256 threads.
__device__ __forceinline__ void read_filter(const UpfirdnParams& p, SharedFilter& s, int thread) {
  const int a = thread / p.fw, b = thread - a * p.fw;
  if (thread == 0) s.broken = 0, s.peak = 0;
  if (p.separable) {
    if (thread < p.fh) s.column[thread] = p.f[upfirdn_tap(thread, p.fh, p.flip)] * float(p.gain);
    if (thread < p.fw) s.row[thread] = p.f[upfirdn_tap(thread, p.fw, p.flip)];
    __syncthreads();
    return;
  }
  if (a < p.fh) s.all[thread] = p.f[upfirdn_tap(a, p.fh, p.flip) * p.fw + upfirdn_tap(b, p.fw, p.flip)];
  __syncthreads();
  if (thread < 32) {
    float peak = -1;
    int at = 0;
    for (int i = thread; i < p.fh * p.fw; i += 32)
      if (abs_(s.all[i]) > peak) peak = abs_(s.all[i]), at = i;
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
      const float other = __shfl_down_sync(0xffffffffu, peak, d);
      const int where = __shfl_down_sync(0xffffffffu, at, d);
      if (thread + d < 32 && (other > peak || (other == peak && where < at))) peak = other, at = where;
    }
    if (thread == 0) s.peak = at;
  }
  __syncthreads();
  const int a0 = s.peak / p.fw, b0 = s.peak - a0 * p.fw;
  const float peak = s.all[s.peak];
  if (a < p.fh) {
    const float column = s.all[a * p.fw + b0], row = peak == 0 ? 0.f : s.all[a0 * p.fw + b] / peak;
    if (!(abs_(s.all[thread] - column * row) <= 3e-7f * abs_(peak))) s.broken = 1;  // all who write, write the same
    if (b == 0) s.column[a] = column * float(p.gain);
    if (a == 0) s.row[b] = row;
  }
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(256, 3) upfirdn2d_generic(UpfirdnParams p) {
  const int64_t total = p.n * p.c * p.ho * p.wo, step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t e = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; e < total; e += step) {
    int64_t n, c;
    int y, x;
    split_index(p, e, n, c, y, x);
    static_cast<T*>(p.y)[e] = Convert<T>::from(upfirdn_pixel<T>(p, n, c, y, x));
  }
}

// Four outputs in a row (or column: `pitch` from input to input). `in`: the first input that output 0 sees, whose tap is
// number SKIP.
template <int UP, int DOWN, int SKIP>
__device__ __forceinline__ void tile_four(const float* in, int pitch, const float* taps, int count, float* out) {
  constexpr int WIN = (3 * DOWN + kMaxTaps - 1) / UP + 1;
  float seen[WIN];
#pragma unroll
  for (int i = 0; i < WIN; i++) seen[i] = in[i * pitch];
#pragma unroll
  for (int j = 0; j < 4; j++) out[j] = 0;
#pragma unroll
  for (int k = 0; k < kMaxTaps; k++) {
    if (k >= count) continue;
    const float tap = taps[k];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      // In the zero-inserted image, counted from `in`: the output's tap 0 is at j * DOWN - SKIP.
      const int at = j * DOWN - SKIP + k;
      if (at % UP == 0 && at >= 0) out[j] += tap * seen[at / UP];
    }
  }
}

template <int UP, int DOWN>
__device__ __forceinline__ void tile_four(int skip, const float* in, int pitch, const float* taps, int count, float* out) {
  if (UP == 1 || skip == 0)
    tile_four<UP, DOWN, 0>(in, pitch, taps, count, out);
  else
    tile_four<UP, DOWN, UP - 1>(in, pitch, taps, count, out);
}

// A block makes OH x OW outputs of a channel: input tile to shared memory (float, zeros outside), vertical taps to a
// second array, horizontal taps to the output; a thread makes four neighbours at a time.
template <class T, int UP, int DOWN, int OH, int OW>
__global__ void __launch_bounds__(256, 3) upfirdn2d_tile(UpfirdnParams p) {
  constexpr int IH = (OH * DOWN + kMaxTaps - DOWN) / UP + 2, IW = (OW * DOWN + kMaxTaps - DOWN) / UP + 2, PITCH = IW | 1;
  __shared__ float in[IH * PITCH];
  __shared__ float mid[OH * PITCH];
  __shared__ SharedFilter filter;
  const int thread = int(threadIdx.x);
  read_filter(p, filter, thread);
  const int64_t tiles_x = (p.wo - 1) / OW + 1, tiles_y = (p.ho - 1) / OH + 1, total = p.n * p.c * tiles_x * tiles_y;
  const int64_t step = p.channels_last ? p.c : 1;  // from column to column
  for (int64_t tile = blockIdx.x; tile < total; tile += gridDim.x) {
    const int64_t row = quotient(tile, tiles_x), plane = quotient(row, tiles_y), n = quotient(plane, p.c);
    const int ox0 = int(tile - row * tiles_x) * OW, oy0 = int(row - plane * tiles_y) * OH;
    const T* x = static_cast<const T*>(p.x) + upfirdn_offset(p, n, plane - n * p.c, 0, 0, p.h, p.w);
    T* y = static_cast<T*>(p.y) + upfirdn_offset(p, n, plane - n * p.c, 0, 0, p.ho, p.wo);
    if (filter.broken) {  // rare: by the definition
#pragma unroll 1
      for (int i = thread; i < OH * OW; i += 256) {
        const int ox = ox0 + i % OW, oy = oy0 + i / OW;
        if (ox < p.wo && oy < p.ho)
          y[(int64_t(oy) * p.wo + ox) * step] = Convert<T>::from(upfirdn_pixel<T>(p, n, plane - n * p.c, oy, ox));
      }
      continue;
    }
    // First input pixel that tap 0 of the tile's first output can see, and the number of its tap.
    const int top = oy0 * DOWN - p.py, left = ox0 * DOWN - p.px;
    const int iy0 = ceil_div(top, UP), ix0 = ceil_div(left, UP), skip_y = iy0 * UP - top, skip_x = ix0 * UP - left;
#pragma unroll 2
    for (int i = thread; i < IH * IW; i += 256) {
      const int ix = ix0 + i % IW, iy = iy0 + i / IW;
      float v = 0;
      if (iy >= 0 && iy < p.h && ix >= 0 && ix < p.w) v = to_acc(x[(int64_t(iy) * p.w + ix) * step]);
      in[i / IW * PITCH + i % IW] = v;
    }
    __syncthreads();
#pragma unroll 1
    for (int i = thread; i < OH / 4 * IW; i += 256) {
      const int column = i % IW, four = i / IW * 4;
      float v[4];
      tile_four<UP, DOWN>(skip_y, in + four * DOWN / UP * PITCH + column, PITCH, filter.column, p.fh, v);
#pragma unroll
      for (int j = 0; j < 4; j++) mid[(four + j) * PITCH + column] = v[j];
    }
    __syncthreads();
#pragma unroll 1
    for (int i = thread; i < OH * OW / 4; i += 256) {
      const int four = i % (OW / 4) * 4, line = i / (OW / 4);
      float v[4];
      tile_four<UP, DOWN>(skip_x, mid + line * PITCH + four * DOWN / UP, 1, filter.row, p.fw, v);
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (oy0 + line < p.ho && ox0 + four + j < p.wo)
          y[(int64_t(oy0 + line) * p.wo + ox0 + four + j) * step] = Convert<T>::from(v[j]);
    }
    __syncthreads();
  }
}

#ifdef __CUDACC_RTC__
template __global__ void upfirdn2d_generic<f16>(UpfirdnParams);
template __global__ void upfirdn2d_tile<f16, 2, 1, 32, 32>(UpfirdnParams);
template __global__ void upfirdn2d_tile<float, 1, 2, 16, 32>(UpfirdnParams);
template __global__ void march_planes<f16, 2, 1, 2, true, KeepValues>(UpfirdnParams, KeepValues, int);
template __global__ void march_planes<float, 1, 2, 0, false, KeepValues>(UpfirdnParams, KeepValues, int);
template __global__ void march_pixels<bf16, 1, 1, 4, KeepValues>(UpfirdnParams, KeepValues, int);
#else

namespace {

template <class T, int UP, int DOWN>
bool fast(const UpfirdnParams& p, void* stream) {
  if (march_serves(p)) return march_launch<T, UP, DOWN>(p, KeepValues{}, nullptr, stream), true;
  if (p.fh > kMaxTaps || p.fw > kMaxTaps) return false;
  constexpr int OH = DOWN == 2 ? 16 : 32, OW = 32;
  const int64_t tiles = int64_t((p.ho - 1) / OH + 1) * ((p.wo - 1) / OW + 1) * p.n * p.c;
  launch(upfirdn2d_tile<T, UP, DOWN, OH, OW>, blocks_for(tiles, 1), 256, stream, p);
  return true;
}

template <class T>
void run(const UpfirdnParams& p, void* stream) {
  bool done = false;
  if constexpr (sizeof(T) < 8) {
    if (p.upx == 1 && p.upy == 1 && p.downx == 1 && p.downy == 1) done = fast<T, 1, 1>(p, stream);
    if (p.upx == 2 && p.upy == 2 && p.downx == 1 && p.downy == 1) done = fast<T, 2, 1>(p, stream);
    if (p.upx == 1 && p.upy == 1 && p.downx == 2 && p.downy == 2) done = fast<T, 1, 2>(p, stream);
  }
  if (!done)
    launch(upfirdn2d_generic<T>, blocks_for(p.n * p.c * p.ho * p.wo, 256), 256, stream, p);
}

}  // namespace

int upfirdn2d_launch(const UpfirdnParams& p, DType dtype, void* stream) {
  switch (dtype) {
    case DType::f32: run<float>(p, stream); break;
    case DType::f64: run<double>(p, stream); break;
    case DType::f16: run<f16>(p, stream); break;
    case DType::bf16: run<bf16>(p, stream); break;
  }
  return launch_status();
}
#endif

}  // namespace gt
