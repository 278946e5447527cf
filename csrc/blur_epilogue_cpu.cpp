// SPDX-License-Identifier: Apache-2.0
// blur_epilogue on the CPU: the blur of fir.h with the epilogue applied to its results in registers.
#include "blur_epilogue.h"
#include "filter.h"
#include "fir.h"
#include "parallel.h"
#include "runs.h"

namespace gt::fir {

// See NoSink: what the blur calls with its results, P vectors of planes' pixels or of one pixel's channels.
struct EpilogueSink {
  const EpilogueParams& p;
  const int ho, wo;
  const float gain = float(p.gain), factor = float(p.scale * p.gain);
  const float strength = p.strength ? *static_cast<const float*>(p.strength) * gain : 0.f;
  const float *d = static_cast<const float*>(p.d), *b = static_cast<const float*>(p.b);
  const float* noise = static_cast<const float*>(p.noise);

  template <class T>
  Activation<float> act() const { return {float(p.slope), p.clamp < 0 ? INFINITY : stored<T>(p.clamp)}; }

  // What a run of T's of P vectors reads of an array; n elements are left.
  template <class T, int P>
  static GT_INLINE void take(const float* from, int64_t n, Vec* to) {
    if constexpr (P == Run<T>::kParts) Run<T>::values(from, n, to);
    else Run<float>::values(from, n, to);
  }

  struct Plane {
    float d, b, strength;
    Activation<float> act;
    const float* noise;
    int ho, wo;
    template <class T, int P>
    GT_INLINE void run(Vec* y, int oy, int ox, int64_t = 0) const {
      Vec z[P] = {};
      // Rows past the last are computed and dropped.
      if (noise) take<T, P>(noise + int64_t(std::min(oy, ho - 1)) * wo + ox, wo - ox, z);
#pragma GCC unroll 2
      for (int q = 0; q < P; q++) y[q] = act(y[q] * d + (z[q] * strength + b));
    }
  };
  template <class T>
  Plane plane(int64_t k) const {
    const int64_t n = k / p.c, c = k % p.c;
    return {(d ? d[k] : 1.f) * factor, b ? b[c] * gain : 0.f, strength, act<T>(),
            noise ? noise + n * p.noise_step : nullptr, ho, wo};
  }

  struct Channels {
    const float *d, *b, *noise;
    float factor, gain, strength;
    Activation<float> act;
    int ho, wo;
    template <class T, int P>
    GT_INLINE void run(Vec* y, int oy, int ox, int64_t c) const {
      const float z = noise ? noise[int64_t(std::min(oy, ho - 1)) * wo + ox] * strength : 0.f;
      Vec dv[P], bv[P] = {};
      for (int q = 0; q < P; q++) dv[q] = Vec{} + 1.f;
      if (d) take<T, P>(d + c, P * kLanes, dv);
      if (b) take<T, P>(b + c, P * kLanes, bv);
#pragma GCC unroll 2
      for (int q = 0; q < P; q++) y[q] = act(y[q] * (dv[q] * factor) + (bv[q] * gain + z));
    }
  };
  template <class T>
  Channels image(int64_t n) const {
    return {d ? d + n * p.c : nullptr, b, noise ? noise + n * p.noise_step : nullptr,
            factor, gain, strength, act<T>(), ho, wo};
  }
};

}  // namespace gt::fir

namespace gt {
namespace {

template <class T>
bool run(const BlurEpilogueParams& p) {
  if constexpr (!std::is_same_v<T, float> && !std::is_same_v<T, bf16>) {
    return false;
  } else {
    const UpfirdnParams& u = p.fir;
    if (u.fw != 4 || u.fh != 4) return false;
    const Filter<float> taps(u);
    if (!taps.separable) return false;
    const fir::Image image{u.x, u.y, u.n, u.c, u.h, u.w, u.ho, u.wo};
    const fir::Filter2d<T, 4, 1, 1> f(image, taps.column.data(), taps.row.data(), u.px, u.py);
    if (u.channels_last ? !f.walkable() : !f.regular()) return false;
    const fir::EpilogueSink sink{p.after, u.ho, u.wo};
    const auto chunks = [](int64_t n, int64_t chunk, const auto& g) { for_chunks(n, chunk, g); };
    u.channels_last ? f.pixels(chunks, sink) : f.lanes(chunks, sink);
    return true;
  }
}

}  // namespace

// False where no fused form serves p; nothing was written then.
bool blur_epilogue_cpu(const BlurEpilogueParams& p, DType dtype) {
  GT_DISPATCH(dtype, return run<T>(p);)
  return false;
}

}  // namespace gt
