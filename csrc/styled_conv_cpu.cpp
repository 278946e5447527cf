// SPDX-License-Identifier: Apache-2.0
// styled_conv on the CPU.
#include "styled_conv.h"

#include "conv3x3_filter.h"
#include "runs.h"

namespace gt {
namespace {

using namespace winograd;

struct Tap {
  int y, x;
};
// Output (2 i + a, 2 j + b) of a transposed convolution takes the taps of its own parity: 0 from pixel i, 2 from i - 1.
const std::vector<std::vector<Tap>>& phases(int64_t form) {
  using Phases = std::vector<std::vector<Tap>>;
  static const Phases direct{{{0, 0}, {0, 1}, {0, 2}, {1, 0}, {1, 1}, {1, 2}, {2, 0}, {2, 1}, {2, 2}}};
  static const Phases transposed{{{0, 0}, {0, 2}, {2, 0}, {2, 2}}, {{0, 1}, {2, 1}}, {{1, 0}, {1, 2}}, {{1, 1}}};
  return form == kDirect ? direct : transposed;
}

struct Layer : StyledConvParams {
  Activation<float> act;

  explicit Layer(const StyledConvParams& p) : StyledConvParams(p), act{p.slope, p.bound} {}

  // What follows the convolution, for the vector of channels from `column` on of pixel `at` of image `i`.
  GT_INLINE void finish(int64_t i, int64_t at, int64_t column, Vec v) const {
    const float z = noise ? noise[i * noise_step + at] * strength : 0.f;
    const Vec bias = b ? load(b + column) : Vec{};
    store(y + (i * h * w + at) * o + column, act(v * (load(d + i * o + column) * gain) + (bias * gain + z)));
  }
};

// x times the styles with a border of zeros: [n, h + 2, w + 2, c].
std::vector<float> bordered(const Layer& p) {
  std::vector<float> image(p.n * (p.h + 2) * (p.w + 2) * p.c, 0.f);
  float* to = image.data();
  for (int64_t i = 0; i < p.n; i++)
    for (int64_t y = 0; y < p.h; y++) {
      const float* from = p.x + (i * p.h + y) * p.w * p.c;
      float* row = to + ((i * (p.h + 2) + y + 1) * (p.w + 2) + 1) * p.c;
      for (int64_t x = 0; x < p.w; x++)
        for (int64_t c = 0; c < p.c; c += kLanes)
          store(row + x * p.c + c, load(from + x * p.c + c) * load(p.s + i * p.c + c));
    }
  return image;
}

// Sums over the taps of a phase at `h` by `w` pixels: its taps are `offsets` from pixel (y, x) of the bordered image. The
// sum of pixel (y, x) of image i is number place(y, x) of it, and put(i, that number, column, vector) takes it.
template <class Place, class Put>
void directly(const Layer& p, const float* from, int64_t h, int64_t w, const float* weights,
              const std::vector<int64_t>& offsets, const Place& place, const Put& put) {
  const int64_t taps = int64_t(offsets.size()), width = product::panel_width(p.o), panels = p.o / width;
  const int64_t total = p.n * h * w, chunk = std::min<int64_t>(total, 96), chunks = (total - 1) / chunk + 1;
  parallel_for(chunks * panels, 1, [&](int64_t begin, int64_t end) {
    std::vector<const float*> rows(chunk);
    float sums[kRows * 64];
    for (int64_t task = begin; task < end; task++) {
      const int64_t first = task / panels * chunk, here = std::min(chunk, total - first), panel = task % panels;
      for (int64_t r = 0; r < here; r++) {
        const int64_t i = (first + r) / (h * w), y = (first + r) / w % h, x = (first + r) % w;
        rows[r] = from + ((i * (p.h + 2) + y) * (p.w + 2) + x) * p.c;
      }
      for (int64_t r = 0; r < here; r += kRows) {
        product::run(product::Listed{&rows[r], offsets.data()}, taps, p.c, weights + panel * taps * p.c * width, width,
                     here - r, sums, false);
        for (int64_t k = 0; k < std::min<int64_t>(kRows, here - r); k++) {
          const int64_t at = first + r + k, i = at / (h * w), number = place(at / w % h, at % w);
          for (int64_t c = 0; c < width; c += kLanes) put(i, number, panel * width + c, load(sums + k * width + c));
        }
      }
    }
  });
}

}  // namespace

void styled_conv_weights_cpu(const float* from, int64_t c, int64_t o, int64_t form, float* to) {
  if (filtered(form)) {
    const Weight weight{const_cast<float*>(from), c, o, kTaps, c * kTaps, {3, 1}};
    const Panels kernels(to, o, c);
    for (int64_t i = 0; i < c; i++)
      form == kFiltered ? make_kernels<Dense>(weight, i, kernels) : make_kernels<Strided>(weight, i, kernels);
    return;
  }
  const int64_t width = panel_width(o);
  for (const auto& taps : phases(form))
    for (int64_t panel = 0; panel < o; panel += width)
      for (const Tap& t : taps)
        for (int64_t i = 0; i < c; i++)
          for (int64_t k = panel; k < panel + width; k++) *to++ = from[(k * c + i) * kTaps + t.y * 3 + t.x];
}

// d[n, o] = (sum_c s[n, c]^2 q[c, o] + 1e-8)^-1/2
void styled_conv_demodulation_cpu(const float* s, const float* q, float* d, int64_t n, int64_t c, int64_t o) {
  for (int64_t i = 0; i < n; i++, s += c, d += o) {
    for (int64_t column = 0; column < o; column += kLanes) {
      Vec sum = Vec{} + 1e-8f;
      for (int64_t k = 0; k < c; k++) sum += load(q + k * o + column) * (s[k] * s[k]);
      store(d + column, sum);
    }
    for (int64_t k = 0; k < o; k++) d[k] = 1.f / std::sqrt(d[k]);
  }
}

void styled_conv_cpu(const StyledConvParams& params, bool by_filters) {
  const Layer p(params);
  if (by_filters) {
    const Image in{const_cast<float*>(p.x), p.n, p.h, p.w, p.c}, out{p.y, p.n, p.h, p.w, p.o};
    const Panels kernels(const_cast<float*>(p.weights), p.o, p.c);
    const int64_t area = p.h * p.w;
    filter<Dense>({nullptr, p.c, p.o}, &kernels, Tile::count(out), 1,
                  [&](int64_t t, const Panels& to, int64_t row) { input_tile<Dense, true>(in, out, t, to, row, p.s); },
                  [&](const Panels& from, int64_t row, int64_t at, int64_t t) {
                    output_tile<Dense>(from, row, out, t, [&](int64_t pixel, int64_t c, Vec v) {
                      p.finish(pixel / area, pixel % area, at + c, v);
                    });
                  });
    return;
  }
  const std::vector<float> from = bordered(p);
  std::vector<int64_t> offsets;
  for (const Tap& t : phases(kDirect)[0]) offsets.push_back((t.y * (p.w + 2) + t.x) * p.c);
  directly(p, from.data(), p.h, p.w, p.weights, offsets, [&](int64_t v, int64_t u) { return v * p.w + u; },
           [&](int64_t i, int64_t at, int64_t column, Vec v) { p.finish(i, at, column, v); });
}

void styled_conv_up_cpu(const StyledConvParams& params, bool by_filters) {
  const Layer p(params);
  const int64_t height = 2 * p.h + 1, width = 2 * p.w + 1;
  if (by_filters) {  // the adjoint of a convolution with stride 2
    const Image in{const_cast<float*>(p.x), p.n, p.h, p.w, p.c}, out{p.y, p.n, height, width, p.o};
    const Panels kernels(const_cast<float*>(p.weights), p.o, p.c);
    filter<Strided>({nullptr, p.c, p.o}, &kernels, Tile::count(in), Tile::count(in) / p.n,
                    [&](int64_t t, const Panels& to, int64_t row) { spread_tile<Strided, true>(in, t, to, row, p.s); },
                    [&](const Panels& from, int64_t row, int64_t at, int64_t t) {
                      pixel_tile(from, row, out, at, in, t);
                    });
    return;
  }
  const std::vector<float> from = bordered(p);
  const float* weights = p.weights;
  for (int64_t phase = 0; phase < 4; phase++) {
    const int64_t a = phase / 2, b = phase % 2;
    const auto& taps = phases(kDirectUp)[phase];
    std::vector<int64_t> offsets;
    for (const Tap& t : taps) offsets.push_back(((t.y < 2) * (p.w + 2) + (t.x < 2)) * p.c);
    directly(p, from.data(), p.h + 1 - a, p.w + 1 - b, weights, offsets,
             [&](int64_t v, int64_t u) { return (2 * v + a) * width + 2 * u + b; },
             [&](int64_t i, int64_t at, int64_t column, Vec v) {
               store(p.y + (i * height * width + at) * p.o + column, v);
             });
    weights += int64_t(taps.size()) * p.c * p.o;
  }
}

}  // namespace gt
