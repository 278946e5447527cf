// SPDX-License-Identifier: Apache-2.0
// The 4x4-tap filters on CUDA, up or down by 1 or 2: a thread owns a few neighbouring outputs of a row (planes) or a few
// channels of one or two columns (channels last) and marches down a strip of rows. Every input row is filtered across
// once, into registers; the rows that the vertical taps see stay there. No shared memory, no barrier, no division inside
// the march. What is done to a result before it is stored is a parameter (`After`): upfirdn2d.cu, blur_epilogue.cu.
#pragma once
#include "device.h"
#include "upfirdn2d.h"

namespace gt {

constexpr int kMarch = 128;  // threads of a block

// The taps as the correlation sees them, gain included, in registers of every thread. A 2-D filter of rank one is found
// here, by each warp for itself, so that no tap crosses to the host.
struct MarchTaps {
  float column[4], row[4];
  bool separable;
};

__device__ __forceinline__ float lane_value(float v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }

__device__ __forceinline__ MarchTaps march_taps(const UpfirdnParams& p, int lane) {
  MarchTaps t;
  t.separable = true;
  if (p.separable) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float v = p.f[upfirdn_tap(k, 4, p.flip)];
      t.column[k] = v * float(p.gain);
      t.row[k] = v;
    }
    return t;
  }
  // Lane a * 4 + b holds tap (a, b); lanes 16..31 repeat.
  const int a = lane >> 2 & 3, b = lane & 3;
  const float v = p.f[upfirdn_tap(a, 4, p.flip) * 4 + upfirdn_tap(b, 4, p.flip)];
  float peak = v;
  int at = lane & 15;
#pragma unroll
  for (int d = 8; d > 0; d >>= 1) {  // every lane finds the same largest tap: ties go to the first
    const float other = lane_value(peak, lane ^ d);
    const int where = __shfl_sync(0xffffffffu, at, lane ^ d);
    if (abs_(other) > abs_(peak) || (abs_(other) == abs_(peak) && where < at)) peak = other, at = where;
  }
  const float scale = peak == 0 ? 0.f : 1 / peak;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    t.column[k] = lane_value(v, k * 4 + (at & 3));
    t.row[k] = lane_value(v, (at & 12) + k) * scale;
  }
  const float mine = lane_value(v, (lane & 12) + (at & 3)) * (lane_value(v, (at & 12) + b) * scale);
  float wrong = abs_(v - mine) <= 3e-7f * abs_(peak) ? 0.f : 1.f;
#pragma unroll
  for (int d = 8; d > 0; d >>= 1) wrong += lane_value(wrong, lane ^ d);
  t.separable = wrong == 0;
#pragma unroll
  for (int k = 0; k < 4; k++) t.column[k] *= float(p.gain);
  return t;
}

// Sample, channel, row and column of element e of the output.
__device__ __forceinline__ void split_index(const UpfirdnParams& p, int64_t e, int64_t& n, int64_t& c, int& y, int& x) {
  if (p.channels_last) {
    c = e % p.c;
    e /= p.c;
    x = int(e % p.wo);
    e /= p.wo;
    y = int(e % p.ho);
    n = e / p.ho;
  } else {
    x = int(e % p.wo);
    e /= p.wo;
    y = int(e % p.ho);
    e /= p.ho;
    c = e % p.c;
    n = e / p.c;
  }
}

// First input row that the vertical taps of output rows from `first` on see.
template <int UP, int DOWN>
__device__ __forceinline__ int march_top(const UpfirdnParams& p, int first) {
  return UP == 2 ? ceil_div(first - p.py, 2) : first * DOWN - p.py;
}

