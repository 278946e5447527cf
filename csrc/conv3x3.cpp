// SPDX-License-Identifier: Apache-2.0
// conv3x3: schema, checks, entries of the kernels. Three operators that differentiate into one another (autograd.cpp).
// There is no CUDA kernel: convolutions are cuDNN's there.
#include "conv3x3.h"

#include "binding.h"

namespace gt {

namespace winograd {
void conv3x3_cpu(const Image& x, const Weight& w, const Image& y, int64_t stride);
void conv3x3_input_grad_cpu(const Image& dy, const Weight& w, const Image& dx, int64_t stride);
void conv3x3_weight_grad_cpu(const Image& dy, const Image& x, const Weight& dw, int64_t stride);
}  // namespace winograd

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
                  others <= kMaxChannels && channels % kGroup == 0 && channels <= kMaxChannels,
              "conv3x3: w ", w.sizes(), " does not fit ", channels, " channels");
}

void check_stride(int64_t stride) {
  TORCH_CHECK(stride == 1 || stride == 2, "conv3x3: stride 1 or 2 expected, got ", stride);
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

Tensor conv3x3(const Tensor& x_, const Tensor& w, int64_t stride) {
  check(x_, "x");
  check_weight(w, x_.size(1), 1);
  check_stride(stride);
  TORCH_CHECK(stride == 1 || (x_.size(2) % 2 && x_.size(3) % 2), "conv3x3: stride 2 does not fit ", x_.sizes());
  const Tensor x = x_.contiguous(kLayout);
  const int64_t less = stride - 1;
  Tensor y = fresh_image(x, w.size(0), (x.size(2) - less) / stride, (x.size(3) - less) / stride);
  check_outputs(y, "y");
  conv3x3_cpu(image(x), weight_of(w, false, false), image(y), stride);
  return y;
}

Tensor conv3x3_input_grad(const Tensor& dy_, const Tensor& w, int64_t stride) {
  check(dy_, "dy");
  check_outputs(dy_, "dy");
  check_weight(w, dy_.size(1), 0);
  check_stride(stride);
  const Tensor dy = dy_.contiguous(kLayout);
  const int64_t more = stride - 1;
  Tensor dx = fresh_image(dy, w.size(1), stride * dy.size(2) + more, stride * dy.size(3) + more);
  conv3x3_input_grad_cpu(image(dy), weight_of(w, true, stride == 1), image(dx), stride);
  return dx;
}

Tensor conv3x3_weight_grad(const Tensor& dy_, const Tensor& x_, int64_t stride) {
  check(x_, "x");
  check(dy_, "dy");
  check_outputs(dy_, "dy");
  check_stride(stride);
  const auto fits = [&](int i) { return x_.size(i) == (stride == 1 ? dy_.size(i) : 2 * dy_.size(i) + 1); };
  TORCH_CHECK(dy_.size(0) == x_.size(0) && fits(2) && fits(3) && x_.size(1) > 0 && x_.size(1) % kGroup == 0 &&
                  x_.size(1) <= kMaxChannels, "conv3x3: dy ", dy_.sizes(), " does not fit x ", x_.sizes());
  const Tensor dy = dy_.contiguous(kLayout), x = x_.contiguous(kLayout);
  Tensor dw = fresh(at::empty({dy.size(1), x.size(1), 3, 3}, x.options()));
  conv3x3_weight_grad_cpu(image(dy), image(x), weight_of(dw, false, false), stride);
  return dw;
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
