// SPDX-License-Identifier: Apache-2.0
// blur_epilogue: schema and checks; the fused kernels where they serve, else upfirdn2d and epilogue one after the other.
#include "blur_epilogue.h"

#include "arguments.h"

namespace gt {

bool blur_epilogue_cpu(const BlurEpilogueParams& p, DType dtype);
#ifdef GT_WITH_CUDA
bool blur_epilogue_fused(const BlurEpilogueParams& p, DType dtype);
int blur_epilogue_launch(const BlurEpilogueParams& p, DType dtype, void* stream);
#endif

namespace {

// The fused kernel of x's device. False: it does not serve this case, and nothing was written.
bool run_fused(const BlurEpilogueParams& p, const Tensor& x) {
#ifdef GT_WITH_CUDA
  if (on_cuda(x)) {
    const DType dtype = dtype_of(x);
    if (!blur_epilogue_fused(p, dtype)) return false;
    c10::DeviceGuard guard(x.device());
    check_launch(blur_epilogue_launch(p, dtype, current_stream(x)), "blur_epilogue");
    return true;
  }
#endif
  if constexpr (!kEmulated) return blur_epilogue_cpu(p, dtype_of(x));
  return false;
}

Tensor blur_epilogue(const Tensor& x, const Tensor& f, at::IntArrayRef pad, bool flip, double fir_gain,
                     const OptTensor& d, double scale, const OptTensor& noise, const OptTensor& strength,
                     const OptTensor& b, double slope, double gain, double clamp) {
  static const auto blur = op<Tensor(const Tensor&, const Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef,
                                     bool, double)>("gantransfer::upfirdn2d");
  static const auto after = op<Tensor(const Tensor&, const OptTensor&, double, const OptTensor&, const OptTensor&,
                                      const OptTensor&, double, double, double)>("gantransfer::epilogue");
  constexpr int64_t one[] = {1, 1};
  const FirArguments a = fir_arguments(x, f, one, one, pad, flip, fir_gain);
  const EpilogueArguments e = epilogue_arguments(x, a.p.n, a.p.c, int64_t(a.p.ho) * a.p.wo, d, scale, noise, strength,
                                                 b, slope, gain, clamp);
  if (x.numel() > 0) {  // without pixels to blur, the epilogue of zeros is left
    Tensor y = a.result();
    BlurEpilogueParams p{a.p, e.p};
    p.fir.y = p.after.out = ptr(y);
    if (run_fused(p, a.x)) return y;
  }
  return after.call(blur.call(a.x, a.f, one, one, pad, flip, fir_gain), d, scale, noise, strength, b, slope, gain,
                    clamp);
}

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) {
  m.def("blur_epilogue(Tensor x, Tensor f, int[4] pad, bool flip, float fir_gain, Tensor? d, float scale, "
        "Tensor? noise, Tensor? strength, Tensor? b, float slope, float gain, float clamp) -> Tensor");
}

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) { m.impl("blur_epilogue", gt::blur_epilogue); }

#ifdef GT_WITH_CUDA
TORCH_LIBRARY_IMPL(gantransfer, CUDA, m) { m.impl("blur_epilogue", gt::blur_epilogue); }
#endif
