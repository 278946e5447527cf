// SPDX-License-Identifier: Apache-2.0
// Class-conditional batch norm on CUDA: statistics, application, and the two halves of the backward. Every sum has a
// fixed order. V channels per thread in channels last; planes are walked by blocks or warps.
#include "cond_bn.h"
#include "device.h"

namespace gt {

template <class A>
__device__ __forceinline__ A cond_bn_read(const void* q, int64_t i, A other) {
  return q ? static_cast<const A*>(q)[i] : other;
}

// Offset of an element of dy or y (`up` times as large) from one of x: its top left copy.
__device__ __forceinline__ int64_t cond_bn_large(const CondBnParams& p, int64_t n, int64_t c, int64_t pixel) {
  const int64_t y = quotient(pixel, p.w), x = pixel - y * p.w, w = int64_t(p.up) * p.w, h = int64_t(p.up) * p.h;
  return p.channels_last ? ((n * h + y * p.up) * w + x * p.up) * p.c + c : ((n * p.c + c) * h + y * p.up) * w + x * p.up;
}

// dy of V neighbours (channels last: channels; planes: V = 1 or no upsampling), summed over their copies.
template <class T, int V>
__device__ __forceinline__ void cond_bn_dy(const CondBnParams& p, int64_t e, int64_t n, int64_t c, int64_t pixel,
                                           acc_t<T>* dy) {
  const T* from = static_cast<const T*>(p.dy);
  Words<T, V> v;
  if (p.up == 1) {
    v.load(from + e);
#pragma unroll
    for (int j = 0; j < V; j++) dy[j] = v.value(j);
    return;
  }
  from += cond_bn_large(p, n, c, pixel);
  const int64_t dx = p.channels_last ? p.c : 1, row = int64_t(2) * p.w * dx;
#pragma unroll
  for (int j = 0; j < V; j++) dy[j] = acc_t<T>(0);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    v.load(from + (k & 1) * dx + (k >> 1) * row);
#pragma unroll
    for (int j = 0; j < V; j++) dy[j] += v.value(j);
  }
}

// What belongs to a channel of a sample.
template <class A>
struct CondBnChannel {
  A mean, r, gain, bias;
  __device__ __forceinline__ void read(const CondBnParams& p, int64_t n, int64_t c) {
    mean = cond_bn_read<A>(p.mean, c, A(0)), r = cond_bn_read<A>(p.invstd, c, A(1));
    gain = cond_bn_read<A>(p.gain, n * p.c + c, A(1)), bias = cond_bn_read<A>(p.bias, n * p.c + c, A(0));
  }
};

// Application and input gradient: element-wise over x. CHANNELS: channels last, the columns of RowWalk are channels; else
// they are pixels, and rows are channels.
template <class T, int V, bool DX, bool CHANNELS>
__global__ void __launch_bounds__(256, 3) cond_bn_flat(CondBnParams p, unsigned column_blocks, int64_t group) {
  using A = acc_t<T>;
  constexpr int K = CHANNELS ? V : 1;
  const int64_t hw = int64_t(p.h) * p.w, rows = CHANNELS ? hw : p.c, length = CHANNELS ? p.c : hw;
  const RowWalk walk(rows, V, column_blocks, group);
  const int64_t n = walk.sample;
  if (walk.column >= length || n >= p.n) return;
  CondBnChannel<A> channel[K];
  A s1[K], s2[K];
  const auto read = [&](int64_t c) {
#pragma unroll
    for (int k = 0; k < K; k++) {
      channel[k].read(p, n, c + k);
      s1[k] = DX ? cond_bn_read<A>(p.s1, c + k, A(0)) : A(0);
      s2[k] = DX ? cond_bn_read<A>(p.s2, c + k, A(0)) : A(0);
    }
  };
  if (CHANNELS) read(walk.column);
  int64_t e = (n * rows + walk.row) * length + walk.column;
#pragma unroll 2
  for (int64_t row = walk.row; row < walk.end; row += blockDim.y, e += length * blockDim.y) {
    if (!CHANNELS) read(row);
    const int64_t c = CHANNELS ? walk.column : row, pixel = CHANNELS ? row : walk.column;
    Words<T, V> in;
    in.load(static_cast<const T*>(p.x) + e);
    A dy[V], out[V];
    if (DX) cond_bn_dy<T, V>(p, e, n, c, pixel, dy);
#pragma unroll
    for (int j = 0; j < V; j++) {
      const CondBnChannel<A>& q = channel[CHANNELS ? j : 0];
      const A x = in.value(j);
      if (DX) {
        const A xh = (x - q.mean) * q.r, g = cond_bn_passed(xh, dy[j], q.gain, q.bias, p.relu);
        out[j] = cond_bn_dx(xh, g, q.gain, q.r, s1[CHANNELS ? j : 0], s2[CHANNELS ? j : 0]);
      } else {
        out[j] = cond_bn_value(x, q.mean, q.r, q.gain, q.bias, p.relu);
      }
    }
    T* y = static_cast<T*>(p.out);
    if (DX || p.up == 1) {
      narrow<T, V>(y + e, out);
      continue;
    }
    y += cond_bn_large(p, n, c, pixel);
    const int64_t dx = CHANNELS ? p.c : 1, line = int64_t(2) * p.w * dx;
#pragma unroll
    for (int k = 0; k < 4; k++) narrow<T, V>(y + (k & 1) * dx + (k >> 1) * line, out);
  }
}

