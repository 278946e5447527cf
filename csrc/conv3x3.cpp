// SPDX-License-Identifier: Apache-2.0
// conv3x3: schema, checks, CPU kernel. Three operators that differentiate into one another (autograd.cpp). There is no
// CUDA kernel: convolutions are cuDNN's there.
#include "conv3x3.h"

#include "binding.h"

namespace gt {
namespace {

using namespace winograd;

constexpr auto kLayout = at::MemoryFormat::ChannelsLast;
constexpr int64_t kFew = 48;  // up to so many tiles the kernels are as large as the images: a panel of them at a time
constexpr int64_t kWide = 1 << 17;  // from so many elements of a weight's plane on they do not stay in the cache

void check(const Tensor& t, const char* name) {
  TORCH_CHECK(t.dim() == 4 && t.is_cpu() && t.scalar_type() == at::kFloat, "conv3x3: ", name,
              " with four dimensions in float32 on the CPU expected, got ", t.sizes(), " ", t.scalar_type(), " on ",
              t.device());
}

// y (or dy): the side without stride.
void check_outputs(const Tensor& y, const char* name) {
  TORCH_CHECK(y.numel() > 0 && y.size(1) % kLanes == 0 && y.size(1) <= kMaxChannels && y.size(2) % kTile == 0 &&
                  y.size(3) % kTile == 0,
              "conv3x3: ", name, ": at most ", kMaxChannels, " channels in multiples of ", kLanes,
              " and sides in multiples of ", kTile, " expected, got ", y.sizes());
}

void check_weight(const Tensor& w, int64_t channels, int dim) {
  check(w, "w");
  const int64_t others = w.size(1 - dim);
  TORCH_CHECK(w.size(2) == 3 && w.size(3) == 3 && w.size(dim) == channels && others > 0 && others % kLanes == 0 &&
                  others <= kMaxChannels, "conv3x3: w ", w.sizes(), " does not fit ", channels, " channels");
}

Image image(const Tensor& x) { return {x.data_ptr<float>(), x.size(0), x.size(2), x.size(3), x.size(1)}; }

Tensor fresh_image(const Tensor& like, int64_t c, int64_t h, int64_t w) {
  return fresh(at::empty({like.size(0), c, h, w}, like.options().memory_format(kLayout)));
}

Weight weight_of(const Tensor& w, bool transposed, bool mirrored) {
  const auto s = w.strides();
  float* p = w.data_ptr<float>();
  const int64_t sign = mirrored ? -1 : 1;
  if (mirrored) p += 2 * s[2] + 2 * s[3];
  if (transposed) return {p, w.size(0), w.size(1), s[0], s[1], {sign * s[2], sign * s[3]}};
  return {p, w.size(1), w.size(0), s[1], s[0], {sign * s[2], sign * s[3]}};
}

// Memory for panels. It is written before it is read.
class Scratch {
  Tensor memory_;
  float* next_;

