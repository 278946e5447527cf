// SPDX-License-Identifier: Apache-2.0
// upfirdn2d on CUDA: marching kernels for 4 taps (march.h), a tiled one for planes and up to 12 taps, and a generic one
// (one thread per output). The first two serve up, down in {1, 2} (never both 2) and find out by themselves whether a
// 2-D filter has rank one, so no tap ever crosses to the host.
#include "march.h"

namespace gt {

constexpr int kMaxTaps = 12;

// The filter in shared memory, as the correlation sees it, gain included: column x row when it has rank one.
struct SharedFilter {
  float column[kMaxTaps], row[kMaxTaps];
  bool separable;
};

__device__ __forceinline__ void read_filter(const UpfirdnParams& p, SharedFilter& s, int thread) {
  if (thread == 0) {
    bool one = true;
    if (p.separable) {
#pragma unroll 1
      for (int a = 0; a < p.fh; a++) s.column[a] = p.f[upfirdn_tap(a, p.fh, p.flip)] * float(p.gain);
#pragma unroll 1
      for (int b = 0; b < p.fw; b++) s.row[b] = p.f[upfirdn_tap(b, p.fw, p.flip)];
    } else {
      float peak = 0;
      int a0 = 0, b0 = 0;
#pragma unroll 1
      for (int a = 0; a < p.fh; a++)
#pragma unroll 1
        for (int b = 0; b < p.fw; b++) {
          const float v = p.f[upfirdn_tap(a, p.fh, p.flip) * p.fw + upfirdn_tap(b, p.fw, p.flip)];
          if (abs_(v) > abs_(peak)) peak = v, a0 = a, b0 = b;
        }
#pragma unroll 1
      for (int a = 0; a < p.fh; a++)
        s.column[a] = p.f[upfirdn_tap(a, p.fh, p.flip) * p.fw + upfirdn_tap(b0, p.fw, p.flip)];
#pragma unroll 1
      for (int b = 0; b < p.fw; b++)
        s.row[b] = peak == 0 ? 0 : p.f[upfirdn_tap(a0, p.fh, p.flip) * p.fw + upfirdn_tap(b, p.fw, p.flip)] / peak;
#pragma unroll 1
      for (int a = 0; a < p.fh; a++)
#pragma unroll 1
        for (int b = 0; b < p.fw; b++) {
          const float v = p.f[upfirdn_tap(a, p.fh, p.flip) * p.fw + upfirdn_tap(b, p.fw, p.flip)];
          if (!(abs_(v - s.column[a] * s.row[b]) <= 3e-7f * abs_(peak))) one = false;
        }
#pragma unroll 1
      for (int a = 0; a < p.fh; a++) s.column[a] *= float(p.gain);
    }
    s.separable = one;
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

// NCHW. A block makes an OH x OW tile of PL planes: input tile to shared memory (float, zeros outside), vertical taps
// to a second array, horizontal taps to the output. TAPS: compile-time bound and stride of the unrolled loops.
template <class T, int UP, int DOWN, int TAPS, int OH, int OW, int PL>
__global__ void __launch_bounds__(256, 3) upfirdn2d_planes(UpfirdnParams p) {
  constexpr int IH = (OH * DOWN + TAPS - DOWN) / UP + 1, IW = (OW * DOWN + TAPS - DOWN) / UP + 1, PITCH = IW | 1;
  __shared__ float in[PL][IH * PITCH];
  __shared__ float mid[PL][OH * PITCH];
  __shared__ SharedFilter filter;
  const int thread = int(threadIdx.x);
  read_filter(p, filter, thread);
  const int tiles_x = (p.wo - 1) / OW + 1, tiles_y = (p.ho - 1) / OH + 1;
  const int64_t planes = p.n * p.c, groups = (planes - 1) / PL + 1, total = groups * tiles_x * tiles_y;
  for (int64_t tile = blockIdx.x; tile < total; tile += gridDim.x) {
    const int ox0 = int(tile % tiles_x) * OW, oy0 = int(tile / tiles_x % tiles_y) * OH;
    const int64_t plane0 = tile / tiles_x / tiles_y * PL;
    if (!filter.separable) {  // rare: by the definition
#pragma unroll 1
      for (int i = thread; i < PL * OH * OW; i += 256) {
        const int x = ox0 + i % OW, y = oy0 + i / OW % OH;
        const int64_t plane = plane0 + i / OW / OH;
        if (plane < planes && x < p.wo && y < p.ho)
          static_cast<T*>(p.y)[(plane * p.ho + y) * p.wo + x] =
              Convert<T>::from(upfirdn_pixel<T>(p, plane / p.c, plane % p.c, y, x));
      }
      continue;
    }
    // First input pixel that tap 0 of the tile's first output can see.
    const int top = oy0 * DOWN - p.py, left = ox0 * DOWN - p.px;
    const int iy0 = ceil_div(top, UP), ix0 = ceil_div(left, UP);
#pragma unroll 2
    for (int i = thread; i < PL * IH * IW; i += 256) {
      const int x = i % IW, y = i / IW % IH, k = i / IW / IH, iy = iy0 + y, ix = ix0 + x;
      float v = 0;
      if (plane0 + k < planes && iy >= 0 && iy < p.h && ix >= 0 && ix < p.w)
        v = to_acc(static_cast<const T*>(p.x)[((plane0 + k) * p.h + iy) * p.w + ix]);
      in[k][y * PITCH + x] = v;
    }
    __syncthreads();
#pragma unroll 1
    for (int i = thread; i < PL * OH * IW; i += 256) {
      const int x = i % IW, y = i / IW % OH, k = i / IW / OH;
      const int position = (oy0 + y) * DOWN - p.py;  // of tap 0, in the zero-inserted image
      const int first = ceil_div(position, UP), skip = first * UP - position;
      float s = 0;
#pragma unroll
      for (int a = 0; a < (TAPS + UP - 1) / UP; a++)
        if (skip + a * UP < p.fh) s += filter.column[skip + a * UP] * in[k][(first - iy0 + a) * PITCH + x];
      mid[k][y * PITCH + x] = s;
    }
    __syncthreads();
#pragma unroll 1
    for (int i = thread; i < PL * OH * OW; i += 256) {
      const int x = i % OW, y = i / OW % OH, k = i / OW / OH;
      if (plane0 + k >= planes || ox0 + x >= p.wo || oy0 + y >= p.ho) continue;
      const int position = (ox0 + x) * DOWN - p.px;
      const int first = ceil_div(position, UP), skip = first * UP - position;
      float s = 0;
#pragma unroll
      for (int b = 0; b < (TAPS + UP - 1) / UP; b++)
        if (skip + b * UP < p.fw) s += filter.row[skip + b * UP] * mid[k][y * PITCH + first - ix0 + b];
      static_cast<T*>(p.y)[((plane0 + k) * p.ho + oy0 + y) * p.wo + ox0 + x] = Convert<T>::from(s);
    }
    __syncthreads();
  }
}

#ifdef __CUDACC_RTC__
template __global__ void upfirdn2d_generic<f16>(UpfirdnParams);
template __global__ void upfirdn2d_planes<f16, 2, 1, 12, 32, 32, 1>(UpfirdnParams);
template __global__ void upfirdn2d_planes<float, 1, 2, 12, 16, 32, 1>(UpfirdnParams);
template __global__ void march_planes<f16, 2, 1, 2, true, KeepValues>(UpfirdnParams, KeepValues, int);
template __global__ void march_planes<float, 1, 2, 0, false, KeepValues>(UpfirdnParams, KeepValues, int);
template __global__ void march_pixels<bf16, 1, 1, 4, KeepValues>(UpfirdnParams, KeepValues, int);
#else

namespace {

template <class T, int UP, int DOWN>
bool fast(const UpfirdnParams& p, void* stream) {
  if (march_serves(p)) return march_launch<T, UP, DOWN>(p, KeepValues{}, nullptr, stream), true;
  if (p.channels_last || p.fh > kMaxTaps || p.fw > kMaxTaps) return false;
  constexpr int OH = DOWN == 2 ? 16 : 32, OW = 32;
  const int64_t tiles = int64_t((p.ho - 1) / OH + 1) * ((p.wo - 1) / OW + 1) * p.n * p.c;
  launch(upfirdn2d_planes<T, UP, DOWN, kMaxTaps, OH, OW, 1>, blocks_for(tiles, 1), 256, stream, p);
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