// Two sums per channel of a piece: of dy and dy * xh (REDUCE), or of x - shift and its square, shift being the piece's
// first value, which is near enough the mean that nothing cancels. CHANNELS: the V neighbours are channels.
template <class T, int V, bool REDUCE, bool CHANNELS, class A>
__device__ __forceinline__ void cond_bn_add(const CondBnParams& p, int64_t e, int64_t n, int64_t c, int64_t pixel,
                                            const CondBnChannel<A>* channel, const A* shift, A* s0, A* s1) {
  Words<T, V> in;
  in.load(static_cast<const T*>(p.x) + e);
  A dy[V];
  if (REDUCE) cond_bn_dy<T, V>(p, e, n, c, pixel, dy);
#pragma unroll
  for (int j = 0; j < V; j++) {
    const int k = CHANNELS ? j : 0;
    const A x = in.value(j);
    if (REDUCE) {
      const A xh = (x - channel[k].mean) * channel[k].r;
      const A g = cond_bn_passed(xh, dy[j], channel[k].gain, channel[k].bias, p.relu);
      s0[k] += g;
      s1[k] += g * xh;
    } else {
      const A d = x - shift[k];
      s0[k] += d;
      s1[k] += d * d;
    }
  }
}

// partial[((n * splits + split) * 2 + k) * c + channel]: sums (REDUCE) or mean and m2 of the piece.
template <class A>
__device__ __forceinline__ A& cond_bn_slot(const CondBnParams& p, int64_t piece, int k, int64_t c) {
  return static_cast<A*>(p.partial)[(piece * 2 + k) * p.c + c];
}

template <class A, bool REDUCE>
__device__ __forceinline__ void cond_bn_put(const CondBnParams& p, int64_t piece, int64_t c, A count, A shift, A s0,
                                            A s1) {
  if (!REDUCE) {
    s1 = s1 - s0 * s0 / count;
    s1 = s1 < A(0) ? A(0) : s1;
    s0 = shift + s0 / count;
  }
  cond_bn_slot<A>(p, piece, 0, c) = s0;
  cond_bn_slot<A>(p, piece, 1, c) = s1;
}

template <class T, int V, bool REDUCE>
__global__ void __launch_bounds__(256, 3) cond_bn_planes(CondBnParams p, int splits) {
  using A = acc_t<T>;
  __shared__ A scratch[32];
  const int64_t hw = int64_t(p.h) * p.w, pieces = p.n * p.c * splits, len = ((hw / V - 1) / splits + 1) * V;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.y; first < pieces; first += int64_t(gridDim.x) * blockDim.y) {
    const int64_t piece = first + threadIdx.y, plane = quotient(piece, splits), n = quotient(plane, p.c);
    const int64_t c = plane - n * p.c, split = piece - plane * splits, start = split * len, end = start + len < hw ? start + len : hw;
    A s0 = A(0), s1 = A(0), shift = A(0);
    if (piece < pieces && start < end) {
      CondBnChannel<A> channel;
      if (REDUCE)
        channel.read(p, n, c);
      else
        shift = to_acc(static_cast<const T*>(p.x)[plane * hw + start]);
#pragma unroll 2
      for (int64_t i = start + int64_t(threadIdx.x) * V; i < end; i += int64_t(blockDim.x) * V)
        cond_bn_add<T, V, REDUCE, false, A>(p, plane * hw + i, n, c, i, &channel, &shift, &s0, &s1);
    }
    if (blockDim.y > 1) {
      s0 = warp_sum(s0);
      s1 = warp_sum(s1);
    } else {
      s0 = block_sum(s0, scratch, int(threadIdx.x), int(blockDim.x));
      s1 = block_sum(s1, scratch, int(threadIdx.x), int(blockDim.x));
    }
    if (threadIdx.x == 0 && piece < pieces && start < end)
      cond_bn_put<A, REDUCE>(p, n * splits + split, c, A(end - start), shift, s0, s1);
  }
}