 public:
  Scratch(const Tensor& like, int64_t size) : memory_(fresh(at::empty({size}, like.options()))) {
    next_ = memory_.data_ptr<float>();
  }
  static int64_t size(int points, int64_t channels, int64_t rows) { return points * (channels * rows + kLanes); }
  Panels take(int points, int64_t channels, int64_t rows) {
    const Panels p(next_, channels, rows);
    next_ += size(points, channels, rows);
    return p;
  }
};

template <class F>
void in_parallel(int64_t n, int64_t grain, const F& f) {
  at::parallel_for(0, n, grain, [&](int64_t first, int64_t last) {
    for (; first < last; first++) f(first);
  });
}

// read(tile, panels, row), products with the weight's kernels, write(panels, row, first channel, tile). `together`:
// groups of so many tiles are written in their order.
template <class S, class Read, class Write>
void filter(const Tensor& like, const Weight& w, int64_t tiles, int64_t together, const Read& read,
            const Write& write) {
  constexpr int points = S::kSide * S::kSide;
  const int64_t width = panel_width(w.outputs);
  if (tiles <= kFew) {
    Scratch all(like, Scratch::size(points, w.terms, tiles));
    const Panels from = all.take(points, w.terms, tiles);
    in_parallel(tiles, 8, [&](int64_t t) { read(t, from, t); });
    at::parallel_for(0, w.outputs / width, 1, [&](int64_t first, int64_t last) {
      Scratch own(like, Scratch::size(kKernels, width, w.terms) + Scratch::size(points, width, tiles));
      const Panels kernels = own.take(kKernels, width, w.terms), products = own.take(points, width, tiles);
      for (int64_t panel = first; panel < last; panel++) {
        const Weight part = w.part(panel * width, width);
        for (int64_t i = 0; i < w.terms; i++) make_kernels<S>(part, i, kernels);
        tile_products<S>(from, kernels, products, tiles);
        for (int64_t t = 0; t < tiles; t++) write(products, t, panel * width, t);
      }
    });
    return;
  }
  Scratch all(like, Scratch::size(kKernels, w.outputs, w.terms));
  const Panels kernels = all.take(kKernels, w.outputs, w.terms);
  in_parallel(w.terms, 8, [&](int64_t i) { make_kernels<S>(w, i, kernels); });
  // Enough rows that reading the kernels does not limit, few enough that tiles and products stay in the cache.
  const int64_t block = std::min<int64_t>(tiles, w.terms * w.outputs > kWide ? 96 : 24),
                chunk = ((block - 1) / together + 1) * together;
  at::parallel_for(0, (tiles - 1) / chunk + 1, 1, [&](int64_t first, int64_t last) {
    Scratch own(like, Scratch::size(points, w.terms, block) + Scratch::size(points, w.outputs, block));
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

template <class S>
Tensor forward(const Tensor& x, const Tensor& w) {
  const int64_t h = S::kPad ? x.size(2) : (x.size(2) - 1) / 2, width = S::kPad ? x.size(3) : (x.size(3) - 1) / 2;
  Tensor y = fresh_image(x, w.size(0), h, width);
  check_outputs(y, "y");
  const Image in = image(x), out = image(y);
  filter<S>(x, weight_of(w, false, false), Tile::count(out), 1,
            [&](int64_t t, const Panels& to, int64_t row) { input_tile<S>(in, out, t, to, row); },
            [&](const Panels& from, int64_t row, int64_t at, int64_t t) { output_tile<S>(from, row, out, at, t); });
  return y;
}

Tensor conv3x3(const Tensor& x, const Tensor& w, int64_t stride) {
  check(x, "x");
  check_weight(w, x.size(1), 1);
  TORCH_CHECK(stride == 1 || (stride == 2 && x.size(2) % 2 && x.size(3) % 2), "conv3x3: stride ", stride,
              " does not fit ", x.sizes());
  const Tensor dense = x.contiguous(kLayout);
  return stride == 1 ? forward<Dense>(dense, w) : forward<Strided>(dense, w);
}

Tensor conv3x3_input_grad(const Tensor& dy_, const Tensor& w, int64_t stride) {
  check(dy_, "dy");
  check_outputs(dy_, "dy");
  check_weight(w, dy_.size(1), 0);
  const Tensor dy = dy_.contiguous(kLayout);
  if (stride == 1) {
    Tensor dx = fresh_image(dy, w.size(1), dy.size(2), dy.size(3));
    const Image in = image(dy), out = image(dx);
    filter<Dense>(dy, weight_of(w, true, true), Tile::count(in), 1,
                  [&](int64_t t, const Panels& to, int64_t row) { input_tile<Dense>(in, in, t, to, row); },
                  [&](const Panels& from, int64_t row, int64_t at, int64_t t) {
                    output_tile<Dense>(from, row, out, at, t);
                  });
    return dx;
  }
  Tensor dx = fresh_image(dy, w.size(1), 2 * dy.size(2) + 1, 2 * dy.size(3) + 1);
  const Image in = image(dy), out = image(dx);
  filter<Strided>(dy, weight_of(w, true, false), Tile::count(in), Tile::count(in) / in.n,
                  [&](int64_t t, const Panels& to, int64_t row) { spread_tile<Strided>(in, t, to, row); },
                  [&](const Panels& from, int64_t row, int64_t at, int64_t t) {
                    pixel_tile(from, row, out, at, in, t);
                  });
  return dx;
}

template <class S>
Tensor weight_grad(const Tensor& dy, const Tensor& x) {
  constexpr int points = S::kSide * S::kSide;
  const Image in = image(x), out = image(dy);
  Tensor dw = fresh(at::empty({out.c, in.c, 3, 3}, x.options()));
  const Weight w = weight_of(dw, false, false);
  const int64_t tiles = Tile::count(out), block = std::min<int64_t>(tiles, in.c * out.c > kWide ? 96 : 64);
  Scratch all(x, Scratch::size(points, in.c, block) + Scratch::size(points, out.c, block));
  const Panels from = all.take(points, in.c, block), spread = all.take(points, out.c, block);
  const auto transform = [&](int64_t t, int64_t rows) {
    in_parallel(rows, 8, [&](int64_t r) {
      input_tile<S>(in, out, t + r, from, r);
      spread_tile<S>(out, t + r, spread, r);
    });
  };
  if (tiles == block) {
    transform(0, tiles);
    at::parallel_for(0, spread.panels(), 1, [&](int64_t first, int64_t last) {
      Scratch own(x, Scratch::size(kKernels, spread.width, in.c));
      const Panels total = own.take(kKernels, spread.width, in.c);
      for (int64_t panel = first; panel < last; panel++) {
        for (int k = 0; k < kKernels; k++) kernel_products<S>(from, spread, panel, total, k, tiles, false);
        const Weight part = w.part(panel * spread.width, spread.width);
        for (int64_t i = 0; i < in.c; i++) read_kernels<S>(total, i, part);
      }
    });
    return dw;
  }
  Scratch sums(x, Scratch::size(kKernels, out.c, in.c));
  const Panels total = sums.take(kKernels, out.c, in.c);
  for (int64_t t = 0; t < tiles; t += block) {  // in this order, whatever the number of threads
    const int64_t rows = std::min(block, tiles - t);
    transform(t, rows);
    in_parallel(kKernels, 1, [&](int64_t k) { kernel_products<S>(from, spread, 0, total, int(k), rows, t > 0); });
  }
  in_parallel(in.c, 8, [&](int64_t i) { read_kernels<S>(total, i, w); });
  return dw;
}

Tensor conv3x3_weight_grad(const Tensor& dy, const Tensor& x, int64_t stride) {
  check(x, "x");
  check(dy, "dy");
  check_outputs(dy, "dy");
  const auto fits = [&](int i) { return x.size(i) == (stride == 1 ? dy.size(i) : 2 * dy.size(i) + 1); };
  TORCH_CHECK(dy.size(0) == x.size(0) && fits(2) && fits(3) && x.size(1) > 0 && x.size(1) % kLanes == 0 &&
                  x.size(1) <= kMaxChannels, "conv3x3: dy ", dy.sizes(), " does not fit x ", x.sizes());
  const Tensor a = dy.contiguous(kLayout), b = x.contiguous(kLayout);
  return stride == 1 ? weight_grad<Dense>(a, b) : weight_grad<Strided>(a, b);
}

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) {
  m.def("conv3x3(Tensor x, Tensor w, int stride) -> Tensor");
  m.def("conv3x3_input_grad(Tensor dy, Tensor w, int stride) -> Tensor");
  m.def("conv3x3_weight_grad(Tensor dy, Tensor x, int stride) -> Tensor");
}

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) {
  m.impl("conv3x3", gt::conv3x3);
  m.impl("conv3x3_input_grad", gt::conv3x3_input_grad);
  m.impl("conv3x3_weight_grad", gt::conv3x3_weight_grad);
}
