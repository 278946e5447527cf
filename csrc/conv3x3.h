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
// registers (product.h). For it channels lie in panels.
#pragma once
#include <algorithm>
#include <utility>

#include "product.h"

namespace gt::winograd {

using lanes::kLanes;
using lanes::load;
using lanes::store;
using lanes::Vec;
using product::kRows;
using product::panel_width;

constexpr int kTile = 4, kTaps = 9, kGroup = 16;  // channels come in multiples of kGroup
constexpr int kKernels = 36;  // transformed weights: 6 per axis in either scheme
constexpr int64_t kMaxChannels = 1024;

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
  int64_t channels, width, rows, step;  // step: from point to point

  Panels(float* at, int64_t channels_, int64_t rows_)
      : data(at), channels(channels_), width(panel_width(channels_)), rows(rows_), step(numbers(1, channels_, rows_)) {}
  static int64_t numbers(int points, int64_t channels, int64_t rows) { return points * (channels * rows + kGroup); }
  int64_t panels() const { return channels / width; }
  float* at(int64_t point, int64_t panel, int64_t row) const {
    return data + point * step + (panel * rows + row) * width;
  }
  // Of channel c, a multiple of kLanes, in point 0.
  float* of(int64_t c, int64_t row) const { return at(0, c / width, row) + c % width; }
  Panels one(int64_t panel) const {
    Panels p = *this;
    p.data = at(0, panel, 0);
    p.channels = width;
    return p;
  }
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

// The pixels of tile t of outputs y, transformed, into row `row`; `styles` [n, c]: times these.
template <class S, bool Styled = false>
void input_tile(const Image& x, const Image& y, int64_t t, const Panels& to, int64_t row, const float* styles = {}) {
  const Tile tile(y, t);
  const float* first = x.data + ((tile.n * x.h + tile.i * S::kStep - S::kPad) * x.w + tile.j * S::kStep - S::kPad) * x.c;
  const int64_t down = x.w * x.c;
  const int top = S::kPad * (tile.i == 0), bottom = S::kSide - S::kPad * (tile.i + 1 == tile.rows),
            left = S::kPad * (tile.j == 0), right = S::kSide - S::kPad * (tile.j + 1 == tile.cols);
  const bool inside = bottom - top == S::kSide && right - left == S::kSide;
  for (int64_t c = 0; c < x.c; c += kLanes) {
    float* out = to.of(c, row);
    const auto put = [&](int a, int b, Vec v) { store(out + (a * S::kSide + b) * to.step, v); };
    const Vec style = Styled ? load(styles + tile.n * x.c + c) : Vec{};
    const auto get = [&](int a, int b) {
      const Vec v = load(first + a * down + b * x.c + c);
      return Styled ? v * style : v;
    };
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
    both_axes<S::Pixels>([&](int a, int b) { return load(in + (a * S::kSide + b) * from.step); },
                         [&](int a, int b, Vec v) {
                           float* p = first + (a * x.w + b) * x.c + c;
                           store(p, (a == 0 && tile.i) || (b == 0 && tile.j) ? load(p) + v : v);
                         });
  }
}

// Number of the first of tile t's pixels in y.
inline int64_t origin(const Image& y, int64_t t) {
  const Tile tile(y, t);
  return (tile.n * y.h + tile.i * kTile) * y.w + tile.j * kTile;
}

// Calls put(pixel, channel, vector) for the outputs of tile t, of as many channels as `from` has.
template <class S, class Put>
void output_tile(const Panels& from, int64_t row, const Image& y, int64_t t, const Put& put) {
  const int64_t first = origin(y, t);
  for (int64_t c = 0; c < from.channels; c += kLanes) {
    const float* in = from.of(c, row);
    both_axes<typename S::Output>([&](int a, int b) { return load(in + (a * S::kSide + b) * from.step); },
                                  [&](int a, int b, Vec v) { put(first + a * y.w + b, c, v); });
  }
}

// The outputs' side of tile t, transformed, into row `row`; `styles` as of input_tile.
template <class S, bool Styled = false>
void spread_tile(const Image& dy, int64_t t, const Panels& to, int64_t row, const float* styles = {}) {
  const float* in = dy.data + origin(dy, t) * dy.c;
  if (Styled) styles += Tile(dy, t).n * dy.c;
  for (int64_t c = 0; c < dy.c; c += kLanes) {
    float* out = to.of(c, row);
    const Vec style = Styled ? load(styles + c) : Vec{};
    both_axes<typename S::Spread>(
        [&](int a, int b) {
          const Vec v = load(in + (a * dy.w + b) * dy.c + c);
          return Styled ? v * style : v;
        },
        [&](int a, int b, Vec v) { store(out + (a * S::kSide + b) * to.step, v); });
  }
}

// A weight as [terms, outputs, 3, 3] by strides. That of a gradient is the other way round, its taps mirrored (Dense).
struct Weight {
  float* data;  // of tap (0, 0)
  int64_t terms, outputs, term_step, output_step, tap_steps[2];