template <class T, int V, bool REDUCE>
__global__ void __launch_bounds__(256, sizeof(T) == 8 ? 2 : 3) cond_bn_pixels(CondBnParams p, int splits) {
  using A = acc_t<T>;
  __shared__ A scratch[8][32 * V + 1];
  const int64_t hw = int64_t(p.h) * p.w, strip = (hw - 1) / splits + 1;
  const int64_t c = (int64_t(blockIdx.x) * 32 + threadIdx.x) * V;
  for (int64_t t = blockIdx.y; t < p.n * splits; t += gridDim.y) {
    const int64_t n = quotient(t, splits), start = (t - n * splits) * strip;
    const int64_t end = start + strip < hw ? start + strip : hw;
    CondBnChannel<A> channel[V];
    A s[2][V], shift[V], total[2] = {A(0), A(0)};
#pragma unroll
    for (int j = 0; j < V; j++) {
      s[0][j] = s[1][j] = A(0);
      shift[j] = !REDUCE && c < p.c && start < end ? to_acc(static_cast<const T*>(p.x)[(n * hw + start) * p.c + c + j])
                                                   : A(0);
      if (REDUCE && c < p.c) channel[j].read(p, n, c + j);
    }
    if (c < p.c)
#pragma unroll(REDUCE ? 1 : 2)
      for (int64_t i = start + threadIdx.y; i < end; i += 8)
        cond_bn_add<T, V, REDUCE, true, A>(p, (n * hw + i) * p.c + c, n, c, i, channel, shift, s[0], s[1]);
    const int flat = int(threadIdx.y) * 32 + int(threadIdx.x);
#pragma unroll
    for (int k = 0; k < 2; k++) {
#pragma unroll
      for (int j = 0; j < V; j++) scratch[threadIdx.y][threadIdx.x * V + j] = s[k][j];
      __syncthreads();
      if (flat < 32 * V)
        for (int r = 0; r < 8; r++) total[k] += scratch[r][flat];
      __syncthreads();
    }
    const int64_t column = int64_t(blockIdx.x) * 32 * V + flat;
    if (flat < 32 * V && column < p.c && start < end)
      cond_bn_put<A, REDUCE>(p, t, column, A(end - start),
                             REDUCE ? A(0) : to_acc(static_cast<const T*>(p.x)[(n * hw + start) * p.c + column]),
                             total[0], total[1]);
  }
}

// a[n, c], b[n, c] = the pieces' sums.
template <class A>
__global__ void __launch_bounds__(256, 3) cond_bn_combine_sums(CondBnParams p, int splits) {
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x, step = int64_t(gridDim.x) * 256;
  for (int64_t k = i; k < p.n * p.c; k += step) {
    A s0 = A(0), s1 = A(0);
    for (int q = 0; q < splits; q++) {
      s0 += cond_bn_slot<A>(p, k / p.c * splits + q, 0, k % p.c);
      s1 += cond_bn_slot<A>(p, k / p.c * splits + q, 1, k % p.c);
    }
    static_cast<A*>(p.a)[k] = s0;
    static_cast<A*>(p.b)[k] = s1;
  }
}

// mean[c], m2[c] = the pieces' statistics combined, a warp per channel, in double.
template <class A>
__global__ void __launch_bounds__(256, 3) cond_bn_combine_stats(CondBnParams p, int splits, int64_t len) {
  const int64_t c = int64_t(blockIdx.x) * 8 + threadIdx.y, hw = int64_t(p.h) * p.w;
  double n = 0, mean = 0, m2 = 0;
  if (c < p.c)
    for (int64_t piece = threadIdx.x; piece < p.n * splits; piece += 32) {
      const int64_t start = piece % splits * len, end = start + len < hw ? start + len : hw;
      if (start < end)
        chan<double>(n, mean, m2, double(end - start), double(cond_bn_slot<A>(p, piece, 0, c)),
                     double(cond_bn_slot<A>(p, piece, 1, c)));
    }
  for (int d = 16; d > 0; d >>= 1) {
    const double n2 = __shfl_down_sync(0xffffffffu, n, d), mean2 = __shfl_down_sync(0xffffffffu, mean, d);
    const double m22 = __shfl_down_sync(0xffffffffu, m2, d);
    if (int(threadIdx.x) + d < 32) chan<double>(n, mean, m2, n2, mean2, m22);
  }
  if (c < p.c && threadIdx.x == 0) {
    static_cast<A*>(p.a)[c] = A(mean);
    static_cast<A*>(p.b)[c] = A(m2);
  }
}

