// SPDX-License-Identifier: Apache-2.0
// conv3x3: schema, checks, CPU kernel. Three operators that differentiate into one another (autograd.cpp). There is no
// CUDA kernel: convolutions are cuDNN's there.
#include "conv3x3_filter.h"

namespace gt {
namespace {

using namespace winograd;

constexpr auto kLayout = at::MemoryFormat::ChannelsLast;

void check(const Tensor& t, const char* name) {
  TORCH_CHECK(t.dim() == 4 && t.is_cpu() && t.scalar_type() == at::kFloat, "conv3x3: ", name,
              " with four dimensions in float32 on the CPU expected, got ", t.sizes(), " ", t.scalar_type(), " on ",
              t.device());
}

// y (or dy): the side without stride.
void check_outputs(const Tensor& y, const char* name) {
  TORCH_CHECK(y.numel() > 0 && y.size(1) % kGroup == 0 && y.size(1) <= kMaxChannels && y.size(2) % kTile == 0 &&
                  y.size(3) % kTile == 0,
              "conv3x3: ", name, ": at most ", kMaxChannels, " channels in multiples of ", kGroup,
              " and sides in multiples of ", kTile, " expected, got ", y.sizes());
}

void check_weight(const Tensor& w, int64_t channels, int dim) {
  check(w, "w");
  const int64_t others = w.size(1 - dim);
  TORCH_CHECK(w.size(2) == 3 && w.size(3) == 3 && w.size(dim) == channels && others > 0 && others % kGroup == 0 &&
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

// What writes the outputs of tile t, of channels from `at` on.
template <class S>
auto outputs(const Image& y) {
  return [=](const Panels& from, int64_t row, int64_t at, int64_t t) {
    output_tile<S>(from, row, y, t, [&](int64_t pixel, int64_t c, Vec v) { store(y.data + pixel * y.c + at + c, v); });
  };
}

template <class S>
Tensor forward(const Tensor& x, const Tensor& w) {
  const int64_t h = S::kPad ? x.size(2) : (x.size(2) - 1) / 2, width = S::kPad ? x.size(3) : (x.size(3) - 1) / 2;
  Tensor y = fresh_image(x, w.size(0), h, width);
  check_outputs(y, "y");
  const Image in = image(x), out = image(y);
  filter<S>(x, weight_of(w, false, false), nullptr, Tile::count(out), 1,
            [&](int64_t t, const Panels& to, int64_t row) { input_tile<S>(in, out, t, to, row); },
            outputs<S>(out));
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
    filter<Dense>(dy, weight_of(w, true, true), nullptr, Tile::count(in), 1,
                  [&](int64_t t, const Panels& to, int64_t row) { input_tile<Dense>(in, in, t, to, row); },
                  outputs<Dense>(out));
    return dx;
  }
  Tensor dx = fresh_image(dy, w.size(1), 2 * dy.size(2) + 1, 2 * dy.size(3) + 1);
  const Image in = image(dy), out = image(dx);
  filter<Strided>(dy, weight_of(w, true, false), nullptr, Tile::count(in), Tile::count(in) / in.n,
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
  Scratch all(x, Panels::numbers(points, in.c, block) + Panels::numbers(points, out.c, block));
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
      Scratch own(x, Panels::numbers(kKernels, spread.width, in.c));
      const Panels total = own.take(kKernels, spread.width, in.c);
      for (int64_t panel = first; panel < last; panel++) {
        for (int k = 0; k < kKernels; k++) kernel_products<S>(from, spread, panel, total, k, tiles, false);
        const Weight part = w.part(panel * spread.width, spread.width);
        for (int64_t i = 0; i < in.c; i++) read_kernels<S>(total, i, part);
      }
    });
    return dw;
  }
  Scratch sums(x, Panels::numbers(kKernels, out.c, in.c));
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
  TORCH_CHECK(dy.size(0) == x.size(0) && fits(2) && fits(3) && x.size(1) > 0 && x.size(1) % kGroup == 0 &&
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
