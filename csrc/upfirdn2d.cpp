// SPDX-License-Identifier: Apache-2.0
// upfirdn2d: schema, checks, entries of the kernels.
#include "upfirdn2d.h"

#include "arguments.h"

namespace gt {

void upfirdn2d_cpu(const UpfirdnParams& p, DType dtype);
#ifdef GT_WITH_CUDA
int upfirdn2d_launch(const UpfirdnParams& p, DType dtype, void* stream);
#endif

namespace {

Tensor upfirdn2d(const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef pad,
                 bool flip, double gain) {
  FirArguments a = fir_arguments(x, f, up, down, pad, flip, gain);
  UpfirdnParams& p = a.p;
  Tensor y = a.result();
  if (y.numel() == 0) return y;
  if (x.numel() == 0) return y.zero_();
  p.y = ptr(y);
  const DType dtype = dtype_of(x);
#ifdef GT_WITH_CUDA
  if (on_cuda(x)) {
    c10::DeviceGuard guard(x.device());
    check_launch(upfirdn2d_launch(p, dtype, current_stream(x)), "upfirdn2d");
    return y;
  }
#endif
  if constexpr (!kEmulated) upfirdn2d_cpu(p, dtype);
  return y;
}

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) {
  m.def("upfirdn2d(Tensor x, Tensor f, int[2] up, int[2] down, int[4] pad, bool flip, float gain) -> Tensor");
}

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) { m.impl("upfirdn2d", gt::upfirdn2d); }

#ifdef GT_WITH_CUDA
TORCH_LIBRARY_IMPL(gantransfer, CUDA, m) { m.impl("upfirdn2d", gt::upfirdn2d); }
#endif
