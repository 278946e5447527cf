// SPDX-License-Identifier: Apache-2.0
// The FIR filters that networks use, on the CPU: separable, 4 or 12 taps, up or down by 1 or 2, float32 and bfloat16.
// The vertical taps read the input's own rows; the horizontal taps follow from registers (usual paddings, 4-tap filters
// that are symmetric) or from a row buffer with zero margins. No zero insertion, no padded copy, no image in between.
// A blur hands its results to a `Sink` before they are stored.
#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include "vec.h"

namespace gt::fir {

using namespace gt::vec;

// One axis. Output m * UP + s takes the inputs m * DOWN + base[s] + t, t < K / UP, with weight[s][t].
template <int K, int UP>
struct Taps {
  static constexpr int kTaps = K / UP;
  float weight[UP][kTaps];
  int base[UP];

  Taps(const float* k, int pad) {
    for (int s = 0; s < UP; s++) {
      const int first = UP == 1 ? 0 : (pad + s) & 1;  // the first tap that does not meet an inserted zero
      base[s] = (s - pad + first) / UP;               // exact
      for (int t = 0; t < kTaps; t++) weight[s][t] = k[first + t * UP];
    }
  }

  // Whether each phase of an image sees the pixel after those of the phase before it.
  bool staggered() const { return UP == 1 || base[UP - 1] == base[0] + 1; }
  bool symmetric() const {
    for (int t = 0; t < kTaps; t++)
      if (weight[0][t] != weight[0][kTaps - 1 - t]) return false;
    return true;
  }
};

// Results as they are. A sink's `run(y, oy, ox, c)` changes P vectors of a blur's results before they are stored: pixels
// from (oy, ox) on of plane k, or channels from c on of pixel (oy, ox) of sample n; oy may be past the last row.
struct NoSink {
  struct Done {
    template <class T, int P>
    GT_INLINE void run(Vec*, int, int, int64_t = 0) const {}
  };
  template <class T>
  Done plane(int64_t /* k */) const { return {}; }
  template <class T>
  Done image(int64_t /* n */) const { return {}; }
};

template <int K, class W>
GT_INLINE Vec splat_sum(const Vec* v, const W* w) {
  Vec s = v[0] * w[0];
#pragma GCC unroll 12
  for (int k = 1; k < K; k++) s += v[k] * w[k];
  return s;
}

// out[i] = sum_k weight[k] * in[k][i]
template <int K, class S, class O>
GT_INLINE void row(const S* const* in, const float* weight, O* out, int64_t len) {
  const S* q[K];
  float w[K];
  for (int k = 0; k < K; k++) q[k] = in[k], w[k] = weight[k];
  cover(
      len,
      [&](int64_t i) {
        Vec v[K];
#pragma GCC unroll 12
        for (int k = 0; k < K; k++) v[k] = load(q[k] + i);
        store(out + i, splat_sum<K>(v, w));
      },
      [&](int64_t i) {
        float s = w[0] * to_acc(q[0][i]);
        for (int k = 1; k < K; k++) s += w[k] * to_acc(q[k][i]);
        out[i] = Convert<O>::from(s);
      });
}

struct Image {
  const void* x;
  void* y;
  int64_t n, c;
  int h, w, ho, wo;
};

// The horizontal pass of one row of `size`-element pixels: `in` points at pixel 0, with enough margin.
template <int K, int UP, int DOWN, class O>
GT_INLINE void across(const Taps<K, UP>& taps, const float* in, O* __restrict out, int wo, int64_t size) {
  constexpr int T = Taps<K, UP>::kTaps;
  const float* at[UP][T];
  for (int s = 0; s < UP; s++)
    for (int t = 0; t < T; t++) at[s][t] = in + (taps.base[s] + t) * size;
  auto one = [&](int s, int64_t i) {
    float v = taps.weight[s][0] * at[s][0][i];
    for (int t = 1; t < T; t++) v += taps.weight[s][t] * at[s][t][i];
    return v;
  };
  if (UP == 1 && DOWN == 1) return row<T>(at[0], taps.weight[0], out, wo * size);
  if (size == 3 && DOWN == 2) {  // RGB: five pixels are a vector
    for (int ox = 0; ox < wo; ox += 5) {
      Vec v[T];
#pragma GCC unroll 12
      for (int t = 0; t < T; t++) {
        const float* q = at[0][t] + 6 * ox;
        v[t] = GT_SHUFFLE(load(q), load(q + kLanes), 0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20, 24, 25, 26, 31);
      }
      store_part(out + 3 * ox, splat_sum<T>(v, taps.weight[0]), 3 * std::min(5, wo - ox));
    }
    return;
  }
  if (size == 3) {
    for (int m = 0; 2 * m < wo; m += 5) {
      Vec a[T], b[T];
#pragma GCC unroll 12
      for (int t = 0; t < T; t++) a[t] = load(at[0][t] + 3 * m), b[t] = load(at[UP - 1][t] + 3 * m);
      const Vec even = splat_sum<T>(a, taps.weight[0]), odd = splat_sum<T>(b, taps.weight[UP - 1]);
      const int n = 3 * std::min(10, wo - 2 * m);
      O* to = out + 6 * m;
      store_part(to, GT_SHUFFLE(even, odd, 0, 1, 2, 16, 17, 18, 3, 4, 5, 19, 20, 21, 6, 7, 8, 22), n);
      if (n > kLanes)
        store_part(to + kLanes, GT_SHUFFLE(even, odd, 23, 24, 9, 10, 11, 25, 26, 27, 12, 13, 14, 28, 29, 30, 31, 31),
                   n - kLanes);
    }
    return;
  }
  if (size < kLanes) {  // other small numbers of channels: pixel by pixel
    for (int ox = 0; ox < wo; ox++) {
      const int s = UP == 1 ? 0 : ox & 1;
      const int64_t from = int64_t(UP == 1 ? ox : ox >> 1) * DOWN * size;
      for (int c = 0; c < int(size); c++) out[ox * size + c] = Convert<O>::from(one(s, from + c));
    }
    return;
  }
  for (int ox = 0; ox < wo; ox++) {
    const int s = UP == 1 ? 0 : ox & 1, m = UP == 1 ? ox : ox >> 1;
    const float* q[T];
    for (int t = 0; t < T; t++) q[t] = at[s][t] + int64_t(m) * DOWN * size;
    row<T>(q, taps.weight[s], out + int64_t(ox) * size, size);
  }
}

template <class T, int K, int UP, int DOWN>
struct Filter2d {
  const Image& p;
  Taps<K, UP> vertical, horizontal;
  static constexpr int kTaps = K / UP;
  static constexpr bool kMirror = kTaps == 4;  // `lanes` and `pixels` are for symmetric filters
  bool mirrored;    // both axes symmetric; then the outer horizontal weight is 1, and its value in the vertical ones
  int left, right;  // margins of the row buffer, in pixels

