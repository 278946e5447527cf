// SPDX-License-Identifier: Apache-2.0
// conv3x3 on the CPU. Images without stride have sides in multiples of kTile; with stride 2 the other side has 2 h + 1.
#include "conv3x3_filter.h"

namespace gt::winograd {
namespace {

// What writes the outputs of tile t, of channels from `at` on.
template <class S>
auto outputs(const Image& y) {
  return [=](const Panels& from, int64_t row, int64_t at, int64_t t) {
    output_tile<S>(from, row, y, t, [&](int64_t pixel, int64_t c, Vec v) { store(y.data + pixel * y.c + at + c, v); });
  };
}

template <class S>
void forward(const Image& x, const Weight& w, const Image& y) {
  filter<S>(w, nullptr, Tile::count(y), 1,
            [&](int64_t t, const Panels& to, int64_t row) { input_tile<S>(x, y, t, to, row); }, outputs<S>(y));
}

template <class S>
void weight_grad(const Image& out, const Image& in, const Weight& w) {
  constexpr int points = S::kSide * S::kSide;
  const int64_t tiles = Tile::count(out), block = std::min<int64_t>(tiles, in.c * out.c > kWide ? 96 : 64);
  Scratch all(Panels::numbers(points, in.c, block) + Panels::numbers(points, out.c, block));
  const Panels from = all.take(points, in.c, block), spread = all.take(points, out.c, block);
  const auto transform = [&](int64_t t, int64_t rows) {
    in_parallel(rows, 8, [&](int64_t r) {
      input_tile<S>(in, out, t + r, from, r);
      spread_tile<S>(out, t + r, spread, r);
    });
  };
  if (tiles == block) {
    transform(0, tiles);
    parallel_for(spread.panels(), 1, [&](int64_t first, int64_t last) {
      Scratch own(Panels::numbers(kKernels, spread.width, in.c));
      const Panels total = own.take(kKernels, spread.width, in.c);
      for (int64_t panel = first; panel < last; panel++) {
        for (int k = 0; k < kKernels; k++) kernel_products<S>(from, spread, panel, total, k, tiles, false);
        const Weight part = w.part(panel * spread.width, spread.width);
        for (int64_t i = 0; i < in.c; i++) read_kernels<S>(total, i, part);
      }
    });
    return;
  }
  Scratch sums(Panels::numbers(kKernels, out.c, in.c));
  const Panels total = sums.take(kKernels, out.c, in.c);
  for (int64_t t = 0; t < tiles; t += block) {  // in this order, whatever the number of threads
    const int64_t rows = std::min(block, tiles - t);
    transform(t, rows);
    in_parallel(kKernels, 1, [&](int64_t k) { kernel_products<S>(from, spread, 0, total, int(k), rows, t > 0); });
  }
  in_parallel(in.c, 8, [&](int64_t i) { read_kernels<S>(total, i, w); });
}

}  // namespace

void conv3x3_cpu(const Image& x, const Weight& w, const Image& y, int64_t stride) {
  stride == 1 ? forward<Dense>(x, w, y) : forward<Strided>(x, w, y);
}

// w: transposed, and without stride mirrored.
void conv3x3_input_grad_cpu(const Image& dy, const Weight& w, const Image& dx, int64_t stride) {
  if (stride == 1) return forward<Dense>(dy, w, dx);
  filter<Strided>(w, nullptr, Tile::count(dy), Tile::count(dy) / dy.n,
                  [&](int64_t t, const Panels& to, int64_t row) { spread_tile<Strided>(dy, t, to, row); },
                  [&](const Panels& from, int64_t row, int64_t at, int64_t t) {
                    pixel_tile(from, row, dx, at, dy, t);
                  });
}

void conv3x3_weight_grad_cpu(const Image& dy, const Image& x, const Weight& dw, int64_t stride) {
  stride == 1 ? weight_grad<Dense>(dy, x, dw) : weight_grad<Strided>(dy, x, dw);
}

}  // namespace gt::winograd