#ifdef __CUDACC_RTC__
template __global__ void cond_bn_flat<f16, 8, false, false>(CondBnParams, unsigned, int64_t);
template __global__ void cond_bn_flat<f16, 4, true, true>(CondBnParams, unsigned, int64_t);
template __global__ void cond_bn_planes<f16, 8, false>(CondBnParams, int);
template __global__ void cond_bn_pixels<f16, 4, true>(CondBnParams, int);
template __global__ void cond_bn_combine_sums<float>(CondBnParams, int);
template __global__ void cond_bn_combine_stats<float>(CondBnParams, int, int64_t);
#else

namespace {

int splits_of(const CondBnParams& p) {
  const int64_t hw = int64_t(p.h) * p.w, s = p.channels_last ? hw / 64 : hw >> 16;
  return int(s < 1 ? 1 : s > 512 ? 512 : s);
}

template <class T, int V, bool REDUCE, bool CHANNELS>
void sums(const CondBnParams& p, void* stream) {
  using A = acc_t<T>;
  const int splits = splits_of(p);
  const int64_t hw = int64_t(p.h) * p.w;
  const dim3 warps(32, 8);
  int64_t len;
  if constexpr (CHANNELS) {
    len = (hw - 1) / splits + 1;
    const int64_t y = p.n * splits;
    launch(cond_bn_pixels<T, V, REDUCE>, dim3(blocks_for(p.c, 32 * V), unsigned(y < 32768 ? y : 32768)), warps, stream,
           p, splits);
  } else {
    len = ((hw / V - 1) / splits + 1) * V;
    const dim3 block = hw / V >= 256 ? dim3(256) : warps;
    launch(cond_bn_planes<T, V, REDUCE>, blocks_for(p.n * p.c * splits, block.y), block, stream, p, splits);
  }
  if (REDUCE)
    launch(cond_bn_combine_sums<A>, blocks_for(p.n * p.c, 256), 256, stream, p, splits);
  else
    launch(cond_bn_combine_stats<A>, blocks_for(p.c, 8), warps, stream, p, splits, len);
}

template <class T, int V, bool DX, bool CHANNELS>
void flat(const CondBnParams& p, void* stream) {
  const int64_t hw = int64_t(p.h) * p.w;
  const RowLaunch to(p.n, CHANNELS ? hw : p.c, (CHANNELS ? p.c : hw) / V);
  launch(cond_bn_flat<T, V, DX, CHANNELS>, to.grid, to.block, stream, p, to.column_blocks, to.group);
}

template <class T, int V>
void run(const CondBnParams& p, CondBnJob job, void* stream) {
  // In channels last the gradient's kernels hold six values per channel: fewer channels for 16-bit types.
  constexpr int W = V > 4 ? 4 : V;
  const bool nhwc = p.channels_last;
  switch (job) {
    case kCondBnStats: return nhwc ? sums<T, V, false, true>(p, stream) : sums<T, V, false, false>(p, stream);
    case kCondBnReduce: return nhwc ? sums<T, W, true, true>(p, stream) : sums<T, V, true, false>(p, stream);
    case kCondBnApply: return nhwc ? flat<T, V, false, true>(p, stream) : flat<T, V, false, false>(p, stream);
    case kCondBnDx: return nhwc ? flat<T, W, true, true>(p, stream) : flat<T, V, true, false>(p, stream);
  }
}

template <class T>
void run_vector(const CondBnParams& p, CondBnJob job, void* stream) {
  constexpr int V = sizeof(T) == 8 ? 1 : kVec<T>;
  const bool whole = p.channels_last ? p.c % V == 0 : p.up == 1 && int64_t(p.h) * p.w % V == 0;
  if (whole && aligned16(p.x) && aligned16(p.dy) && aligned16(p.out)) return run<T, V>(p, job, stream);
  run<T, 1>(p, job, stream);
}

}  // namespace

// Accumulate-type values of the workspace.
int64_t cond_bn_partials(const CondBnParams& p, CondBnJob job) {
  return job == kCondBnStats || job == kCondBnReduce ? p.n * splits_of(p) * 2 * p.c : 0;
}

int cond_bn_launch(const CondBnParams& p, DType dtype, CondBnJob job, void* stream) {
  switch (dtype) {
    case DType::f32: run_vector<float>(p, job, stream); break;
    case DType::f64: run_vector<double>(p, job, stream); break;
    case DType::f16: run_vector<f16>(p, job, stream); break;
    case DType::bf16: run_vector<bf16>(p, job, stream); break;
  }
  return launch_status();
}
#endif

}  // namespace gt
