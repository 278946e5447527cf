// SPDX-License-Identifier: Apache-2.0
// bias_act on CUDA: an element-wise kernel, and gradient kernels that sum db on the way, in a fixed order.
#include "bias_act.h"
#include "device.h"

namespace gt {

// ACT 0 = run-time switch, for the activations that no network here uses in bulk.
template <int ACT, int ORDER, bool FROM_X, class A>
__device__ __forceinline__ A bias_act_apply(int act, A x, A b, A dy, A v, A alpha, A gain, A scale, A bound) {
  if (ACT == 0) return bias_act_any<ORDER, FROM_X, A>(act, x, b, dy, v, alpha, gain, scale, bound);
  return bias_act_element<ACT, ORDER, FROM_X, A>(x, b, dy, v, alpha, gain, scale, bound);
}

template <class T>
struct BiasActConstants {
  acc_t<T> alpha, gain, scale, bound;
  __device__ __forceinline__ BiasActConstants(const BiasActParams& p)
      : alpha(acc_t<T>(p.alpha)), gain(acc_t<T>(p.gain)), scale(p.gain == 0 ? acc_t<T>(0) : acc_t<T>(1 / p.gain)),
        bound(clamp_bound<T>(p.clamp)) {}
};

// V consecutive elements from `e` on; bias[j] belongs to element j. Returns the unrounded results.
template <class T, int ACT, int ORDER, bool FROM_X, int V>
__device__ __forceinline__ void bias_act_vector(const BiasActParams& p, int64_t e, const BiasActConstants<T>& k,
                                                const acc_t<T>* bias, acc_t<T>* result) {
  using A = acc_t<T>;
  Words<T, V> x{}, dy{}, v{};
  if (ORDER == 0 || p.x) x.load(static_cast<const T*>(p.x) + e);
  if (ORDER > 0) dy.load(static_cast<const T*>(p.dy) + e);
  if (ORDER > 1) v.load(static_cast<const T*>(p.v) + e);
#pragma unroll
  for (int j = 0; j < V; j++) {
    const A d = ORDER > 0 ? dy.value(j) : A(0);
    if (ORDER > 0 && !p.x)
      result[j] = d * k.gain;  // linear without clamp
    else if (ACT == kLrelu && ORDER == 0)
      result[j] = finish_value(A(x.value(j)) + bias[j], k.gain, k.gain * k.alpha, k.bound);
    else
      result[j] = bias_act_apply<ACT, ORDER, FROM_X, A>(p.act, x.value(j), bias[j], d, ORDER > 1 ? v.value(j) : A(0),
                                                        k.alpha, k.gain, k.scale, k.bound);
  }
  narrow<T, V>(static_cast<T*>(p.out) + e, result);
}

// Element-wise, no db. ROWS: [outer, channels, 1], the columns of RowWalk are channels; else they are positions in the
// planes of [outer, channels, inner], and rows are channels.
template <class T, int ACT, int ORDER, bool FROM_X, int V, bool ROWS>
__global__ void __launch_bounds__(256, 3) bias_act_flat(BiasActParams p, unsigned column_blocks, int64_t group) {
  using A = acc_t<T>;
  const int64_t rows = ROWS ? p.outer : p.channels, length = ROWS ? p.channels : p.inner;
  const RowWalk walk(rows, V, column_blocks, group);
  if (walk.column >= length || (!ROWS && walk.sample >= p.outer)) return;
  const BiasActConstants<T> k(p);
  const A* b = ORDER == 0 || FROM_X ? static_cast<const A*>(p.b) : nullptr;
  A bias[V], result[V];
#pragma unroll
  for (int j = 0; j < V; j++) bias[j] = ROWS && b ? b[walk.column + j] : A(0);
  int64_t e = (walk.sample * rows + walk.row) * length + walk.column;
#pragma unroll(ACT == 0 ? 1 : 4)
  for (int64_t row = walk.row; row < walk.end; row += blockDim.y, e += length * blockDim.y) {
    if (!ROWS) {
      const A value = b ? b[row] : A(0);
#pragma unroll
      for (int j = 0; j < V; j++) bias[j] = value;
    }
    bias_act_vector<T, ACT, ORDER, FROM_X, V>(p, e, k, bias, result);
  }
}

// [outer, channels, inner > 1] with db: `blockDim.x` threads share a piece of a plane, blockDim.y planes per block.
// partial[plane * splits + split].
template <class T, int ACT, int ORDER, bool FROM_X, int V>
__global__ void __launch_bounds__(256, 3) bias_act_planes(BiasActParams p, int splits) {
  using A = acc_t<T>;
  __shared__ A scratch[32];
  const int64_t pieces = p.outer * p.channels * splits;
  const int64_t len = ((p.inner / V - 1) / splits + 1) * V;
  const BiasActConstants<T> k(p);
  A bias[V], result[V];
  for (int64_t first = int64_t(blockIdx.x) * blockDim.y; first < pieces; first += int64_t(gridDim.x) * blockDim.y) {
    const int64_t piece = first + threadIdx.y, plane = quotient(piece, splits);
    A sum = A(0);
    if (piece < pieces) {
      const A b = FROM_X && p.b ? static_cast<const A*>(p.b)[plane - quotient(plane, p.channels) * p.channels] : A(0);
#pragma unroll
      for (int j = 0; j < V; j++) bias[j] = b;
      const int64_t start = (piece - plane * splits) * len, end = start + len < p.inner ? start + len : p.inner;
      for (int64_t i = start + int64_t(threadIdx.x) * V; i < end; i += int64_t(blockDim.x) * V) {
        bias_act_vector<T, ACT, ORDER, FROM_X, V>(p, plane * p.inner + i, k, bias, result);
#pragma unroll
        for (int j = 0; j < V; j++) sum += result[j];
      }
    }
    if (blockDim.y > 1) {  // a warp per plane
      sum = warp_sum(sum);
      if (threadIdx.x == 0 && piece < pieces) static_cast<A*>(p.partial)[piece] = sum;
    } else {
      sum = block_sum(sum, scratch, int(threadIdx.x), int(blockDim.x));
      if (threadIdx.x == 0) static_cast<A*>(p.partial)[piece] = sum;
    }
  }
}

// [outer, channels, 1] with db: a block has 32 channel vectors and 8 row lanes, and walks a strip of rows.
// partial[strip * channels + c].
template <class T, int ACT, int ORDER, bool FROM_X, int V>
__global__ void __launch_bounds__(256, 3) bias_act_rows(BiasActParams p, int64_t strip) {
  using A = acc_t<T>;
  __shared__ A scratch[8][32 * V + 1];
  const int64_t c = (int64_t(blockIdx.x) * 32 + threadIdx.x) * V;
  const int64_t strips = (p.outer - 1) / strip + 1;
  const BiasActConstants<T> k(p);
  for (int64_t s = blockIdx.y; s < strips; s += gridDim.y) {
    A bias[V], result[V], sum[V];
    const int64_t last = (s + 1) * strip < p.outer ? (s + 1) * strip : p.outer;
#pragma unroll
    for (int j = 0; j < V; j++) {
      sum[j] = A(0);
      bias[j] = FROM_X && p.b && c < p.channels ? static_cast<const A*>(p.b)[c + j] : A(0);
    }
    if (c < p.channels)
      for (int64_t r = s * strip + threadIdx.y; r < last; r += 8) {
        bias_act_vector<T, ACT, ORDER, FROM_X, V>(p, r * p.channels + c, k, bias, result);
#pragma unroll
        for (int j = 0; j < V; j++) sum[j] += result[j];
      }
#pragma unroll
    for (int j = 0; j < V; j++) scratch[threadIdx.y][threadIdx.x * V + j] = sum[j];
    __syncthreads();
    for (int i = int(threadIdx.y) * 32 + int(threadIdx.x); i < 32 * V; i += 256) {
      const int64_t column = int64_t(blockIdx.x) * 32 * V + i;
      A t = A(0);
      for (int r = 0; r < 8; r++) t += scratch[r][i];
      if (column < p.channels) static_cast<A*>(p.partial)[s * p.channels + column] = t;
    }
    __syncthreads();
  }
}

// db[c] = sum over o < outer, k < inner of partial[(o * channels + c) * inner + k]; a warp per channel.
template <class A>
__global__ void __launch_bounds__(256, 3) bias_act_combine(const A* partial, A* db, int64_t outer, int64_t channels,
                                                        int64_t inner) {
  const int64_t c = int64_t(blockIdx.x) * 8 + threadIdx.y;
  A s = A(0);
  if (c < channels)
    for (int64_t i = threadIdx.x; i < outer * inner; i += 32)
      s += partial[((i / inner) * channels + c) * inner + i % inner];
  s = warp_sum(s);
  if (c < channels && threadIdx.x == 0) db[c] = s;
}

#ifdef __CUDACC_RTC__
template __global__ void bias_act_flat<float, kLrelu, 0, false, 4, true>(BiasActParams, unsigned, int64_t);
template __global__ void bias_act_flat<f16, 0, 2, true, 1, false>(BiasActParams, unsigned, int64_t);
template __global__ void bias_act_planes<f16, kLrelu, 1, false, 8>(BiasActParams, int);
template __global__ void bias_act_rows<bf16, kLrelu, 1, false, 8>(BiasActParams, int64_t);
template __global__ void bias_act_combine<float>(const float*, float*, int64_t, int64_t, int64_t);
#else

namespace {

constexpr int64_t kStrip = 64;  // rows per block

int64_t plane_splits(const BiasActParams& p) { return p.inner >= (1 << 17) ? (p.inner >> 16) : 1; }
int64_t strip_rows(const BiasActParams& p) {
  int64_t strip = kStrip;  // at most about 4096 strips, so that combining stays cheap
  while ((p.outer - 1) / strip + 1 > 4096) strip *= 2;
  return strip;
}

template <class T, int ACT, int ORDER, bool FROM_X, int V>
void run(const BiasActParams& p, void* stream) {
  using A = acc_t<T>;
  if (!p.db) {
    BiasActParams q = p;
    if (ORDER > 0 && !FROM_X && p.inner > 1) q.outer *= p.channels, q.channels = p.inner, q.inner = 1;  // no bias: one kernel for both
    const bool rows = q.inner == 1;
    const RowLaunch to(rows ? 1 : q.outer, rows ? q.outer : q.channels, (rows ? q.channels : q.inner) / V);
    auto kernel = bias_act_flat<T, ACT, ORDER, FROM_X, V, true>;
    if constexpr (ORDER == 0 || FROM_X)
      if (!rows) kernel = bias_act_flat<T, ACT, ORDER, FROM_X, V, false>;
    return launch(kernel, to.grid, to.block, stream, q, to.column_blocks, to.group);
  }
  if constexpr (ORDER > 0) {
    const A* partial = static_cast<const A*>(p.partial);
    const dim3 combine(blocks_for(p.channels, 8)), warps(32, 8);
    if (p.inner == 1) {
      const int64_t strip = strip_rows(p), strips = (p.outer - 1) / strip + 1;
      launch(bias_act_rows<T, ACT, ORDER, FROM_X, V>, dim3(blocks_for(p.channels, 32 * V), unsigned(strips)), warps,
             stream, p, strip);
      launch(bias_act_combine<A>, combine, warps, stream, partial, static_cast<A*>(p.db), strips, p.channels,
             int64_t(1));
    } else {
      const int64_t splits = plane_splits(p);
      const dim3 block = p.inner / V >= 256 ? dim3(256) : dim3(32, 8);
      launch(bias_act_planes<T, ACT, ORDER, FROM_X, V>, blocks_for(p.outer * p.channels * splits, block.y), block,
             stream, p, int(splits));
      launch(bias_act_combine<A>, combine, warps, stream, partial, static_cast<A*>(p.db), p.outer, p.channels, splits);
    }
  }
}

// Where whole vectors fit, each activation that is used in bulk has a kernel of its own. All the rest runs one with a
// switch, whose nine cases are compiled for every element of a vector: four at most.
template <class T, int ACT, int ORDER, bool FROM_X>
void run_vector(const BiasActParams& p, void* stream) {
  constexpr int V = sizeof(T) == 8 ? 1 : ACT == 0 ? 4 : kVec<T>;
  const bool whole = (p.inner == 1 ? p.channels : p.inner) % V == 0;
  if (whole && aligned16(p.x) && aligned16(p.dy) && aligned16(p.v) && aligned16(p.out))
    return run<T, ACT, ORDER, FROM_X, V>(p, stream);
  if constexpr (ACT != 0) return run_vector<T, 0, ORDER, FROM_X>(p, stream);
  else run<T, 0, ORDER, FROM_X, 1>(p, stream);
}

template <class T, int ACT>
void run_order(const BiasActParams& p, void* stream) {
  if (p.order == 0) return run_vector<T, ACT, 0, false>(p, stream);
  if (p.from_x)
    return p.order == 1 ? run_vector<T, 0, 1, true>(p, stream) : run_vector<T, 0, 2, true>(p, stream);
  return p.order == 1 ? run_vector<T, ACT, 1, false>(p, stream) : run_vector<T, 0, 2, false>(p, stream);
}

template <class T>
void run_act(const BiasActParams& p, void* stream) {
  if constexpr (sizeof(T) < 8) {
    switch (p.act) {
      case kLinear: {  // of whole vectors the same as a slope of one, without kernels of its own
        BiasActParams q = p;
        if (p.order < 2) q.act = kLrelu, q.alpha = 1;
        return run_order<T, kLrelu>(q, stream);
      }
      case kRelu: return run_order<T, kRelu>(p, stream);
      case kLrelu: return run_order<T, kLrelu>(p, stream);
      default: break;
    }
  }
  run_order<T, 0>(p, stream);
}

}  // namespace

// Number of accumulate-type values that the workspace of db needs.
int64_t bias_act_partials(const BiasActParams& p, DType) {
  if (p.inner == 1) return ((p.outer - 1) / strip_rows(p) + 1) * p.channels;
  return p.outer * p.channels * plane_splits(p);
}

int bias_act_launch(const BiasActParams& p, DType dtype, void* stream) {
  switch (dtype) {
    case DType::f32: run_act<float>(p, stream); break;
    case DType::f64: run_act<double>(p, stream); break;
    case DType::f16: run_act<f16>(p, stream); break;
    case DType::bf16: run_act<bf16>(p, stream); break;
  }
  return launch_status();
}
#endif

}  // namespace gt