// Output rows [first, last) of a strip. `line.next(raw)` reads what the thread sees of one input row after the other,
// from march_top on (zeros outside the image), `line.filter(raw, taps, h)` makes W horizontally filtered values of it;
// `emit(v)` takes the results of one output row after the other. BATCH rows are loaded before the first is needed.
template <int UP, int DOWN, int W, int BATCH, class Line, class Emit>
__device__ __forceinline__ void march(const UpfirdnParams& p, const MarchTaps& t, int first, int last, Line& line,
                                      Emit& emit) {
  if constexpr (UP == 1) {
    // Sums of the outputs whose taps are not complete: sum[0] is the next to be.
    float sum[DOWN == 1 ? 3 : 2][W];
#pragma unroll
    for (int j = 0; j < W; j++) sum[0][j] = sum[1][j] = sum[DOWN == 1 ? 2 : 0][j] = 0;
    const int rows = (last - 1 - first) * DOWN + 4;
    constexpr int STEP = BATCH > DOWN ? BATCH : DOWN;
#pragma unroll 1
    for (int r = 0; r < rows; r += STEP) {
#pragma unroll
      for (int batch = 0; batch < STEP; batch += BATCH) {
        typename Line::Raw raw[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) line.next(raw[i]);
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
          float h[W], v[W];
          line.filter(raw[i], t, h);
          const bool even = (batch + i) % 2 == 0;
#pragma unroll
          for (int j = 0; j < W; j++) {
            if (DOWN == 2 && even) {
              sum[0][j] += t.column[2] * h[j];
              sum[1][j] = t.column[0] * h[j];
              continue;
            }
            v[j] = sum[0][j] + t.column[3] * h[j];
            if constexpr (DOWN == 2) {
              sum[0][j] = sum[1][j] + t.column[1] * h[j];
            } else {
              sum[0][j] = sum[1][j] + t.column[2] * h[j];
              sum[1][j] = sum[2][j] + t.column[1] * h[j];
              sum[2][j] = t.column[0] * h[j];
            }
          }
          const int row = r + batch + i;
          if ((DOWN == 1 || !even) && row >= 3 && row < rows) emit(v);
        }
      }
    }
  } else {
    // Input rows q and q + 1 make output rows py + 2q - 1 (taps 1, 3) and py + 2q (taps 0, 2).
    float seen[2][W];
    const int q0 = march_top<2, 1>(p, first), rows = floor_div(last - p.py, 2) - q0 + 2;
#pragma unroll 1
    for (int r = 0; r < rows; r += 2) {
      typename Line::Raw raw[2];
#pragma unroll
      for (int k = 0; k < 2; k++) line.next(raw[k]);
#pragma unroll
      for (int k = 0; k < 2; k++) {
        line.filter(raw[k], t, seen[k]);
        if (r + k == 0) continue;
        const int oy = p.py + 2 * (q0 + r + k - 1) - 1;
        float v[W];
        if (oy >= first && oy < last) {
#pragma unroll
          for (int j = 0; j < W; j++) v[j] = t.column[1] * seen[1 - k][j] + t.column[3] * seen[k][j];
          emit(v);
        }
        if (oy + 1 >= first && oy + 1 < last) {
#pragma unroll
          for (int j = 0; j < W; j++) v[j] = t.column[0] * seen[1 - k][j] + t.column[2] * seen[k][j];
          emit(v);
        }
      }
    }
  }
}

// Results as they are. `At` is what a thread keeps for its V neighbours: channels from c on at pixel i of sample n, or
// (CHANNELS = false) pixels from i on of channel c. `apply` changes the results of pixel i + k (CHANNELS), or of pixels
// i, .., i + V - 1: all of them, aligned (WHOLE), or those with begin <= j < end. `down` goes `pixels` further.
struct KeepValues {
  static constexpr int kRows = 2;  // that vector forms load at once
  template <int V, bool CHANNELS>
  struct At {
    __device__ __forceinline__ At(const KeepValues&, int64_t, int64_t, int64_t) {}
    __device__ __forceinline__ void down(int) {}
    template <bool WHOLE>
    __device__ __forceinline__ void apply(float*, int, int, int) const {}
  };
};

// ---- planes --------------------------------------------------------------------------------------------------------

// What a thread of the planes kernel owns. WHOLE: V outputs from column x0 = a multiple of V on, whose inputs start at
// an aligned address; needs the usual padding PX (blur 1 or 2, up2 2, down2 1), rows of whole vectors and aligned
// pointers. Otherwise two outputs, element by element, any padding.
template <class T, int UP, int DOWN, int PX, bool WHOLE>
struct PlaneShape {
  static constexpr int V = !WHOLE ? 2 : DOWN == 2 ? kVec<T> / 2 : kVec<T>;
  static constexpr int BODY = V * DOWN / UP;
  static constexpr int LEFT = !WHOLE ? 0 : UP == 1 ? PX : 1, RIGHT = !WHOLE ? 0 : UP == 1 ? 4 - DOWN - PX : 1;
  static constexpr int WIN = WHOLE ? LEFT + BODY + RIGHT : UP == 2 ? 2 : DOWN * (V - 1) + 4;  // inputs seen
  static_assert(!WHOLE || UP == 1 || PX == 2, "the vector form of up2 has padding 2");
};