  Filter2d(const Image& p, const float* column, const float* line, int px, int py)
      : p(p), vertical(column, py), horizontal(line, px) {
    mirrored = kMirror && vertical.symmetric() && horizontal.symmetric() && horizontal.weight[0][0] != 0;
    if (mirrored) {
      const float outer = horizontal.weight[0][0];
      for (int t = 0; t < kTaps; t++) vertical.weight[0][t] *= outer, horizontal.weight[0][t] /= outer;
    }
    left = right = 0;
    for (int s = 0; s < UP; s++) {
      left = std::max(left, -horizontal.base[s]);
      right = std::max(right, (p.wo - 1) / UP * DOWN + horizontal.base[s] + kTaps - p.w);
    }
  }

  // The first input row that output row oy sees, inside the image or not.
  int first_row(int oy) const { return oy / UP * DOWN + vertical.base[UP == 1 ? 0 : oy % UP]; }

  // Row oy's vertical sums into `to`; rows outside the image are `zeros`.
  template <class S>
  GT_INLINE void down(const S* x, int64_t pitch, int oy, const S* zeros, float* to, int64_t len) const {
    const int s = UP == 1 ? 0 : oy % UP, first = first_row(oy);
    const S* in[kTaps];
    for (int t = 0; t < kTaps; t++) in[t] = first + t >= 0 && first + t < p.h ? x + (first + t) * pitch : zeros;
    row<kTaps>(in, vertical.weight[s], to, len);
  }

  // Whether `lanes` serves this case.
  bool regular() const {
    if (!vertical.staggered() || !horizontal.staggered()) return false;
    if (K != 4) return true;
    if (UP == 2) return horizontal.base[0] == -1;
    return mirrored && (horizontal.base[0] == -1 || (DOWN == 1 && horizontal.base[0] == -2));
  }

