// SPDX-License-Identifier: Apache-2.0
// How a 3x3 filter of conv3x3.h runs over the tiles of a batch: in blocks that stay in the cache, on all threads.
#pragma once
#include <c10/core/CPUAllocator.h>

#include "conv3x3.h"
#include "memory.h"
#include "parallel.h"

namespace gt::winograd {

constexpr int64_t kFew = 48;  // up to so many tiles the kernels are as large as the images: a panel of them at a time
constexpr int64_t kWide = 1 << 17;  // from so many elements of a weight's plane on they do not stay in the cache

// Memory for panels. It is written before it is read.
class Scratch {
  c10::DataPtr memory_;
  float* next_;

 public:
  explicit Scratch(int64_t size) : memory_(c10::GetCPUAllocator()->allocate(size * sizeof(float))) {
    next_ = static_cast<float*>(memory_.get());
    large_pages(next_, size * sizeof(float));
  }
  Panels take(int points, int64_t channels, int64_t rows) {
    const Panels p(next_, channels, rows);
    next_ += Panels::numbers(points, channels, rows);
    return p;
  }
};

template <class F>
void in_parallel(int64_t n, int64_t grain, const F& f) {
  parallel_for(n, grain, [&](int64_t first, int64_t last) {
    for (; first < last; first++) f(first);
  });
}

// read(tile, panels, row), products with kernels, write(panels, row, first channel, tile). `together`: groups of so many
// tiles are written in their order. The kernels are `ready`, or made of w.
template <class S, class Read, class Write>
void filter(const Weight& w, const Panels* ready, int64_t tiles, int64_t together, const Read& read,
            const Write& write) {
  constexpr int points = S::kSide * S::kSide;
  const int64_t width = panel_width(w.outputs);
  if (tiles <= kFew) {
    Scratch all(Panels::numbers(points, w.terms, tiles));
    const Panels from = all.take(points, w.terms, tiles);
    in_parallel(tiles, 8, [&](int64_t t) { read(t, from, t); });
    parallel_for(w.outputs / width, 1, [&](int64_t first, int64_t last) {
      Scratch own((ready ? 0 : Panels::numbers(kKernels, width, w.terms)) + Panels::numbers(points, width, tiles));
      const Panels products = own.take(points, width, tiles);
      const Panels made = ready ? *ready : own.take(kKernels, width, w.terms);
      for (int64_t panel = first; panel < last; panel++) {
        if (!ready) {
          const Weight part = w.part(panel * width, width);
          for (int64_t i = 0; i < w.terms; i++) make_kernels<S>(part, i, made);
        }
        tile_products<S>(from, ready ? ready->one(panel) : made, products, tiles);
        for (int64_t t = 0; t < tiles; t++) write(products, t, panel * width, t);
      }
    });
    return;
  }
  Scratch all(ready ? 0 : Panels::numbers(kKernels, w.outputs, w.terms));
  const Panels kernels = ready ? *ready : all.take(kKernels, w.outputs, w.terms);
  if (!ready) in_parallel(w.terms, 8, [&](int64_t i) { make_kernels<S>(w, i, kernels); });
  // Enough rows that reading the kernels does not limit, few enough that tiles and products stay in the cache.
  const int64_t block = std::min<int64_t>(tiles, w.terms * w.outputs > kWide ? 96 : 24),
                chunk = ((block - 1) / together + 1) * together;
  parallel_for((tiles - 1) / chunk + 1, 1, [&](int64_t first, int64_t last) {
    Scratch own(Panels::numbers(points, w.terms, block) + Panels::numbers(points, w.outputs, block));
    const Panels from = own.take(points, w.terms, block), products = own.take(points, w.outputs, block);
    const int64_t end = std::min(tiles, last * chunk);
    for (int64_t t = first * chunk; t < end; t += block) {
      const int64_t rows = std::min(block, end - t);
      for (int64_t r = 0; r < rows; r++) read(t + r, from, r);
      tile_products<S>(from, kernels, products, rows);
      for (int64_t r = 0; r < rows; r++) write(products, r, 0, t + r);
    }
  });
}

}  // namespace gt::winograd