template <class T, int UP, int DOWN, int PX, bool WHOLE>
struct PlaneLine {
  using S = PlaneShape<T, UP, DOWN, PX, WHOLE>;
  struct Raw {
    Words<T, WHOLE ? S::BODY : 1> body;
    Words<T, WHOLE ? S::LEFT : 1> left;
    Words<T, WHOLE ? S::RIGHT : 1> right;
    Words<T, 1> each[WHOLE ? 1 : S::WIN];
  };
  const T* at;  // this thread's columns of the next row
  int y, h, w;
  unsigned inside;  // bit i: piece i (body, left, right) or pixel i is in the image

  __device__ __forceinline__ PlaneLine(const T* x, int top, int h, int w, int column)
      : at(x + int64_t(top) * w + column), y(top), h(h), w(w), inside(0) {
    if constexpr (WHOLE) {  // column is a multiple of BODY and so is w: a piece is inside or outside
      inside = (column < w) | (column > 0 && column <= w) << 1 | (column + S::BODY < w) << 2;
    } else {
#pragma unroll
      for (int i = 0; i < S::WIN; i++) inside |= unsigned(column + i >= 0 && column + i < w) << i;
    }
  }

  __device__ __forceinline__ void next(Raw& raw) {
    const unsigned here = y >= 0 && y < h ? inside : 0;
    raw = Raw{};
    if constexpr (WHOLE) {
      if (here & 1) raw.body.load(at);
      if (here & 2) raw.left.load(at - S::LEFT);
      if (here & 4) raw.right.load(at + S::BODY);
    } else {
#pragma unroll
      for (int i = 0; i < S::WIN; i++)
        if (here >> i & 1) raw.each[i].load(at + i);
    }
    at += w;
    y++;
  }

  __device__ __forceinline__ void filter(const Raw& raw, const MarchTaps& t, float* h_out) const {
    float in[S::WIN];
#pragma unroll
    for (int i = 0; i < S::WIN; i++) {
      if constexpr (!WHOLE)
        in[i] = raw.each[i].value(0);
      else
        in[i] = i < S::LEFT ? raw.left.value(i) : i < S::LEFT + S::BODY ? raw.body.value(i - S::LEFT)
                                                                       : raw.right.value(i - S::LEFT - S::BODY);
    }
#pragma unroll
    for (int j = 0; j < S::V; j++) {
      if constexpr (UP == 1) {
        const float* s = in + j * DOWN;
        h_out[j] = t.row[0] * s[0] + t.row[1] * s[1] + t.row[2] * s[2] + t.row[3] * s[3];
      } else {
        // WHOLE: x0 is even, as is the padding, so that even outputs have taps 0 and 2. Otherwise see `march`.
        const int odd = WHOLE ? j % 2 : 1 - j, at = WHOLE ? (j + 1) / 2 : 0;
        h_out[j] = t.row[odd] * in[at] + t.row[odd + 2] * in[at + 1];
      }
    }
  }
};

// Output (oy, ox) of a channel tap by tap, for filters that are not of rank one. `x`: the channel's first pixel; `step`:
// distance of neighbours. Rolled up, so that the march beside it keeps its registers.
template <class T, int UP, int DOWN>
__device__ __forceinline__ float march_pixel(const UpfirdnParams& p, const T* x, int64_t step, int oy, int ox) {
  float sum = 0;
#pragma unroll 1
  for (int k = 0; k < 16; k++) {
    int iy = oy * DOWN - p.py + (k >> 2), ix = ox * DOWN - p.px + (k & 3);
    if (UP == 2 && ((iy | ix) & 1)) continue;
    iy = UP == 2 ? iy >> 1 : iy;
    ix = UP == 2 ? ix >> 1 : ix;
    if (iy >= 0 && iy < p.h && ix >= 0 && ix < p.w)
      sum += p.f[p.flip ? k : 15 - k] * to_acc(x[(int64_t(iy) * p.w + ix) * step]);
  }
  return sum * float(p.gain);
}

// What blockIdx.y and .z count together.
__device__ __forceinline__ int64_t march_block() { return int64_t(blockIdx.z) * gridDim.y + blockIdx.y; }