  // Planes: vertical sums of a few output rows stay in registers, and the horizontal taps see them shifted by lanes.
  // Every input is loaded once per band of rows, and there is no buffer.
  template <class Chunks, class Sink = NoSink>
  void lanes(const Chunks& for_chunks, const Sink& sink = {}) const {
    constexpr bool kHalf = sizeof(T) == 2;
    if constexpr (K != 4) {
      bands<UP == 2 || DOWN == 2 ? 2 : 4, 0, DOWN == 2 ? 2 : 1>(for_chunks, sink);  // float32 only
    } else if constexpr (UP == 2) {
      bands<2, 1, 1>(for_chunks, sink);
    } else if constexpr (DOWN == 2) {
      bands<2, 1, 2>(for_chunks, sink);
    } else if (kHalf && p.wo > kLanes) {
      horizontal.base[0] == -1 ? bands<2, 1, 2>(for_chunks, sink) : bands<2, 2, 2>(for_chunks, sink);
    } else {
      horizontal.base[0] == -1 ? bands<4, 1, 1>(for_chunks, sink) : bands<4, 2, 1>(for_chunks, sink);
    }
  }

  // R: rows of a band. PX: pixels left of an output that its first tap sees; 0: any number, by loading from there. P:
  // vectors of a run of pixels.
  template <int R, int PX, int P, class Chunks, class Sink>
  void bands(const Chunks& for_chunks, const Sink& sink) const {
    constexpr int S = UP == 1 ? DOWN : 1, N = kTaps + (R - 1) * S;
    const int64_t plane = int64_t(p.h) * p.w;
    for_chunks(p.n * p.c, std::max<int64_t>(1, (1 << 15) / (int64_t(p.ho) * p.wo)), [&](int64_t first, int64_t last) {
      const std::vector<T> zeros(p.w, Convert<T>::from(0.f));
      std::vector<T> spare(p.ho % R ? p.wo : 0);  // takes the rows after the last
      for (int64_t k = first; k < last; k++) {
        const T* x = static_cast<const T*>(p.x) + k * plane;
        T* y = static_cast<T*>(p.y) + k * p.ho * p.wo;
        const auto done = sink.template plane<T>(k);
        for (int oy = 0; oy < p.ho; oy += R) {
          const int top = first_row(oy);
          const T* in[N];
          T* out[R];
          for (int i = 0; i < N; i++) in[i] = top + i >= 0 && top + i < p.h ? x + int64_t(top + i) * p.w : zeros.data();
          for (int r = 0; r < R; r++) out[r] = oy + r < p.ho ? y + int64_t(oy + r) * p.wo : spare.data();
          if (DOWN == 2 && PX == 1 && p.w == kLanes && p.wo == kLanes / 2 && oy + 1 < p.ho)
            narrow<R>(in, out[0]);
          else
            band<R, PX, P>(in, out, oy, done);
        }
      }
    });
  }

  // Vertical sums of a run of pixels for every row of a band. get(i): the run in row i.
  template <int R, int P, class Get>
  static GT_INLINE void columns(const Taps<K, UP>& column, Vec (*to)[P], const Get& get) {
    constexpr int S = UP == 1 ? DOWN : 1, N = kTaps + (R - 1) * S;
    Vec v[P][N], w[UP][kTaps];
    if constexpr (!kMirror) hold(column, w);
#pragma GCC unroll 18
    for (int i = 0; i < N; i++) {
      const auto value = get(i);
#pragma GCC unroll 2
      for (int q = 0; q < P; q++) {
        Vec one;
        if constexpr (P == 1) one = value;
        else one = value.v[q];
        if constexpr (kMirror) {
          GT_HOLD(one);
          v[q][i] = one;
        } else {
#pragma GCC unroll 4
          for (int r = 0; r < R; r++) {
            const int t = i - r * S;
            if (t == 0) to[r][q] = one * w[r % UP][0];
            else if (t > 0 && t < kTaps) to[r][q] += one * w[r % UP][t];
          }
        }
      }
    }
    if constexpr (kMirror)
#pragma GCC unroll 4
      for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int q = 0; q < P; q++)
          to[r][q] = (v[q][r * S] + v[q][r * S + 3]) * column.weight[0][0] +
                     (v[q][r * S + 1] + v[q][r * S + 2]) * column.weight[0][1];
  }

