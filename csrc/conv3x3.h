// SPDX-License-Identifier: Apache-2.0
// 3x3 convolutions of float32 images [N, H, W, C] on the CPU by minimal filtering (Winograd; Lavin and Gray, "Fast
// Algorithms for Convolutional Neural Networks", CVPR 2016). Channels in multiples of 16. No torch headers.
//
// Outputs are made in tiles of 4x4. Along an axis, each of the points of a scheme takes one product per pair of channels:
//
//   Dense    stride 1, padding 1: F(4, 3), six points, of 6 pixels: 36 products in two dimensions instead of 144.
//   Strided  stride 2, no padding: of 9 pixels, the five even ones meet two taps, F(4, 2) with five points; the four odd
//            ones meet one, a product each: 81 instead of 144.
//
// Points of interpolation: 0 (Dense), +-sqrt(2), +-sqrt(1/2), infinity. p and 1/p together keep the rounding near that of
// a direct sum. Each point is a product of matrices, (tiles x channels) by (channels x channels), whose sums stay in
// registers (`multiply`). For it channels lie in panels of 64 (32, 16 where they do not divide).
#pragma once
#include <algorithm>

#include "vec.h"

namespace gt::winograd {

using vec::kLanes;
using vec::load;
using vec::store;
using vec::Vec;

// Rows and vectors of a product, as the registers hold: 24 of 32 with AVX-512, 12 of 16 with AVX2, 24 of 32 with Neon.
#ifdef __AVX512F__
constexpr int kRows = 6, kVecs = 4;
#else
constexpr int kRows = 6, kVecs = 1;
#endif
constexpr int kTile = 4, kTaps = 9;
constexpr int kKernels = 36;  // transformed weights: 6 per axis in either scheme
constexpr int64_t kMaxChannels = 1024;

inline int64_t panel_width(int64_t channels) { return channels % 64 == 0 ? 64 : channels % 32 == 0 ? 32 : 16; }

// Where the factors of a product lie. Row r, term k of block i: a[i][r * row + k * term]. Term k of block i, element v:
// b[(i * length + k) * width + v].
struct Factors {
  const float* const* a;
  int64_t blocks, length, row, term;
  const float* b;
  int64_t width;
};

template <int R, int V, bool Rows>  // Rows: the rows are neighbours (row = 1), otherwise the terms (term = 1)
GT_INLINE void multiply(const Factors& f, float* out, bool add) {
  Vec sum[R][V];
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sum[r][v] = add ? load(out + r * f.width + v * kLanes) : Vec{};
  const float* b = f.b;
  const int64_t row = Rows ? 1 : f.row, term = Rows ? f.term : 1;
  for (int64_t i = 0; i < f.blocks; i++) {
    const float* a = f.a[i];
    for (int64_t k = 0; k < f.length; k++, a += term, b += f.width) {
      Vec right[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) right[v] = load(b + v * kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < R; r++) {
        Vec left = a[r * row] + Vec{};
        GT_HOLD(left);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[r][v] += left * right[v];
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) store(out + r * f.width + v * kLanes, sum[r][v]);
}

template <int V, bool Rows>
void some_rows(const Factors& f, int64_t rows, float* out, bool add) {
  switch (rows) {
    case 1: return multiply<1, V, Rows>(f, out, add);
    case 2: return multiply<2, V, Rows>(f, out, add);
    case 3: return multiply<3, V, Rows>(f, out, add);
    case 4: return multiply<4, V, Rows>(f, out, add);
    case 5: return multiply<5, V, Rows>(f, out, add);
    default: return multiply<kRows, V, Rows>(f, out, add);
  }
}

// out[r, :width] (+)= sum a b, for at most kRows rows.
template <bool Rows>
GT_INLINE void product(Factors f, int64_t rows, float* out, bool add) {
  const int64_t vecs = std::min<int64_t>(f.width / kLanes, kVecs);
  rows = std::min<int64_t>(rows, kRows);
  for (int64_t v = 0; v < f.width; v += vecs * kLanes, f.b += vecs * kLanes) {
    if (vecs == 4) some_rows<4, Rows>(f, rows, out + v, add);
    else if (vecs == 2) some_rows<2, Rows>(f, rows, out + v, add);
    else some_rows<1, Rows>(f, rows, out + v, add);
  }
}

// ---- The schemes: transforms along one axis, of vectors. `input` and `output` also in their transposes.

constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;

// What the points +-sqrt(2), +-sqrt(1/2) share: even and odd part give both signs.
GT_INLINE void signs(Vec even_b, Vec odd_b, Vec even_a, Vec odd_a, Vec* t) {
  t[0] = even_b + kB * odd_b;
  t[1] = even_b - kB * odd_b;
  t[2] = even_a + kA * odd_a;
  t[3] = even_a - kA * odd_a;
}
GT_INLINE void powers(const Vec* m, Vec* y) {  // sum of p^j m_p
  const Vec sum_b = m[0] + m[1], dif_b = kB * (m[0] - m[1]), sum_a = m[2] + m[3], dif_a = kA * (m[2] - m[3]);
  y[0] = sum_b + sum_a;
  y[1] = dif_b + dif_a;
  y[2] = 2.f * sum_b + 0.5f * sum_a;
  y[3] = 2.f * dif_b + 0.5f * dif_a;
}
GT_INLINE void powers_transposed(const Vec* y, Vec* t) {
  signs(y[0] + 2.f * y[2], y[1] + 2.f * y[3], y[0] + 0.5f * y[2], y[1] + 0.5f * y[3], t);
}

struct Dense {
  static constexpr int kSide = 6, kStep = 4, kPad = 1;  // points and pixels of a tile, from tile to tile, around
  static constexpr int kernel(int point) { return point; }
  struct Input {  // pixels -> points
    static constexpr int kFrom = kSide, kTo = kSide;
    static GT_INLINE void run(const Vec* d, Vec* t) {
      t[0] = (d[0] + d[4]) - 2.5f * d[2];
      signs(d[4] - 0.5f * d[2], d[3] - 0.5f * d[1], d[4] - 2.f * d[2], d[3] - 2.f * d[1], t + 1);
      t[5] = (d[1] + d[5]) - 2.5f * d[3];
    }
  };
  struct Output {  // points -> outputs
    static constexpr int kFrom = kSide, kTo = kTile;
    static GT_INLINE void run(const Vec* m, Vec* y) {
      powers(m + 1, y);
      y[0] += m[0];
      y[3] += m[5];
    }
  };
  struct Spread {  // its transpose
    static constexpr int kFrom = kTile, kTo = kSide;
    static GT_INLINE void run(const Vec* y, Vec* t) {
      t[0] = y[0];
      powers_transposed(y, t + 1);
      t[5] = y[3];
    }
  };
  struct Kernel {  // taps -> kernels
    static constexpr int kFrom = 3, kTo = 6;
    static GT_INLINE void run(const Vec* g, Vec* t) {
      t[0] = g[0];
      signs((g[0] + 2.f * g[2]) * (1 / 6.f), g[1] * (1 / 6.f), (g[0] + 0.5f * g[2]) * (-2 / 3.f), g[1] * (-2 / 3.f),
            t + 1);
      t[5] = g[2];
    }
  };
  struct Taps {  // its transpose
    static constexpr int kFrom = 6, kTo = 3;
    static GT_INLINE void run(const Vec* t, Vec* g) {
      const Vec sum_b = (t[1] + t[2]) * (1 / 6.f), sum_a = (t[3] + t[4]) * (-2 / 3.f);
      g[0] = t[0] + (sum_b + sum_a);
      g[1] = (t[1] - t[2]) * (kB / 6) + (t[3] - t[4]) * (kA * -2 / 3);
      g[2] = t[5] + (2.f * sum_b + 0.5f * sum_a);
    }
  };
};

struct Strided {
  static constexpr int kSide = 9, kStep = 8, kPad = 0;  // points: five of the even pixels, then the odd pixels
  static constexpr int kernel(int point) { return point < 5 ? point : 5; }
  struct Input {
    static constexpr int kFrom = kSide, kTo = kSide;
    static GT_INLINE void run(const Vec* d, Vec* t) {
      signs(d[6] - 0.5f * d[2], d[4] - 0.5f * d[0], d[6] - 2.f * d[2], d[4] - 2.f * d[0], t);
      t[4] = (d[0] + d[8]) - 2.5f * d[4];
      for (int j = 0; j < kTile; j++) t[5 + j] = d[2 * j + 1];
    }
  };
  struct Pixels {  // its transpose
    static constexpr int kFrom = kSide, kTo = kSide;
    static GT_INLINE void run(const Vec* t, Vec* d) {
      const Vec sum_b = t[0] + t[1], dif_b = kB * (t[0] - t[1]), sum_a = t[2] + t[3], dif_a = kA * (t[2] - t[3]);
      d[0] = t[4] - (0.5f * dif_b + 2.f * dif_a);
      d[2] = -0.5f * sum_b - 2.f * sum_a;
      d[4] = (dif_b + dif_a) - 2.5f * t[4];
      d[6] = sum_b + sum_a;
      d[8] = t[4];
      for (int j = 0; j < kTile; j++) d[2 * j + 1] = t[5 + j];
    }
  };
  struct Output {
    static constexpr int kFrom = kSide, kTo = kTile;
    static GT_INLINE void run(const Vec* m, Vec* y) {
      powers(m, y);
      y[3] += m[4];
      for (int j = 0; j < kTile; j++) y[j] += m[5 + j];
    }
  };
  struct Spread {
    static constexpr int kFrom = kTile, kTo = kSide;
    static GT_INLINE void run(const Vec* y, Vec* t) {
      powers_transposed(y, t);
      t[4] = y[3];
      for (int j = 0; j < kTile; j++) t[5 + j] = y[j];
    }
  };
  struct Kernel {
    static constexpr int kFrom = 3, kTo = 6;
    static GT_INLINE void run(const Vec* g, Vec* t) {
      signs(g[2] * (1 / 3.f), g[0] * (1 / 6.f), g[2] * (-1 / 3.f), g[0] * (-2 / 3.f), t);
      t[4] = g[2];
      t[5] = g[1];
    }
  };
  struct Taps {
    static constexpr int kFrom = 6, kTo = 3;
    static GT_INLINE void run(const Vec* t, Vec* g) {
      g[0] = (t[0] - t[1]) * (kB / 6) + (t[2] - t[3]) * (kA * -2 / 3);
      g[1] = t[5];
      g[2] = t[4] + ((t[0] + t[1]) - (t[2] + t[3])) * (1 / 3.f);
    }
  };
};

// Along both axes: from(i, j) -> to(i, j, value).
template <class Axis, class From, class To>
GT_INLINE void both_axes(const From& from, const To& to) {
  constexpr int in = Axis::kFrom, out = Axis::kTo;
  Vec middle[in][out];
#pragma GCC unroll 9
  for (int i = 0; i < in; i++) {
    Vec line[in];
#pragma GCC unroll 9
    for (int j = 0; j < in; j++) line[j] = from(i, j);
    Axis::run(line, middle[i]);
  }
#pragma GCC unroll 9
  for (int j = 0; j < out; j++) {
    Vec line[in], done[out];
#pragma GCC unroll 9
    for (int i = 0; i < in; i++) line[i] = middle[i][j];
    Axis::run(line, done);
#pragma GCC unroll 9
    for (int i = 0; i < out; i++) to(i, j, done[i]);
  }
}

// ---- Arrays in panels: [points][channels / width][rows][width], points a little apart, so that the lines of a tile do
// not meet in one set of the cache.
struct Panels {
  float* data;
  int64_t channels, width, rows;

  Panels(float* at, int64_t channels_, int64_t rows_)
      : data(at), channels(channels_), width(panel_width(channels_)), rows(rows_) {}
  int64_t step() const { return channels * rows + kLanes; }
  int64_t panels() const { return channels / width; }
  float* at(int64_t point, int64_t panel, int64_t row) const {
    return data + point * step() + (panel * rows + row) * width;
  }
  // Of channel c, a multiple of kLanes, in point 0.
  float* of(int64_t c, int64_t row) const { return at(0, c / width, row) + c % width; }
};

struct Image {  // [n, h, w, c]
  float* data;
  int64_t n, h, w, c;
};

// Number t of the tiles of n images, of [h / 4, w / 4] each: its image, row and column.
struct Tile {
  int64_t n, i, j, rows, cols;
  Tile(const Image& y, int64_t t) : rows(y.h / kTile), cols(y.w / kTile) {
    j = t % cols;
    i = t / cols % rows;
    n = t / cols / rows;
  }
  static int64_t count(const Image& y) { return y.n * (y.h / kTile) * (y.w / kTile); }
};

// The pixels of tile t of outputs y, transformed, into row `row`.
template <class S>
void input_tile(const Image& x, const Image& y, int64_t t, const Panels& to, int64_t row) {
  const Tile tile(y, t);
  const float* first = x.data + ((tile.n * x.h + tile.i * S::kStep - S::kPad) * x.w + tile.j * S::kStep - S::kPad) * x.c;
  const int64_t down = x.w * x.c, step = to.step();
  const int top = S::kPad * (tile.i == 0), bottom = S::kSide - S::kPad * (tile.i + 1 == tile.rows),
            left = S::kPad * (tile.j == 0), right = S::kSide - S::kPad * (tile.j + 1 == tile.cols);
  const bool inside = bottom - top == S::kSide && right - left == S::kSide;
  for (int64_t c = 0; c < x.c; c += kLanes) {
    float* out = to.of(c, row);
    const auto put = [&](int a, int b, Vec v) { store(out + (a * S::kSide + b) * step, v); };
    const auto get = [&](int a, int b) { return load(first + a * down + b * x.c + c); };
    if (inside)
      both_axes<typename S::Input>(get, put);
    else
      both_axes<typename S::Input>(
          [&](int a, int b) { return a >= top && a < bottom && b >= left && b < right ? get(a, b) : Vec{}; }, put);
  }
}

// Adds what row `row` says of the pixels of tile t (Strided). Tiles share borders: they come in their order, the first
// one to reach a pixel sets it. Of as many channels as `from` has, from channel `at` on.
inline void pixel_tile(const Panels& from, int64_t row, const Image& x, int64_t at, const Image& y, int64_t t) {
  using S = Strided;
  const Tile tile(y, t);
  float* first = x.data + ((tile.n * x.h + tile.i * S::kStep) * x.w + tile.j * S::kStep) * x.c + at;
  for (int64_t c = 0; c < from.channels; c += kLanes) {
    const float* in = from.of(c, row);
    both_axes<S::Pixels>([&](int a, int b) { return load(in + (a * S::kSide + b) * from.step()); },
                         [&](int a, int b, Vec v) {
                           float* p = first + (a * x.w + b) * x.c + c;
                           store(p, (a == 0 && tile.i) || (b == 0 && tile.j) ? load(p) + v : v);
                         });
  }
}

inline float* origin(const Image& y, int64_t t) {
  const Tile tile(y, t);
  return y.data + ((tile.n * y.h + tile.i * kTile) * y.w + tile.j * kTile) * y.c;
}

// Of as many channels as `from` has, from channel `at` on.
template <class S>
void output_tile(const Panels& from, int64_t row, const Image& y, int64_t at, int64_t t) {
  float* out = origin(y, t) + at;
  for (int64_t c = 0; c < from.channels; c += kLanes) {
    const float* in = from.of(c, row);
    both_axes<typename S::Output>([&](int a, int b) { return load(in + (a * S::kSide + b) * from.step()); },
                                  [&](int a, int b, Vec v) { store(out + (a * y.w + b) * y.c + c, v); });
  }
}

template <class S>
void spread_tile(const Image& dy, int64_t t, const Panels& to, int64_t row) {
  const float* in = origin(dy, t);
  for (int64_t c = 0; c < dy.c; c += kLanes) {
    float* out = to.of(c, row);
    both_axes<typename S::Spread>([&](int a, int b) { return load(in + (a * dy.w + b) * dy.c + c); },
                                  [&](int a, int b, Vec v) { store(out + (a * S::kSide + b) * to.step(), v); });
  }
}

// A weight as [terms, outputs, 3, 3] by strides. That of a gradient is the other way round, its taps mirrored (Dense).
struct Weight {
  float* data;  // of tap (0, 0)
  int64_t terms, outputs, term_step, output_step, tap_steps[2];

  Weight part(int64_t first, int64_t count) const {  // of the outputs
    return {data + first * output_step, terms, count, term_step, output_step, {tap_steps[0], tap_steps[1]}};
  }
  // Calls each(tap, lane, element) for 16 outputs of a term.
  template <class F>
  GT_INLINE void visit(int64_t term, int64_t output, const F& each) const {
    float* p = data + term * term_step + output * output_step;
    for (int o = 0; o < kLanes; o++, p += output_step)
#pragma GCC unroll 9
      for (int k = 0; k < kTaps; k++) each(k, o, p[k / 3 * tap_steps[0] + k % 3 * tap_steps[1]]);
  }
};

// Kernels are panels of outputs, with a row for each term.
template <class S>
void make_kernels(const Weight& w, int64_t term, const Panels& to) {
  for (int64_t o = 0; o < w.outputs; o += kLanes) {
    float taps[kTaps][kLanes], *out = to.of(o, term);
    w.visit(term, o, [&](int k, int lane, float v) { taps[k][lane] = v; });
    both_axes<typename S::Kernel>([&](int a, int b) { return load(taps[a * 3 + b]); },
                                  [&](int a, int b, Vec v) { store(out + (a * 6 + b) * to.step(), v); });
  }
}

template <class S>
void read_kernels(const Panels& from, int64_t term, const Weight& w) {
  for (int64_t o = 0; o < w.outputs; o += kLanes) {
    const float* in = from.of(o, term);
    float taps[kTaps][kLanes];
    both_axes<typename S::Taps>([&](int a, int b) { return load(in + (a * 6 + b) * from.step()); },
                                [&](int a, int b, Vec v) { store(taps[a * 3 + b], v); });
    w.visit(term, o, [&](int k, int lane, float& v) { v = taps[k][lane]; });
  }
}

template <class S>
constexpr int kernel_of(int point) {
  return S::kernel(point / S::kSide) * 6 + S::kernel(point % S::kSide);
}

// products[k] = tiles[k] kernels[of k] for all points k, `rows` rows.
template <class S>
void tile_products(const Panels& tiles, const Panels& kernels, const Panels& products, int64_t rows) {
  const float* a[kMaxChannels / kLanes];
  for (int k = 0; k < S::kSide * S::kSide; k++)
    for (int64_t panel = 0; panel < kernels.panels(); panel++)
      for (int64_t r = 0; r < rows; r += kRows) {
        for (int64_t i = 0; i < tiles.panels(); i++) a[i] = tiles.at(k, i, r);
        product<false>({a, tiles.panels(), tiles.width, tiles.width, 1, kernels.at(kernel_of<S>(k), panel, 0),
                        kernels.width},
                       rows - r, products.at(k, panel, r), false);
      }
}

// total[kernel] (+)= sum over the points k of this kernel of tiles[k]^T spread[k], [terms, outputs]: the outputs from
// panel `first` of spread on.
template <class S>
void kernel_products(const Panels& tiles, const Panels& spread, int64_t first, const Panels& total, int kernel,
                     int64_t rows, bool add) {
  for (int k = 0; k < S::kSide * S::kSide; k++) {
    if (kernel_of<S>(k) != kernel) continue;
    for (int64_t panel = 0; panel < total.panels(); panel++)
      for (int64_t i = 0; i < tiles.panels(); i++)
        for (int64_t c = 0; c < tiles.width; c += kRows) {
          const float* a = tiles.at(k, i, 0) + c;
          product<true>({&a, 1, rows, 1, tiles.width, spread.at(k, first + panel, 0), spread.width}, tiles.width - c,
                        total.at(kernel, panel, i * tiles.width + c), add);
        }
    add = true;
  }
}

}  // namespace gt::winograd