// blockDim: threads along a row, planes. blockIdx.x: strip and piece of a row; march_block(): planes.
template <class T, int UP, int DOWN, int PX, bool WHOLE, class After>
__global__ void __launch_bounds__(kMarch, 6) march_planes(UpfirdnParams p, After after, int strip) {
  using S = PlaneShape<T, UP, DOWN, PX, WHOLE>;
  const MarchTaps taps = march_taps(p, int(threadIdx.y * blockDim.x + threadIdx.x) & 31);
  const unsigned strips = unsigned(p.ho - 1) / unsigned(strip) + 1;
  const int first = int(blockIdx.x % strips) * strip, last = first + strip < p.ho ? first + strip : p.ho;
  const int piece = int(blockIdx.x / strips * blockDim.x + threadIdx.x);
  // First output and first input column. In pairs, up2 starts where both outputs see the same two inputs.
  const int pair = ceil_div(-p.px, 2) + piece;
  const int x0 = UP == 2 && !WHOLE ? p.px + 2 * pair - 1 : piece * S::V;
  const int column = WHOLE ? piece * S::BODY : UP == 2 ? pair : x0 * DOWN - p.px;
  const int64_t planes = p.n * p.c, plane = march_block() * blockDim.y + threadIdx.y;
  if (x0 >= p.wo || plane >= planes) return;
  const T* x = static_cast<const T*>(p.x) + plane * p.h * p.w;
  T* y = static_cast<T*>(p.y) + plane * p.ho * p.wo + x0;
  const bool narrow_index = planes < int64_t(0xffffffff);  // 32-bit divisions are several times cheaper
  const int64_t n = narrow_index ? int64_t(uint32_t(plane) / uint32_t(p.c)) : plane / p.c;
  if (!taps.separable) {
#pragma unroll 1
    for (int j = x0 < 0 ? -x0 : 0; j < S::V && x0 + j < p.wo; j++) {
      typename After::template At<1, true> at(after, n, plane - n * p.c, int64_t(first) * p.wo + x0 + j);
#pragma unroll 1
      for (int oy = first; oy < last; oy++) {
        float v = march_pixel<T, UP, DOWN>(p, x, 1, oy, x0 + j);
        at.template apply<true>(&v, 0, 0, 1);
        at.down(p.wo);
        y[int64_t(oy) * p.wo + j] = Convert<T>::from(v);
      }
    }
    return;
  }
  const int top = march_top<UP, DOWN>(p, first);
  PlaneLine<T, UP, DOWN, PX, WHOLE> line(x, top, p.h, p.w, column);
  typename After::template At<S::V, false> at(after, n, plane - n * p.c, int64_t(first) * p.wo + x0);
  y += int64_t(first) * p.wo;
  auto emit = [&](float* v) {
    at.template apply<WHOLE>(v, 0, -x0, p.wo - x0);
    at.down(p.wo);
    if constexpr (WHOLE) {
      narrow<T, S::V>(y, v);
    } else {
#pragma unroll
      for (int j = 0; j < S::V; j++)
        if (x0 + j >= 0 && x0 + j < p.wo) y[j] = Convert<T>::from(v[j]);
    }
    y += p.wo;
  };
  march<UP, DOWN, S::V, WHOLE && sizeof(T) == 2 ? After::kRows : 4>(p, taps, first, last, line, emit);
}

// ---- channels last -------------------------------------------------------------------------------------------------

// V channels of two output columns; up2 makes both from the same two inputs.
template <class T, int UP, int DOWN, int V>
struct PixelLine {
  static constexpr int WIN = UP == 2 ? 2 : DOWN + 4;
  struct Raw {
    Words<T, V> pixel[WIN];
  };
  const T* at;    // this thread's channels in its first column of the next row
  int64_t pitch;  // elements of a row
  int c, y, h;
  unsigned inside;  // bit i: column i is in the image

  __device__ __forceinline__ PixelLine(const T* x, const UpfirdnParams& p, int top, int column)
      : pitch(p.w * p.c), c(int(p.c)), y(top), h(p.h), inside(0) {
    at = x + top * pitch + column * p.c;
#pragma unroll
    for (int i = 0; i < WIN; i++) inside |= unsigned(column + i >= 0 && column + i < p.w) << i;
  }