  Weight part(int64_t first, int64_t count) const {  // of the outputs
    return {data + first * output_step, terms, count, term_step, output_step, {tap_steps[0], tap_steps[1]}};
  }
  float* at(int64_t term, int64_t output) const { return data + term * term_step + output * output_step; }
  int64_t tap(int a, int b) const { return a * tap_steps[0] + b * tap_steps[1]; }
};

// Numbers `step` apart. Put together in a register: a vector read behind writes of its parts waits for all of them.
template <int... L>
GT_INLINE Vec gather(const float* p, int64_t step, std::integer_sequence<int, L...>) {
  return Vec{p[L * step]...};
}

// Kernels are panels of outputs, with a row for each term.
template <class S>
void make_kernels(const Weight& w, int64_t term, const Panels& to) {
  for (int64_t o = 0; o < w.outputs; o += kLanes) {
    const float* in = w.at(term, o);
    float* out = to.of(o, term);
    both_axes<typename S::Kernel>(
        [&](int a, int b) { return gather(in + w.tap(a, b), w.output_step, std::make_integer_sequence<int, kLanes>{}); },
        [&](int a, int b, Vec v) { store(out + (a * 6 + b) * to.step, v); });
  }
}

template <class S>
void read_kernels(const Panels& from, int64_t term, const Weight& w) {
  for (int64_t o = 0; o < w.outputs; o += kLanes) {
    const float* in = from.of(o, term);
    float taps[kTaps][kLanes];
    both_axes<typename S::Taps>([&](int a, int b) { return load(in + (a * 6 + b) * from.step); },
                                [&](int a, int b, Vec v) { store(taps[a * 3 + b], v); });
    float* out = w.at(term, o);
    for (int lane = 0; lane < kLanes; lane++, out += w.output_step)
#pragma GCC unroll 9
      for (int k = 0; k < kTaps; k++) out[w.tap(k / 3, k % 3)] = taps[k][lane];
  }
}

template <class S>
constexpr int kernel_of(int point) {
  return S::kernel(point / S::kSide) * 6 + S::kernel(point % S::kSide);
}

// products[k] = tiles[k] kernels[of k] for all points k, `rows` rows.
template <class S>
void tile_products(const Panels& tiles, const Panels& kernels, const Panels& products, int64_t rows) {
  const float* a[kMaxChannels / kGroup];
  for (int k = 0; k < S::kSide * S::kSide; k++)
    for (int64_t panel = 0; panel < kernels.panels(); panel++)
      for (int64_t r = 0; r < rows; r += kRows) {
        for (int64_t i = 0; i < tiles.panels(); i++) a[i] = tiles.at(k, i, r);
        product::run(product::Lines{a, tiles.width}, tiles.panels(), tiles.width,
                     kernels.at(kernel_of<S>(k), panel, 0), kernels.width, rows - r, products.at(k, panel, r), false);
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
        for (int64_t c = 0; c < tiles.width; c += kRows)
          product::run(product::Columns{tiles.at(k, i, 0) + c, tiles.width}, 1, rows, spread.at(k, first + panel, 0),
                       spread.width, tiles.width - c, total.at(kernel, panel, i * tiles.width + c), add);
    add = true;
  }
}

}  // namespace gt::winograd
