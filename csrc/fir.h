// SPDX-License-Identifier: Apache-2.0
// The FIR filters that networks use, on the CPU: separable, 4 or 12 taps, up or down by 1 or 2, float32 and bfloat16.
// The vertical taps read the input's own rows; the horizontal taps follow from registers (4 taps, usual paddings) or from
// a row buffer with zero margins. No zero insertion, no padded copy, no image in between.
#pragma once
#include <algorithm>
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
};

template <int K>
GT_INLINE Vec splat_sum(const Vec* v, const float* w) {
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

// The horizontal pass of one row of `size`-element pixels (1 in planes): `in` points at pixel 0, with enough margin.
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
  if (size == 1 && UP == 1)
    return cover(
        wo,
        [&](int64_t i) {
          Vec v[T];
#pragma GCC unroll 12
          for (int t = 0; t < T; t++) v[t] = load_even(at[0][t] + 2 * i);
          store(out + i, splat_sum<T>(v, taps.weight[0]));
        },
        [&](int64_t i) { out[i] = Convert<O>::from(one(0, 2 * i)); });
  if (size == 1) {
    cover(
        wo / 2,
        [&](int64_t i) {
          Vec a[T], b[T];
#pragma GCC unroll 12
          for (int t = 0; t < T; t++) a[t] = load(at[0][t] + i), b[t] = load(at[UP - 1][t] + i);
          store_pairs(out + 2 * i, splat_sum<T>(a, taps.weight[0]), splat_sum<T>(b, taps.weight[UP - 1]));
        },
        [&](int64_t i) {
          out[2 * i] = Convert<O>::from(one(0, i));
          out[2 * i + 1] = Convert<O>::from(one(UP - 1, i));
        });
    if (wo % 2) out[wo - 1] = Convert<O>::from(one(0, wo / 2));
    return;
  }
  if (size < kLanes) {  // a few channels: shorter than a vector, so pixel by pixel
    for (int ox = 0; ox < wo; ox++) {
      const int s = UP == 1 ? 0 : ox & 1;
      const int64_t from = int64_t(UP == 1 ? ox : ox >> 1) * DOWN * size;
      if (size == 3) {
        for (int c = 0; c < 3; c++) out[ox * 3 + c] = Convert<O>::from(one(s, from + c));
      } else {
        for (int c = 0; c < int(size); c++) out[ox * size + c] = Convert<O>::from(one(s, from + c));
      }
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
  const Taps<K, UP> vertical, horizontal;
  static constexpr int kTaps = K / UP;
  int left, right;  // margins of the row buffer, in pixels

  Filter2d(const Image& p, const float* column, const float* line, int px, int py)
      : p(p), vertical(column, py), horizontal(line, px) {
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

  template <class Chunks>
  void planes(const Chunks& for_chunks) const {
    const int margin = (left + kLanes - 1) / kLanes * kLanes;
    // Strided reads go a vector past the last pixel.
    const int pitch = (margin + p.w + right + kLanes * DOWN) / kLanes * kLanes;
    const int strip = std::min(p.ho, std::max(4, 3072 / pitch)), strips = (p.ho - 1) / strip + 1;
    for_chunks(p.n * p.c * strips, std::max<int64_t>(1, (1 << 15) / (int64_t(strip) * p.wo)),
               [&](int64_t first, int64_t last) {
      const std::vector<float> zeros(p.w, 0.f);
      std::vector<float> buffer(size_t(strip) * pitch, 0.f), wide;
      for (int64_t k = first; k < last; k++) {
        const int start = int(k % strips) * strip, end = std::min(p.ho, start + strip);
        const T* x = static_cast<const T*>(p.x) + k / strips * p.h * p.w;
        T* y = static_cast<T*>(p.y) + k / strips * p.ho * p.wo;
        float* b = buffer.data() + margin;
        const float* rows = in_float(x, start, end, wide);
        for (int oy = start; oy < end; oy++) down(rows, p.w, oy, zeros.data(), b + int64_t(oy - start) * pitch, p.w);
        for (int oy = start; oy < end; oy++)
          across<K, UP, DOWN>(horizontal, b + int64_t(oy - start) * pitch, y + int64_t(oy) * p.wo, p.wo, 1);
      }
    });
  }

  // Plane x as far as output rows start .. end see it, in float32.
  const float* in_float(const float* x, int, int, std::vector<float>&) const { return x; }
  const float* in_float(const bf16* x, int start, int end, std::vector<float>& wide) const {
    const int low = std::max(0, first_row(start)), high = std::min(p.h, first_row(end - 1) + kTaps);
    const int64_t len = std::max(0, high - low) * int64_t(p.w);
    wide.resize(std::max<size_t>(wide.size(), len));
    float* to = wide.data();
    x += int64_t(low) * p.w;
    cover(len, [&](int64_t i) { store(to + i, load(x + i)); }, [&](int64_t i) { to[i] = to_acc(x[i]); });
    return to - int64_t(low) * p.w;
  }

  // Whether `lanes` serves this case.
  bool regular() const {
    return K == 4 && (UP == 1 ? horizontal.base[0] == -1 || (DOWN == 1 && horizontal.base[0] == -2)
                              : horizontal.base[0] == -1 && horizontal.base[UP - 1] == 0 &&
                                    vertical.base[UP - 1] > vertical.base[0]);
  }

  // Planes, 4 taps, the usual paddings: vertical sums of two output rows stay in registers, and the horizontal taps see
  // them shifted by lanes. Every input is loaded once per two rows, and there is no buffer.
  template <class Chunks>
  void lanes(const Chunks& for_chunks) const {
    constexpr int R = 2;
    const int pairs = (p.ho - 1) / R + 1;
    const int64_t plane = int64_t(p.h) * p.w;
    for_chunks(p.n * p.c, std::max<int64_t>(1, (1 << 15) / (int64_t(p.ho) * p.wo)), [&](int64_t first, int64_t last) {
      const std::vector<T> zeros(p.w + kLanes, Convert<T>::from(0.f));
      std::vector<T> spare(p.wo);  // takes the partner of a last odd row
      for (int64_t k = first; k < last; k++) {
        const T* x = static_cast<const T*>(p.x) + k * plane;
        for (int q = 0; q < pairs; q++) {
          const int oy = q * R;
          T* y = static_cast<T*>(p.y) + (k * p.ho + oy) * p.wo;
          T* out[R] = {y, oy + 1 < p.ho ? y + p.wo : spare.data()};
          if (UP == 1 && DOWN == 1 && horizontal.base[0] == -2)
            pair<2>(x, oy, zeros.data(), out);
          else
            pair<1>(x, oy, zeros.data(), out);
        }
      }
    });
  }

  template <int PX>
  GT_INLINE void pair(const T* x, int oy, const T* zeros, T* const* out) const {
    constexpr int R = 2, S = UP == 1 ? DOWN : 1, N = kTaps + (R - 1) * S, L = kLanes;
    const int top = first_row(oy);
    const T* in[N];
    if (top >= 0 && top + N <= p.h)
      for (int i = 0; i < N; i++) in[i] = x + int64_t(top) * p.w + int64_t(i) * p.w;
    else
      for (int i = 0; i < N; i++) in[i] = top + i >= 0 && top + i < p.h ? x + int64_t(top + i) * p.w : zeros;
    auto sums = [&](int at, Vec* to) {
      Vec v[N];
      if (at + L <= p.w) {
#pragma GCC unroll 8
        for (int i = 0; i < N; i++) v[i] = load(in[i] + at);
      } else if (at < p.w) {
        for (int i = 0; i < N; i++) v[i] = load_part(in[i] + at, p.w - at, top + i != p.h - 1);
      } else {
        to[0] = to[1] = Vec{};
        return;
      }
      to[0] = splat_sum<kTaps>(v, vertical.weight[0]);
      to[1] = splat_sum<kTaps>(v + S, vertical.weight[UP - 1]);
    };
    const float* h = horizontal.weight[0];
    const float* g = horizontal.weight[UP - 1];
    Vec a[R] = {}, b[R], c[R], d[R], e[R];
    if (DOWN == 2 && p.w == L && p.wo == L / 2 && oy + 1 < p.ho) {  // both rows in one vector
      sums(0, b);
      const Vec even = evens(b[0], b[1]), odd = odds(b[0], b[1]), zero = {};
      const Vec before = GT_SHUFFLE(odd, zero, 16, 0, 1, 2, 3, 4, 5, 6, 16, 8, 9, 10, 11, 12, 13, 14);
      const Vec after = GT_SHUFFLE(even, zero, 1, 2, 3, 4, 5, 6, 7, 16, 9, 10, 11, 12, 13, 14, 15, 16);
      const Vec v[4] = {before, even, odd, after};
      return store(out[0], splat_sum<4>(v, h));
    }
    if (DOWN == 2) {  // a: odds before, b and c: evens and odds, d and e: those that follow
      Vec f[R], o[R];
      sums(0, f), sums(L, o);
      for (int r = 0; r < R; r++) b[r] = evens(f[r], o[r]), c[r] = odds(f[r], o[r]);
      for (int at = 0; at < p.wo; at += L) {
        sums(2 * at + 2 * L, f), sums(2 * at + 3 * L, o);
#pragma GCC unroll 2
        for (int r = 0; r < R; r++) {
          d[r] = evens(f[r], o[r]), e[r] = odds(f[r], o[r]);
          const Vec v[4] = {window<L - 1>(a[r], c[r]), b[r], c[r], window<1>(b[r], d[r])};
          store_part(out[r] + at, splat_sum<4>(v, h), p.wo - at);
          a[r] = c[r], b[r] = d[r], c[r] = e[r];
        }
      }
      return;
    }
    sums(0, b);
    for (int at = 0; at < (p.wo - 1) / UP + 1; at += L) {
      sums(at + L, c);
#pragma GCC unroll 2
      for (int r = 0; r < R; r++) {
        if (UP == 1) {
          Vec v[4];
          if (PX == 2)
            v[0] = window<L - 2>(a[r], b[r]), v[1] = window<L - 1>(a[r], b[r]), v[2] = b[r],
            v[3] = window<1>(b[r], c[r]);
          else
            v[0] = window<L - 1>(a[r], b[r]), v[1] = b[r], v[2] = window<1>(b[r], c[r]),
            v[3] = window<2>(b[r], c[r]);
          store_part(out[r] + at, splat_sum<4>(v, h), p.wo - at);
        } else {
          const Vec even = window<L - 1>(a[r], b[r]) * h[0] + b[r] * h[1];
          const Vec odd = b[r] * g[0] + window<1>(b[r], c[r]) * g[1];
          if (p.wo - 2 * at >= 2 * L) {
            store_pairs(out[r] + 2 * at, even, odd);
          } else {
            T both[2 * L];
            store_pairs(both, even, odd);
            __builtin_memcpy(out[r] + 2 * at, both, size_t(p.wo - 2 * at) * sizeof(T));
          }
        }
        a[r] = b[r], b[r] = c[r];
      }
    }
  }

  // Channels last, few channels: a row at a time.
  template <class Chunks>
  void rows(const Chunks& for_chunks) const {
    const int64_t line = p.w * p.c, width = p.wo * p.c;
    for_chunks(p.n * p.ho, std::max<int64_t>(1, (1 << 15) / width), [&](int64_t first, int64_t last) {
      const std::vector<T> zeros(line, Convert<T>::from(0.f));
      std::vector<float> buffer((left + p.w + right) * p.c, 0.f);
      float* b = buffer.data() + left * p.c;
      for (int64_t r = first; r < last; r++) {
        down(static_cast<const T*>(p.x) + r / p.ho * p.h * line, line, int(r % p.ho), zeros.data(), b, line);
        across<K, UP, DOWN>(horizontal, b, static_cast<T*>(p.y) + r * width, p.wo, p.c);
      }
    });
  }

  // Whether `pixels` serves this case; `rows` serves all of channels last.
  bool walkable() const {
    return p.c >= kLanes && (UP == 1 || (vertical.base[UP - 1] > vertical.base[0] &&
                                         horizontal.base[UP - 1] > horizontal.base[0]));
  }

  // Channels last: kLanes channels walk along R output rows at once. Vertical sums of the last pixels stay in
  // registers: every input is loaded once per R rows, and there is no buffer.
  template <class Chunks>
  void pixels(const Chunks& for_chunks) const {
    constexpr int R = 2;
    const int64_t line = p.w * p.c, width = p.wo * p.c;
    const int pairs = (p.ho - 1) / R + 1;
    for_chunks(p.n * pairs, std::max<int64_t>(1, (1 << 15) / (R * width)), [&](int64_t first, int64_t last) {
      const std::vector<T> zeros(line, Convert<T>::from(0.f));
      std::vector<T> spare(p.ho % R ? width : 0);  // takes the partner of a last odd row
      for (int64_t k = first; k < last; k++) {
        const int oy = int(k % pairs) * R;
        const T* x = static_cast<const T*>(p.x) + k / pairs * p.h * line;
        T* y = static_cast<T*>(p.y) + (k / pairs * p.ho + oy) * width;
        T* out[R];
        for (int r = 0; r < R; r++) out[r] = oy + r < p.ho ? y + r * width : spare.data();
        if (p.c < 4 * kLanes)
          cover(p.c, [&](int64_t c) { walk<R>(x, oy, zeros.data(), out, c); }, [](int64_t) {});
        else
          for (int64_t c = 0; c < p.c; c += kGroup * kLanes)
            walk_group<R>(x, oy, zeros.data(), out, std::min(c, p.c - std::min<int64_t>(p.c, kGroup * kLanes)),
                          std::min<int64_t>(p.c, kGroup * kLanes));
      }
    });
  }

  // The same for many channels: a group of them at a time, so that memory is read and written in long runs, with the
  // vertical sums of the last pixels in the first-level cache.
  static constexpr int kGroup = 8;

  template <int R>
  GT_INLINE void walk_group(const T* x, int oy, const T* zeros, T* const* out, int64_t c0, int64_t channels) const {
    constexpr int S = UP == 1 ? DOWN : 1, N = kTaps + (R - 1) * S, W = kTaps + UP - 1;
    const int64_t size = p.c, line = p.w * size;
    const int top = first_row(oy);
    const T* in[N];
    for (int i = 0; i < N; i++) in[i] = (top + i >= 0 && top + i < p.h ? x + (top + i) * line : zeros) + c0;
    Vec ring[W][kGroup][R] = {};
    Vec(*window[W])[R];  // oldest pixel first
    for (int t = 0; t < W; t++) window[t] = ring[t];
    int at = horizontal.base[0];
    auto rotate = [&] {
      auto oldest = window[0];
#pragma GCC unroll 12
      for (int t = 0; t + 1 < W; t++) window[t] = window[t + 1];
      window[W - 1] = oldest;
    };
    auto push = [&](int64_t c, int b) {
      if (at < 0 || at >= p.w) {
        for (int r = 0; r < R; r++) window[W - 1][b][r] = Vec{};
        return;
      }
      Vec v[N];
#pragma GCC unroll 13
      for (int i = 0; i < N; i++) v[i] = load(in[i] + at * size + c);
#pragma GCC unroll 2
      for (int r = 0; r < R; r++) window[W - 1][b][r] = splat_sum<kTaps>(v + r * S, vertical.weight[r % UP]);
    };
    auto blocks = [&](const auto& f) {
      int b = 0;
      cover(channels, [&](int64_t c) { f(c, b++); }, [](int64_t) {});
    };
    for (int i = 0; i < W - DOWN; i++) {
      rotate();
      blocks(push);
      at++;
    }
    for (int m = 0; m * UP < p.wo; m++) {
      for (int i = 0; i < DOWN - 1; i++) {
        rotate();
        blocks(push);
        at++;
      }
      rotate();
      const bool both = UP == 2 && m * UP + 1 < p.wo;
      blocks([&](int64_t c, int b) {
        push(c, b);
#pragma GCC unroll 2
        for (int s = 0; s < UP; s++) {
          if (s && !both) break;
#pragma GCC unroll 2
          for (int r = 0; r < R; r++) {
            Vec v[kTaps];
#pragma GCC unroll 12
            for (int t = 0; t < kTaps; t++) v[t] = window[t + s][b][r];
            store(out[r] + (m * UP + s) * size + c0 + c, splat_sum<kTaps>(v, horizontal.weight[s]));
          }
        }
      });
      at++;
    }
  }

  template <int R>
  GT_INLINE void walk(const T* x, int oy, const T* zeros, T* const* out, int64_t c) const {
    // Output row oy + r sees input rows r * S .. r * S + kTaps; output column m * UP + s the pixels s .. s + kTaps of the
    // window.
    constexpr int S = UP == 1 ? DOWN : 1, N = kTaps + (R - 1) * S, W = kTaps + UP - 1;
    const int64_t size = p.c, line = p.w * size;
    const int top = first_row(oy);
    const T* in[N];
    for (int i = 0; i < N; i++) in[i] = (top + i >= 0 && top + i < p.h ? x + (top + i) * line : zeros) + c;
    Vec window[R][W] = {};
    int at = horizontal.base[0];  // the next pixel to enter the window
    auto push = [&] {
#pragma GCC unroll 2
      for (int r = 0; r < R; r++) {
#pragma GCC unroll 12
        for (int t = 0; t + 1 < W; t++) window[r][t] = window[r][t + 1];
        window[r][W - 1] = Vec{};
      }
      if (at >= 0 && at < p.w) {
        Vec v[N];
#pragma GCC unroll 13
        for (int i = 0; i < N; i++) v[i] = load(in[i] + at * size);
#pragma GCC unroll 2
        for (int r = 0; r < R; r++) window[r][W - 1] = splat_sum<kTaps>(v + r * S, vertical.weight[r % UP]);
      }
      at++;
    };
#pragma GCC unroll 12
    for (int i = 0; i < W - DOWN; i++) push();
    for (int m = 0; m * UP < p.wo; m++) {
#pragma GCC unroll 2
      for (int i = 0; i < DOWN; i++) push();
#pragma GCC unroll 2
      for (int s = 0; s < UP; s++) {
        if (m * UP + s >= p.wo) break;
#pragma GCC unroll 2
        for (int r = 0; r < R; r++)
          store(out[r] + (m * UP + s) * size + c, splat_sum<kTaps>(window[r] + s, horizontal.weight[s]));
      }
    }
  }
};

}  // namespace gt::fir