  __device__ __forceinline__ void next(Raw& raw) {
    const unsigned here = y >= 0 && y < h ? inside : 0;
    raw = Raw{};
#pragma unroll
    for (int i = 0; i < WIN; i++)
      if (here >> i & 1) raw.pixel[i].load(at + int64_t(i) * c);
    at += pitch;
    y++;
  }

  __device__ __forceinline__ void filter(const Raw& raw, const MarchTaps& t, float* h_out) const {
    float in[WIN][V];
#pragma unroll
    for (int i = 0; i < WIN; i++)
#pragma unroll
      for (int j = 0; j < V; j++) in[i][j] = raw.pixel[i].value(j);
#pragma unroll
    for (int j = 0; j < V; j++) {
#pragma unroll
      for (int k = 0; k < 2; k++) {
        if constexpr (UP == 1) {
          const int s = k * DOWN;
          h_out[k * V + j] = t.row[0] * in[s][j] + t.row[1] * in[s + 1][j] + t.row[2] * in[s + 2][j] +
                             t.row[3] * in[s + 3][j];
        } else {
          h_out[k * V + j] = t.row[1 - k] * in[0][j] + t.row[3 - k] * in[1][j];
        }
      }
    }
  }
};

// blockDim: channel vectors, pairs of columns. blockIdx.x: strip, channels and pairs; march_block(): samples.
template <class T, int UP, int DOWN, int V, class After>
__global__ void __launch_bounds__(kMarch, 6) march_pixels(UpfirdnParams p, After after, int strip) {
  const MarchTaps taps = march_taps(p, int(threadIdx.y * blockDim.x + threadIdx.x) & 31);
  const unsigned strips = unsigned(p.ho - 1) / unsigned(strip) + 1;
  const unsigned slabs = unsigned((p.c / V - 1) / blockDim.x + 1);
  const unsigned slab = blockIdx.x % slabs, rest = blockIdx.x / slabs;
  const int first = int(rest % strips) * strip, last = first + strip < p.ho ? first + strip : p.ho;
  const int64_t c = (int64_t(slab) * blockDim.x + threadIdx.x) * V;
  const int pair = int(rest / strips * blockDim.y + threadIdx.y) + (UP == 2 ? ceil_div(-p.px, 2) : 0);
  const int x0 = UP == 2 ? p.px + 2 * pair - 1 : 2 * pair, column = UP == 2 ? pair : x0 * DOWN - p.px;
  const int64_t n = march_block();
  if (x0 >= p.wo || c >= p.c || n >= p.n) return;
  const T* x = static_cast<const T*>(p.x) + n * p.h * p.w * p.c + c;
  T* y = static_cast<T*>(p.y) + (n * p.ho * p.wo + x0) * p.c + c;
  if (!taps.separable) {
#pragma unroll 1
    for (int k = 0; k < 2 * V; k++) {
      const int j = k % V, ox = x0 + k / V;
      if (ox < 0 || ox >= p.wo) continue;
      typename After::template At<1, true> at(after, n, c + j, int64_t(first) * p.wo + ox);
#pragma unroll 1
      for (int oy = first; oy < last; oy++) {
        float v = march_pixel<T, UP, DOWN>(p, x + j, p.c, oy, ox);
        at.template apply<true>(&v, 0, 0, 1);
        at.down(p.wo);
        y[(int64_t(oy) * p.wo + k / V) * p.c + j] = Convert<T>::from(v);
      }
    }
    return;
  }
  const int top = march_top<UP, DOWN>(p, first);
  PixelLine<T, UP, DOWN, V> line(x, p, top, column);
  typename After::template At<V, true> at(after, n, c, int64_t(first) * p.wo + x0);
  const int64_t out_pitch = p.wo * p.c;
  y += first * out_pitch;
  auto emit = [&](float* v) {
#pragma unroll
    for (int k = 0; k < 2; k++) {
      if (k ? x0 + 1 >= p.wo : UP == 2 && x0 < 0) continue;
      at.template apply<true>(v + k * V, k, 0, 1);
      narrow<T, V>(y + k * int(p.c), v + k * V);
    }
    at.down(p.wo);
    y += out_pitch;
  };
  march<UP, DOWN, 2 * V, DOWN == 2 ? 1 : After::kRows>(p, taps, first, last, line, emit);
}

// ---- launches ------------------------------------------------------------------------------------------------------