  template <int R, int PX, int P, class Done>
  GT_INLINE void band(const T* const* in, T* const* out, int oy, const Done& done) const {
    constexpr int L = P * kLanes, W = L * UP / DOWN;  // a run's pixels and outputs
    const int w = p.w, wo = p.wo, shift = PX ? 0 : horizontal.base[0];
    const Taps<K, UP> column = vertical, line = horizontal;  // in registers: not what a store could change
    auto sums = [&](int at, Vec (*to)[P]) __attribute__((always_inline)) {
      GT_RELOAD(in);
      at += shift;
      const Part part = {std::min(L, std::max(0, -at)), std::max(0, std::min(L, w - at))};
      columns<R, P>(column, to, [&](int i) __attribute__((always_inline)) {
        if constexpr (P == 1) return load_part(in[i] + at, part);
        else return load_pair_part(in[i] + at, part);
      });
      if constexpr (DOWN == 2)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
          const Pair s = split(in[0], Pair{to[r][0], to[r][P - 1]});
          to[r][0] = s.v[0], to[r][P - 1] = s.v[1];
        }
    };
    Vec a[R][P] = {}, b[R][P], c[R][P];
    sums(0, b);
    for (int at = 0, o = 0; o < wo; at += L, o += W) {
      if (PX && at + L >= w)
        for (int r = 0; r < R; r++)
          for (int q = 0; q < P; q++) c[r][q] = Vec{};
      else
        sums(at + L, c);
      Vec y[R][2], h[UP][kTaps];  // y, UP = 2: of even and odd columns
      if constexpr (!kMirror) hold(line, h);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        Vec v[kTaps];
        taps<PX, 0, P>(a[r], b[r], c[r], v);
        y[r][0] = kMirror ? across_sum(v, line.weight[0]) : across_sum(v, h[0]);
        if constexpr (UP == 2 || (DOWN == 1 && P == 2)) {
          taps<PX, 1, P>(a[r], b[r], c[r], v);
          y[r][1] = kMirror ? across_sum(v, line.weight[UP - 1]) : across_sum(v, h[UP - 1]);
        }
        if constexpr (UP == 1 && DOWN == 1) done.template run<T, P>(y[r], oy + r, at);
#pragma GCC unroll 2
        for (int q = 0; q < P; q++) a[r][q] = b[r][q], b[r][q] = c[r][q];
      }
      GT_RELOAD(out);
      constexpr bool kSingle = UP == 1 && (DOWN == 2 || P == 1);
      if (wo - o >= W) {
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
          if constexpr (kSingle) store(out[r] + o, y[r][0]);
          else store_pairs(out[r] + o, y[r][0], y[r][1]);
      } else {
        for (int r = 0; r < R; r++)
          if constexpr (kSingle) store_part(out[r] + o, y[r][0], wo - o);
          else store_pairs(out[r] + o, y[r][0], y[r][1], wo - o);
      }
    }
  }

  // DOWN = 2 for rows of one vector: two output rows are one.
  template <int R>
  GT_INLINE void narrow(const T* const* in, T* out) const {
    Vec b[R][1];
    columns<R, 1>(vertical, b, [&](int i) __attribute__((always_inline)) { return load(in[i]); });
    constexpr Vec zero = {};
    const Vec even = evens(b[0][0], b[R - 1][0]), odd = odds(b[0][0], b[R - 1][0]);
    const Vec before = GT_SHUFFLE(odd, zero, 16, 0, 1, 2, 3, 4, 5, 6, 16, 8, 9, 10, 11, 12, 13, 14);
    const Vec after = GT_SHUFFLE(even, zero, 1, 2, 3, 4, 5, 6, 7, 16, 9, 10, 11, 12, 13, 14, 15, 16);
    const Vec v[4] = {before, even, odd, after};
    store(out, across_sum(v, horizontal.weight[0]));
  }

  // The horizontal taps.
  template <class W>
  static GT_INLINE Vec across_sum(const Vec* v, const W* w) {
    if constexpr (kMirror) return (v[0] + v[3]) + (v[1] + v[2]) * w[1];
    else return splat_sum<kTaps>(v, w);
  }

  // Weights as vectors, loaded once for all rows of a band.
  static GT_INLINE void hold(const Taps<K, UP>& taps, Vec (*w)[kTaps]) {
#pragma GCC unroll 2
    for (int s = 0; s < UP; s++)
#pragma GCC unroll 12
      for (int t = 0; t < kTaps; t++) {
        Vec one = Vec{} + taps.weight[s][t];
        GT_HOLD(one);
        w[s][t] = one;
      }
  }

  // What the taps of the pixels F (P = 1), or of every second pixel from F on (P = 2), of run b see, with runs a and c on
  // either side. Taps of phase 1 of UP = 2 are those of pixel 1.
  template <int PX, int F, int P>
  static GT_INLINE void taps(const Vec* a, const Vec* b, const Vec* c, Vec* v) {
    taps_from<PX, F, P>(a, b, c, v, std::make_integer_sequence<int, kTaps>());
  }
  template <int PX, int F, int P, int... T_>
  static GT_INLINE void taps_from(const Vec* a, const Vec* b, const Vec* c, Vec* v, std::integer_sequence<int, T_...>) {
    ((v[T_] = pixel<F + T_ - PX, P>(a, b, c)), ...);
  }
  template <int O, int P>
  static GT_INLINE Vec pixel(const Vec* a, const Vec* b, const Vec* c) {
    constexpr int part = P == 1 ? 0 : O & 1, s = P == 1 ? O : (O - part) / 2;
    if constexpr (s < 0) return window<kLanes + s>(a[part], b[part]);
    else return window<s>(b[part], c[part]);
  }

  // Channels last, few channels: a row at a time.
  template <class Chunks>
  void rows(const Chunks& for_chunks) const {
    const int64_t line = p.w * p.c, width = p.wo * p.c;
    for_chunks(p.n * p.ho, std::max<int64_t>(1, (1 << 15) / width), [&](int64_t first, int64_t last) {
      const std::vector<T> zeros(line, Convert<T>::from(0.f));
      std::vector<float> buffer((left + p.w + right) * p.c + 2 * kLanes, 0.f);  // RGB is read a vector past the end
      float* b = buffer.data() + left * p.c;
      for (int64_t r = first; r < last; r++) {
        down(static_cast<const T*>(p.x) + r / p.ho * p.h * line, line, int(r % p.ho), zeros.data(), b, line);
        across<K, UP, DOWN>(horizontal, b, static_cast<T*>(p.y) + r * width, p.wo, p.c);
      }
    });
  }

  // Whether `pixels` serves this case; `rows` serves all of channels last.
  bool walkable() const {
    return p.c >= kLanes && vertical.staggered() && horizontal.staggered() && (!kMirror || mirrored);
  }

  // Channels last: runs of channels walk along a few output rows at once. Vertical sums of the last pixels stay in
  // registers: every input is loaded once per band of rows, and there is no buffer.
  template <class Chunks, class Sink = NoSink>
  void pixels(const Chunks& for_chunks, const Sink& sink = {}) const {
    if (sizeof(T) == 2 && p.c >= 2 * kLanes)
      walks<2, 2>(for_chunks, sink);
    else
      walks<2, 1>(for_chunks, sink);
  }

  template <int R, int P, class Chunks, class Sink>
  void walks(const Chunks& for_chunks, const Sink& sink) const {
    constexpr int S = UP == 1 ? DOWN : 1, N = kTaps + (R - 1) * S, L = P * kLanes, G = kGroup / P;
    const int64_t line = p.w * p.c, width = p.wo * p.c;
    const int count = (p.ho - 1) / R + 1;
    for_chunks(p.n * count, std::max<int64_t>(1, (1 << 15) / (R * width)), [&](int64_t first, int64_t last) {
      const std::vector<T> zeros(line, Convert<T>::from(0.f));
      std::vector<T> spare(p.ho % R ? width : 0);  // takes the rows after the last
      for (int64_t k = first; k < last; k++) {
        const int oy = int(k % count) * R, top = first_row(oy);
        const int64_t n = k / count;
        const T* x = static_cast<const T*>(p.x) + n * p.h * line;
        T* y = static_cast<T*>(p.y) + (n * p.ho + oy) * width;
        const T* in[N];
        T* out[R];
        for (int i = 0; i < N; i++) in[i] = top + i >= 0 && top + i < p.h ? x + (top + i) * line : zeros.data();
        for (int r = 0; r < R; r++) out[r] = oy + r < p.ho ? y + r * width : spare.data();
        const auto done = sink.template image<T>(n);
        if (p.c < 2 * G * L)
          cover_runs<L>(p.c, [&](int64_t c) { walk<R, P>(in, out, oy, c, done); });
        else
          for (int64_t c = 0; c < p.c; c += G * L)
            walk_group<R, P>(in, out, oy, std::min(c, p.c - G * L), done);
      }
    });
  }

  // The same for many channels: a group of runs at a time, so that memory is read and written in long stretches, with
  // the vertical sums of the last pixels in the first-level cache.
  static constexpr int kGroup = 8;

  template <int R, int P, class Done>
  GT_INLINE void walk_group(const T* const* in, T* const* out, int oy, int64_t c0, const Done& done) const {
    constexpr int W = kTaps + UP - 1, L = P * kLanes, G = kGroup / P;
    const int64_t size = p.c;
    const int w = p.w, wo = p.wo;
    const Taps<K, UP> column = vertical, line = horizontal;
    Vec ring[W][G][R][P] = {};
    Vec(*window[W])[R][P];  // oldest pixel first
    for (int t = 0; t < W; t++) window[t] = ring[t];
    int at = horizontal.base[0];
    // The pixel after the window's last takes the place of its first.
    auto push = [&] {
      auto oldest = window[0];
#pragma GCC unroll 12
      for (int t = 0; t + 1 < W; t++) window[t] = window[t + 1];
      window[W - 1] = oldest;
      const int64_t from = at * size + c0;
      if (at >= 0 && at < w) {
        for (int g = 0; g < G; g++) {
          GT_RELOAD(in);
          Vec sums[R][P];
          columns<R, P>(column, sums, [&](int i) __attribute__((always_inline)) { return take<P>(in[i] + from + g * L); });
#pragma GCC unroll 4
          for (int r = 0; r < R; r++)
            for (int q = 0; q < P; q++) oldest[g][r][q] = sums[r][q];
        }
      } else {
        for (int g = 0; g < G; g++)
          for (int r = 0; r < R; r++)
            for (int q = 0; q < P; q++) oldest[g][r][q] = Vec{};
      }
      at++;
    };
    for (int i = 0; i < W - DOWN; i++) push();
    for (int m = 0; m * UP < wo; m++) {
      for (int i = 0; i < DOWN; i++) push();
      for (int g = 0; g < G; g++) {
#pragma GCC unroll 2
        for (int s = 0; s < UP; s++) {
          if (s && m * UP + s >= wo) break;
#pragma GCC unroll 4
          for (int r = 0; r < R; r++) {
            Vec y[P], v[kTaps];
#pragma GCC unroll 2
            for (int q = 0; q < P; q++) {
#pragma GCC unroll 12
              for (int t = 0; t < kTaps; t++) v[t] = window[t + s][g][r][q];
              y[q] = across_sum(v, line.weight[s]);
            }
            if constexpr (UP == 1 && DOWN == 1) done.template run<T, P>(y, oy + r, m, c0 + g * L);
            put<P>(out[r] + (m * UP + s) * size + c0 + g * L, y);
          }
        }
      }
    }
  }

  template <int R, int P, class Done>
  GT_INLINE void walk(const T* const* in, T* const* out, int oy, int64_t c, const Done& done) const {
    constexpr int W = kTaps + UP - 1;
    const int64_t size = p.c;
    const int w = p.w, wo = p.wo;
    const Taps<K, UP> column = vertical, line = horizontal;
    Vec window[W][R][P] = {};
    int at = horizontal.base[0];  // the next pixel to enter the window
    auto push = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 12
      for (int t = 0; t + 1 < W; t++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
          for (int q = 0; q < P; q++) window[t][r][q] = window[t + 1][r][q];
      if (at >= 0 && at < w) {
        const int64_t from = at * size + c;
        GT_RELOAD(in);
        columns<R, P>(column, window[W - 1], [&](int i) __attribute__((always_inline)) { return take<P>(in[i] + from); });
      } else {
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
          for (int q = 0; q < P; q++) window[W - 1][r][q] = Vec{};
      }
      at++;
    };
#pragma GCC unroll 12
    for (int i = 0; i < W - DOWN; i++) push();
    for (int m = 0; m * UP < wo; m++) {
#pragma GCC unroll 2
      for (int i = 0; i < DOWN; i++) push();
#pragma GCC unroll 2
      for (int s = 0; s < UP; s++) {
        if (m * UP + s >= wo) break;
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
          Vec y[P], v[kTaps];
#pragma GCC unroll 2
          for (int q = 0; q < P; q++) {
#pragma GCC unroll 12
            for (int t = 0; t < kTaps; t++) v[t] = window[t + s][r][q];
            y[q] = across_sum(v, line.weight[s]);
          }
          if constexpr (UP == 1 && DOWN == 1) done.template run<T, P>(y, oy + r, m, c);
          put<P>(out[r] + (m * UP + s) * size + c, y);
        }
      }
    }
  }

  template <int P>
  static GT_INLINE auto take(const T* q) {
    if constexpr (P == 1) return load(q);
    else return load_pair(q);
  }
  template <int P>
  static GT_INLINE void put(T* q, const Vec* y) {
    if constexpr (P == 1) store(q, y[0]);
    else store_pairs(q, y[0], y[1]);
  }
};

}  // namespace gt::fir
