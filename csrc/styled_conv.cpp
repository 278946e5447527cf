// SPDX-License-Identifier: Apache-2.0
// A StyleGAN2 synthesis layer for inference on the CPU: float32, channels last, weights prepared once
// (torch_utils/ops/styled_conv.py says in which order they lie). Three forms of the modulated 3x3 convolution: Winograd's
// F(4x4, 3x3) with styles, demodulation, noise, bias and activation in its transforms; direct, for images too small for
// it; and transposed with stride 2, whose blur and epilogue follow in blur_epilogue. Every output is summed in one order
// whatever else is in the batch.
#include "binding.h"
#include "runs.h"

namespace gt {
namespace {

using vec::kLanes;
using vec::load;
using vec::store;
using vec::Vec;

// Rows and vectors of columns that a product holds in registers.
#ifdef __AVX512F__
constexpr int kRows = 8, kVectors = 2;
#else
constexpr int kRows = 4, kVectors = 1;
#endif
constexpr int kTile = 4, kSide = kTile + 2, kPoints = kSide * kSide;
constexpr int64_t kChunkFloats = 300 << 10;  // of transformed tiles and products at a time: they stay near the core

// Products of rows of `k` numbers with weights: row r of tap t starts at rows[r] + offsets[t]; weights are
// [o / kLanes][taps][k][kLanes]. Calls put(r, column, vector) for each row below `count`.
struct Weights {
  const float* w;
  const int64_t* offsets;
  int taps;
  int64_t k, o;
};

template <int R, int V, class Put>
GT_INLINE void block(const Weights& m, const float* const* rows, int64_t first, int64_t count, int64_t column,
                     const Put& put) {
  const int64_t step = m.taps * m.k * kLanes;  // between neighbouring vectors of columns
  const float* w = m.w + column / kLanes * step;
  Vec sum[R][V] = {};
  for (int t = 0; t < m.taps; t++) {
    const float* a[R];
    for (int r = 0; r < R; r++) a[r] = rows[std::min<int64_t>(first + r, count - 1)] + m.offsets[t];
    for (int64_t i = 0; i < m.k; i++, w += kLanes) {
      Vec b[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) b[v] = load(w + v * step);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const Vec x = Vec{} + a[r][i];
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sum[r][v] += x * b[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
    if (first + r < count)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) put(first + r, column + v * kLanes, sum[r][v]);
}

template <int V, class Put>
void columns(const Weights& m, const float* const* rows, int64_t count, int64_t column, const Put& put) {
  int64_t r = 0;
  for (; r + kRows / 2 < count; r += kRows) block<kRows, V>(m, rows, r, count, column, put);
  if (r < count) block<kRows / 2, V>(m, rows, r, count, column, put);
}

template <class Put>
void multiply(const Weights& m, const float* const* rows, int64_t count, const Put& put) {
  int64_t column = 0;
  for (; column + kVectors * kLanes <= m.o; column += kVectors * kLanes) columns<kVectors>(m, rows, count, column, put);
  if (column < m.o) columns<1>(m, rows, count, column, put);
}

// The points are 0, +-sqrt(2), +-sqrt(1/2), infinity, as in torch_utils/ops/winograd.py.
constexpr float kRoot2 = 1.41421356237309504880f, kRootHalf = 0.70710678118654752440f;

GT_INLINE void to_points(const Vec* d, Vec* t) {
  const Vec a = d[4] - 0.5f * d[2], b = kRoot2 * d[3] - kRootHalf * d[1];
  const Vec e = d[4] - 2.f * d[2], f = kRootHalf * d[3] - kRoot2 * d[1];
  t[0] = d[0] - 2.5f * d[2] + d[4];
  t[1] = a + b;
  t[2] = a - b;
  t[3] = e + f;
  t[4] = e - f;
  t[5] = d[1] - 2.5f * d[3] + d[5];
}

GT_INLINE void from_points(const Vec* m, Vec* y) {
  const Vec a = m[1] + m[2], b = m[1] - m[2], e = m[3] + m[4], f = m[3] - m[4];
  y[0] = m[0] + a + e;
  y[1] = kRoot2 * b + kRootHalf * f;
  y[2] = 2.f * a + 0.5f * e;
  y[3] = 2.f * kRoot2 * b + 0.5f * kRootHalf * f + m[5];
}

struct Layer {
  const float *x, *s, *d, *noise, *b;
  float strength, gain;
  Activation<float> act;
  float* y;
  int64_t n, c, h, w, o, noise_step;

  // What follows the convolution, for the vector of channels from `column` on of pixel `at` of image `i`.
  GT_INLINE void finish(int64_t i, int64_t at, int64_t column, Vec v) const {
    const float z = noise ? noise[i * noise_step + at] * strength : 0.f;
    const Vec bias = b ? load(b + column) : Vec{};
    store(y + (i * h * w + at) * o + column, act(v * (load(d + i * o + column) * gain) + (bias * gain + z)));
  }
};

// The tile of channels c .. c + kLanes whose outputs begin at (y, x), scaled by the styles and transformed.
GT_INLINE void transform_tile(const Layer& p, int64_t i, int64_t y, int64_t x, int64_t c, float* to, int64_t plane) {
  const float* image = p.x + i * p.h * p.w * p.c + c;
  const Vec s = load(p.s + i * p.c + c);
  const bool left = x > 0, right = x + kTile < p.w;
  Vec t[kSide][kSide];
#pragma GCC unroll 6
  for (int r = 0; r < kSide; r++) {
    const int64_t row = y + r - 1;
    Vec d[kSide] = {};
    if (row >= 0 && row < p.h) {
      const float* from = image + (row * p.w + x) * p.c;
      if (left) d[0] = load(from - p.c) * s;
#pragma GCC unroll 4
      for (int j = 0; j < kTile; j++) d[j + 1] = load(from + j * p.c) * s;
      if (right) d[5] = load(from + kTile * p.c) * s;
    }
    to_points(d, t[r]);
  }
#pragma GCC unroll 6
  for (int j = 0; j < kSide; j++) {
    Vec d[kSide], u[kSide];
    for (int r = 0; r < kSide; r++) d[r] = t[r][j];
    to_points(d, u);
    for (int r = 0; r < kSide; r++) store(to + (r * kSide + j) * plane, u[r]);
  }
}

GT_INLINE void finish_tile(const Layer& p, int64_t i, int64_t y, int64_t x, int64_t column, const float* from,
                           int64_t plane) {
  Vec t[kTile][kSide];
#pragma GCC unroll 6
  for (int j = 0; j < kSide; j++) {
    Vec m[kSide], u[kTile];
    for (int r = 0; r < kSide; r++) m[r] = load(from + (r * kSide + j) * plane);
    from_points(m, u);
    for (int r = 0; r < kTile; r++) t[r][j] = u[r];
  }
#pragma GCC unroll 4
  for (int r = 0; r < kTile; r++) {
    Vec u[kTile];
    from_points(t[r], u);
    for (int j = 0; j < kTile; j++) p.finish(i, (y + r) * p.w + x + j, column, u[j]);
  }
}

void by_winograd(const Layer& p, const float* w) {
  const int64_t across = p.w / kTile, each = p.h / kTile * across, tiles = p.n * each;
  const int64_t fit = kChunkFloats / (kPoints * (p.c + p.o)) / kRows * kRows;
  const int64_t chunk = std::min(tiles, std::clamp<int64_t>(fit, 2 * kRows, 512));
  const int64_t none = 0;
  at::parallel_for(0, (tiles - 1) / chunk + 1, 1, [&](int64_t begin, int64_t end) {
    // A line more than the numbers, or planes would share their place in the caches.
    const int64_t in = chunk * p.c + kLanes, out = chunk * p.o + kLanes;
    const Tensor work = at::empty({kPoints * (in + out)}, at::kFloat);
    float *a = work.data_ptr<float>(), *m = a + kPoints * in;
    std::vector<const float*> rows(chunk);
    for (int64_t k = begin; k < end; k++) {
      const int64_t first = k * chunk, count = std::min(chunk, tiles - first);
      auto place = [&](int64_t r, auto&& f) {
        const int64_t tile = first + r, at = tile % each;
        f(tile / each, at / across * kTile, at % across * kTile);
      };
      for (int64_t r = 0; r < count; r++)
        place(r, [&](int64_t i, int64_t y, int64_t x) {
          for (int64_t c = 0; c < p.c; c += kLanes) transform_tile(p, i, y, x, c, a + r * p.c + c, in);
        });
      for (int q = 0; q < kPoints; q++) {
        for (int64_t r = 0; r < count; r++) rows[r] = a + q * in + r * p.c;
        float* to = m + q * out;
        multiply({w + q * p.c * p.o, &none, 1, p.c, p.o}, rows.data(), count,
                 [&](int64_t r, int64_t column, Vec v) { store(to + r * p.o + column, v); });
      }
      for (int64_t r = 0; r < count; r++)
        place(r, [&](int64_t i, int64_t y, int64_t x) {
          for (int64_t c = 0; c < p.o; c += kLanes) finish_tile(p, i, y, x, c, m + r * p.o + c, out);
        });
    }
  });
}

// x times the styles with a border of zeros: [n, h + 2, w + 2, c].
Tensor bordered(const Layer& p) {
  Tensor t = at::zeros({p.n, p.h + 2, p.w + 2, p.c}, at::kFloat);
  float* to = t.data_ptr<float>();
  for (int64_t i = 0; i < p.n; i++)
    for (int64_t y = 0; y < p.h; y++) {
      const float* from = p.x + (i * p.h + y) * p.w * p.c;
      float* row = to + ((i * (p.h + 2) + y + 1) * (p.w + 2) + 1) * p.c;
      for (int64_t x = 0; x < p.w; x++)
        for (int64_t c = 0; c < p.c; c += kLanes)
          store(row + x * p.c + c, load(from + x * p.c + c) * load(p.s + i * p.c + c));
    }
  return t;
}

// Sums over taps at `h` by `w` pixels: `taps` are pixels of the bordered image, counted on from its pixel (y, x). The sum
// of pixel (y, x) of image i is number place(i, y, x), and put(i, that number, column, vector) takes it.
template <class Place, class Put>
void directly(const Layer& p, const float* from, int64_t h, int64_t w, const float* weights,
              std::initializer_list<int64_t> taps, const Place& place, const Put& put) {
  int64_t offsets[9];
  int count = 0;
  for (int64_t at : taps) offsets[count++] = at * p.c;
  struct Pixel {
    int64_t image, number;
  };
  const int64_t total = p.n * h * w, chunk = std::min<int64_t>(total, 96);
  at::parallel_for(0, (total - 1) / chunk + 1, 1, [&](int64_t begin, int64_t end) {
    std::vector<const float*> rows(chunk);
    std::vector<Pixel> pixels(chunk);
    for (int64_t k = begin; k < end; k++) {
      const int64_t first = k * chunk, here = std::min(chunk, total - first);
      for (int64_t r = 0; r < here; r++) {
        const int64_t i = (first + r) / (h * w), y = (first + r) / w % h, x = (first + r) % w;
        rows[r] = from + ((i * (p.h + 2) + y) * (p.w + 2) + x) * p.c;
        pixels[r] = {i, place(i, y, x)};
      }
      multiply({weights, offsets, count, p.c, p.o}, rows.data(), here, [&](int64_t r, int64_t column, Vec v) {
        put(pixels[r].image, pixels[r].number, column, v);
      });
    }
  });
}

const float* floats(const Tensor& t) { return t.numel() ? t.data_ptr<float>() : nullptr; }

Tensor vector_like(const Tensor& t, at::IntArrayRef sizes, const char* name) {
  TORCH_CHECK(t.sizes() == sizes && t.scalar_type() == at::kFloat && t.is_cpu(), "styled_conv: ", name, " ", sizes,
              " float32 expected, got ", t.sizes(), " ", t.scalar_type());
  return t.contiguous();
}

// d[n, o] = (sum_c s[n, c]^2 q[c, o] + 1e-8)^-1/2
Tensor demodulation(const Tensor& s, const Tensor& q) {
  const int64_t n = s.size(0), c = q.size(0), o = q.size(1);
  Tensor d = at::empty({n, o}, at::kFloat);
  for (int64_t i = 0; i < n; i++) {
    float* to = d.data_ptr<float>() + i * o;
    const float *style = s.data_ptr<float>() + i * c, *from = q.data_ptr<float>();
    for (int64_t column = 0; column < o; column += kLanes) {
      Vec sum = Vec{} + 1e-8f;
      for (int64_t k = 0; k < c; k++) sum += load(from + k * o + column) * (style[k] * style[k]);
      store(to + column, sum);
    }
    for (int64_t k = 0; k < o; k++) to[k] = 1.f / std::sqrt(to[k]);
  }
  return d;
}

// x in channels last and everything that both operators check.
Tensor checked(const Tensor& x, const Tensor& s, const Tensor& w, const Tensor& q, int64_t numbers) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat && x.is_cpu() && q.dim() == 2 && x.size(1) == q.size(0),
              "styled_conv: x [N, C, H, W] float32 expected, got ", x.sizes(), " ", x.scalar_type());
  TORCH_CHECK(q.size(0) % kLanes == 0 && q.size(1) % kLanes == 0, "styled_conv: channels in sixteens expected, got ",
              q.sizes());
  TORCH_CHECK(w.is_contiguous() && w.scalar_type() == at::kFloat && w.numel() == numbers * q.numel(),
              "styled_conv: weights of ", numbers, " numbers per pair of channels expected, got ", w.sizes());
  TORCH_CHECK(s.sizes() == at::IntArrayRef({x.size(0), x.size(1)}) && s.scalar_type() == at::kFloat,
              "styled_conv: s [N, C] float32 expected, got ", s.sizes());
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

Tensor styled_conv(const Tensor& x_, const Tensor& s_, const Tensor& w, const Tensor& q_, const OptTensor& noise_,
                   const OptTensor& strength, const OptTensor& b_, double slope, double gain, double clamp,
                   bool winograd) {
  const Tensor x = checked(x_, s_, w, q_, winograd ? kPoints : 9), s = s_.contiguous(), q = q_.contiguous();
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), width = x.size(3), o = q.size(1);
  TORCH_CHECK(!winograd || (h % kTile == 0 && width % kTile == 0), "styled_conv: sides in fours expected, got ",
              x.sizes());
  TORCH_CHECK(noise_.has_value() == strength.has_value(), "styled_conv: noise and strength come together");
  Tensor b, noise;
  if (b_) b = vector_like(*b_, {o}, "b");
  if (noise_) noise = noise_->dim() == 2 ? vector_like(*noise_, {h, width}, "noise")
                                         : vector_like(*noise_, {n, 1, h, width}, "noise");
  Tensor y = fresh(at::empty({n, o, h, width}, x.options(), at::MemoryFormat::ChannelsLast));
  if (y.numel() == 0) return y;
  const Tensor d = demodulation(s, q);
  const Layer p{floats(x), floats(s), floats(d), noise_ ? floats(noise) : nullptr, b_ ? floats(b) : nullptr,
                strength ? strength->item<float>() * float(gain) : 0.f, float(gain),
                {float(slope), clamp_bound<float>(clamp)}, y.data_ptr<float>(),
                n, c, h, width, o, noise_ && noise.dim() == 4 ? h * width : 0};
  if (winograd) {
    by_winograd(p, floats(w));
    return y;
  }
  const Tensor from = bordered(p);
  const int64_t row = width + 2;
  directly(p, floats(from), h, width, floats(w),
           {0, 1, 2, row, row + 1, row + 2, 2 * row, 2 * row + 1, 2 * row + 2},
           [&](int64_t, int64_t v, int64_t u) { return v * width + u; },
           [&](int64_t i, int64_t at, int64_t column, Vec v) { p.finish(i, at, column, v); });
  return y;
}

std::tuple<Tensor, Tensor> styled_conv_up(const Tensor& x_, const Tensor& s_, const Tensor& w, const Tensor& q_) {
  const Tensor x = checked(x_, s_, w, q_, 9), s = s_.contiguous(), q = q_.contiguous();
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), width = x.size(3), o = q.size(1);
  Tensor y = fresh(at::empty({n, o, 2 * h + 1, 2 * width + 1}, x.options(), at::MemoryFormat::ChannelsLast));
  const Tensor d = demodulation(s, q);
  if (y.numel() == 0) return {y, d};
  Layer p{};
  p.x = floats(x), p.s = floats(s), p.n = n, p.c = c, p.h = h, p.w = width, p.o = o;
  const Tensor from = bordered(p);
  // Output (2 i + a, 2 j + b) takes the taps of its own parity: those of index 0 and 2 from pixels i and i - 1, 1 from i.
  const int64_t row = width + 2, pair = c * o;
  const float* weights = floats(w);
  float* to = y.data_ptr<float>();
  auto phase = [&](int64_t a, int64_t b, std::initializer_list<int64_t> taps) {
    directly(p, floats(from), h + 1 - a, width + 1 - b, weights, taps,
             [&](int64_t i, int64_t v, int64_t u) {
               return (i * (2 * h + 1) + 2 * v + a) * (2 * width + 1) + 2 * u + b;
             },
             [&](int64_t, int64_t at, int64_t column, Vec v) { store(to + at * o + column, v); });
    weights += int64_t(taps.size()) * pair;
  };
  phase(0, 0, {row + 1, row, 1, 0});
  phase(0, 1, {row + 1, 1});
  phase(1, 0, {row + 1, row});
  phase(1, 1, {row + 1});
  return {y, d};
}

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) {
  m.def("styled_conv(Tensor x, Tensor s, Tensor w, Tensor q, Tensor? noise, Tensor? strength, Tensor? b, float slope, "
        "float gain, float clamp, bool winograd) -> Tensor");
  m.def("styled_conv_up(Tensor x, Tensor s, Tensor w, Tensor q) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) {
  m.impl("styled_conv", gt::styled_conv);
  m.impl("styled_conv_up", gt::styled_conv_up);
}