#ifndef __CUDACC_RTC__
inline bool march_serves(const UpfirdnParams& p) {
  return p.fh == 4 && p.fw == 4 && p.upx == p.upy && p.downx == p.downy && p.upx <= 2 && p.downx <= 2 &&
         (p.upx == 1 || p.downx == 1) && p.c < (int64_t(1) << 28);
}

// The largest power of two up to kMarch that leaves at most an eighth of the lanes without one of `count` items.
inline unsigned march_width(int64_t count) {
  unsigned best = 1;
  for (unsigned w = 2; w <= kMarch; w *= 2)
    if (((count - 1) / w * w + w - count) * 8 <= count) best = w;
  return best;
}

// x blocks for each of `groups`, which may be more than one dimension of a grid holds.
inline dim3 march_grid(unsigned x, int64_t groups) {
  const int64_t z = (groups - 1) / 65535 + 1;
  return dim3(x, unsigned((groups - 1) / z + 1), unsigned(z));
}

// Rows of a strip: long ones read few rows twice, short ones keep every multiprocessor busy.
inline int march_strip(const UpfirdnParams& p, int64_t threads_per_row) {
  int strip = 32;
  while (strip > 4 && threads_per_row * ((p.ho - 1) / strip + 1) < (1 << 19)) strip /= 2;
  return strip;
}

template <class T, int UP, int DOWN, int PX, bool WHOLE, class After>
void march_planes_launch(const UpfirdnParams& p, const After& after, void* stream) {
  constexpr int V = PlaneShape<T, UP, DOWN, PX, WHOLE>::V;
  const int64_t planes = p.n * p.c;
  const int pieces = UP == 2 && !WHOLE ? floor_div(p.wo - p.px, 2) - ceil_div(-p.px, 2) + 1 : (p.wo - 1) / V + 1;
  const unsigned width = march_width(pieces), height = kMarch / width;
  const int strip = march_strip(p, pieces * planes);
  const int64_t groups = (planes - 1) / height + 1;
  launch(march_planes<T, UP, DOWN, PX, WHOLE, After>,
         march_grid(((pieces - 1) / width + 1) * unsigned((p.ho - 1) / strip + 1), groups), dim3(width, height), stream,
         p, after, strip);
}

// `noise`: another array that the vector form reads, or null.
template <class T, int UP, int DOWN, int PX, class After>
bool march_planes_whole(const UpfirdnParams& p, const After& after, const void* noise, void* stream) {
  using S = PlaneShape<T, UP, DOWN, PX, true>;
  if (p.px != PX || p.wo % S::V || p.w % S::BODY || !aligned16(p.x) || !aligned16(p.y) || !aligned16(noise)) return false;
  march_planes_launch<T, UP, DOWN, PX, true>(p, after, stream);
  return true;
}

template <class T, int UP, int DOWN, int V, class After>
void march_pixels_launch(const UpfirdnParams& p, const After& after, void* stream) {
  const int64_t vectors = p.c / V;
  const int pairs = UP == 2 ? floor_div(p.wo - p.px, 2) - ceil_div(-p.px, 2) + 1 : (p.wo - 1) / 2 + 1;
  const unsigned width = march_width(vectors), height = kMarch / width;
  const int strip = march_strip(p, vectors * pairs * p.n);
  const int64_t blocks = ((vectors - 1) / width + 1) * ((pairs - 1) / height + 1) * ((p.ho - 1) / strip + 1);
  launch(march_pixels<T, UP, DOWN, V, After>, march_grid(unsigned(blocks), p.n), dim3(width, height), stream, p, after,
         strip);
}

// Runs any case of march_serves.
template <class T, int UP, int DOWN, class After>
void march_launch(const UpfirdnParams& p, const After& after, const void* noise, void* stream) {
  if (p.channels_last) {
    constexpr int V = 8 / int(sizeof(T));
    const bool whole = p.c % V == 0 && aligned16(p.x) && aligned16(p.y);
    return whole ? march_pixels_launch<T, UP, DOWN, V>(p, after, stream)
                 : march_pixels_launch<T, UP, DOWN, 1>(p, after, stream);
  }
  if constexpr (UP == 1 && DOWN == 1)
    if (march_planes_whole<T, UP, DOWN, 1>(p, after, noise, stream)) return;
  if (march_planes_whole<T, UP, DOWN, DOWN == 2 ? 1 : 2>(p, after, noise, stream)) return;
  march_planes_launch<T, UP, DOWN, 0, false>(p, after, stream);
}
#endif

}  // namespace gt
