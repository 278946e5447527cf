// SPDX-License-Identifier: Apache-2.0
// A StyleGAN2 synthesis layer for inference on the CPU: float32, channels last, weights prepared once (`prepared`). The
// modulated 3x3 convolution is minimal filtering (conv3x3.h), or direct for images too small for it. Styles are part of
// either; so are demodulation, noise, bias and activation where the size stays. Where it doubles, the convolution is
// transposed with stride 2, and the rest follows in blur_epilogue. Every output is summed in one order whatever else is
// in the batch.
#include "conv3x3_filter.h"
#include "runs.h"

namespace gt {
namespace {

using namespace winograd;

// How a layer's weights are prepared: kernels of minimal filtering (Panels), or the taps of each phase of the output,
// [phases][panels of outputs][taps][inputs][panel].
enum Form : int64_t { kFiltered, kDirect, kFilteredUp, kDirectUp };

bool filtered(int64_t form) { return form == kFiltered || form == kFilteredUp; }

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

int64_t numbers(int64_t form, int64_t c, int64_t o) {
  return filtered(form) ? Panels::numbers(kKernels, o, c) : kTaps * c * o;
}

Tensor prepared(const Tensor& w_, int64_t form) {
  TORCH_CHECK(w_.dim() == 4 && w_.is_cpu() && w_.scalar_type() == at::kFloat && w_.size(2) == 3 && w_.size(3) == 3 &&
                  w_.size(0) % kGroup == 0 && w_.size(1) % kGroup == 0 && form >= kFiltered && form <= kDirectUp,
              "styled_conv: weights [O, C, 3, 3] in float32 on the CPU with channels in sixteens expected, got ",
              w_.sizes());
  const Tensor w = w_.contiguous();
  const int64_t o = w.size(0), c = w.size(1), width = product::panel_width(o);
  Tensor to = at::empty({numbers(form, c, o)}, w.options());
  float* p = to.data_ptr<float>();
  const float* from = w.data_ptr<float>();
  if (filtered(form)) {
    const Weight weight{w.data_ptr<float>(), c, o, kTaps, c * kTaps, {3, 1}};
    const Panels kernels(p, o, c);
    for (int64_t i = 0; i < c; i++)
      form == kFiltered ? make_kernels<Dense>(weight, i, kernels) : make_kernels<Strided>(weight, i, kernels);
    return to;
  }
  for (const auto& taps : phases(form))
    for (int64_t panel = 0; panel < o; panel += width)
      for (const Tap& t : taps)
        for (int64_t i = 0; i < c; i++)
          for (int64_t k = panel; k < panel + width; k++) *p++ = from[(k * c + i) * kTaps + t.y * 3 + t.x];
  return to;
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

void by_filter(const Layer& p, const Tensor& x, const Tensor& w) {
  const Image in{const_cast<float*>(p.x), p.n, p.h, p.w, p.c}, out{p.y, p.n, p.h, p.w, p.o};
  const Panels kernels(w.data_ptr<float>(), p.o, p.c);
  const int64_t area = p.h * p.w;
  filter<Dense>(x, {nullptr, p.c, p.o}, &kernels, Tile::count(out), 1,
                [&](int64_t t, const Panels& to, int64_t row) { input_tile<Dense, true>(in, out, t, to, row, p.s); },
                [&](const Panels& from, int64_t row, int64_t at, int64_t t) {
                  output_tile<Dense>(from, row, out, t, [&](int64_t pixel, int64_t c, Vec v) {
                    p.finish(pixel / area, pixel % area, at + c, v);
                  });
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

// Sums over the taps of a phase at `h` by `w` pixels: its taps are `offsets` from pixel (y, x) of the bordered image. The
// sum of pixel (y, x) of image i is number place(y, x) of it, and put(i, that number, column, vector) takes it.
template <class Place, class Put>
void directly(const Layer& p, const float* from, int64_t h, int64_t w, const float* weights,
              const std::vector<int64_t>& offsets, const Place& place, const Put& put) {
  const int64_t taps = int64_t(offsets.size()), width = product::panel_width(p.o), panels = p.o / width;
  const int64_t total = p.n * h * w, chunk = std::min<int64_t>(total, 96), chunks = (total - 1) / chunk + 1;
  at::parallel_for(0, chunks * panels, 1, [&](int64_t begin, int64_t end) {
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
Tensor checked(const Tensor& x, const Tensor& s, const Tensor& w, const Tensor& q, int64_t form) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat && x.is_cpu() && q.dim() == 2 && x.size(1) == q.size(0),
              "styled_conv: x [N, C, H, W] float32 expected, got ", x.sizes(), " ", x.scalar_type());
  TORCH_CHECK(q.size(0) % kGroup == 0 && q.size(1) % kGroup == 0, "styled_conv: channels in sixteens expected, got ",
              q.sizes());
  TORCH_CHECK(w.is_contiguous() && w.scalar_type() == at::kFloat && w.numel() == numbers(form, q.size(0), q.size(1)),
              "styled_conv: prepared weights expected, got ", w.sizes());
  TORCH_CHECK(s.sizes() == at::IntArrayRef({x.size(0), x.size(1)}) && s.scalar_type() == at::kFloat,
              "styled_conv: s [N, C] float32 expected, got ", s.sizes());
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

Tensor styled_conv(const Tensor& x_, const Tensor& s_, const Tensor& w, const Tensor& q_, const OptTensor& noise_,
                   const OptTensor& strength, const OptTensor& b_, double slope, double gain, double clamp,
                   bool by_filters) {
  const int64_t form = by_filters ? kFiltered : kDirect;
  const Tensor x = checked(x_, s_, w, q_, form), s = s_.contiguous(), q = q_.contiguous();
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), width = x.size(3), o = q.size(1);
  TORCH_CHECK(!by_filters || (h % kTile == 0 && width % kTile == 0), "styled_conv: sides in fours expected, got ",
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
  if (by_filters) {
    by_filter(p, x, w);
    return y;
  }
  const Tensor from = bordered(p);
  std::vector<int64_t> offsets;
  for (const Tap& t : phases(kDirect)[0]) offsets.push_back((t.y * (width + 2) + t.x) * c);
  directly(p, floats(from), h, width, floats(w), offsets, [&](int64_t v, int64_t u) { return v * width + u; },
           [&](int64_t i, int64_t at, int64_t column, Vec v) { p.finish(i, at, column, v); });
  return y;
}

std::tuple<Tensor, Tensor> styled_conv_up(const Tensor& x_, const Tensor& s_, const Tensor& w, const Tensor& q_,
                                          bool by_filters) {
  const Tensor x = checked(x_, s_, w, q_, by_filters ? kFilteredUp : kDirectUp), s = s_.contiguous(),
               q = q_.contiguous();
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), width = x.size(3), o = q.size(1);
  TORCH_CHECK(!by_filters || (h % kTile == 0 && width % kTile == 0), "styled_conv: sides in fours expected, got ",
              x.sizes());
  Tensor y = fresh(at::empty({n, o, 2 * h + 1, 2 * width + 1}, x.options(), at::MemoryFormat::ChannelsLast));
  const Tensor d = demodulation(s, q);
  if (y.numel() == 0) return {y, d};
  if (by_filters) {  // the adjoint of a convolution with stride 2
    const Image in{x.data_ptr<float>(), n, h, width, c}, out{y.data_ptr<float>(), n, 2 * h + 1, 2 * width + 1, o};
    const Panels kernels(w.data_ptr<float>(), o, c);
    filter<Strided>(x, {nullptr, c, o}, &kernels, Tile::count(in), Tile::count(in) / n,
                    [&](int64_t t, const Panels& to, int64_t row) {
                      spread_tile<Strided, true>(in, t, to, row, floats(s));
                    },
                    [&](const Panels& from, int64_t row, int64_t at, int64_t t) {
                      pixel_tile(from, row, out, at, in, t);
                    });
    return {y, d};
  }
  Layer p{};
  p.x = floats(x), p.s = floats(s), p.n = n, p.c = c, p.h = h, p.w = width, p.o = o;
  const Tensor from = bordered(p);
  const float* weights = floats(w);
  float* to = y.data_ptr<float>();
  for (int64_t phase = 0; phase < 4; phase++) {
    const int64_t a = phase / 2, b = phase % 2;
    const auto& taps = phases(kDirectUp)[phase];
    std::vector<int64_t> offsets;
    for (const Tap& t : taps) offsets.push_back(((t.y < 2) * (width + 2) + (t.x < 2)) * c);
    directly(p, floats(from), h + 1 - a, width + 1 - b, weights, offsets,
             [&](int64_t v, int64_t u) { return (2 * v + a) * (2 * width + 1) + 2 * u + b; },
             [&](int64_t i, int64_t at, int64_t column, Vec v) {
               store(to + (i * (2 * h + 1) * (2 * width + 1) + at) * o + column, v);
             });
    weights += int64_t(taps.size()) * c * o;
  }
  return {y, d};
}

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) {
  m.def("styled_conv_weights(Tensor w, int form) -> Tensor");
  m.def("styled_conv(Tensor x, Tensor s, Tensor w, Tensor q, Tensor? noise, Tensor? strength, Tensor? b, float slope, "
        "float gain, float clamp, bool filtered) -> Tensor");
  m.def("styled_conv_up(Tensor x, Tensor s, Tensor w, Tensor q, bool filtered) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) {
  m.impl("styled_conv_weights", gt::prepared);
  m.impl("styled_conv", gt::styled_conv);
  m.impl("styled_conv_up", gt::styled_conv_up);
}
