// SPDX-License-Identifier: Apache-2.0
// blur_epilogue on the CPU: the blur of fir.h with the epilogue applied to its results in registers.
#pragma once
#include "blur_epilogue.h"
#include "filter.h"
#include "fir.h"

namespace gt::fir {

// See NoSink: what the blur calls with its results, P vectors of planes' pixels or of one pixel's channels.
struct EpilogueSink {
  const EpilogueParams& p;
  const int ho, wo;
  const float slope = float(p.slope), gain = float(p.gain), scale = float(p.scale);
  const float strength = p.strength ? *static_cast<const float*>(p.strength) : 0.f;
  const float *d = static_cast<const float*>(p.d), *b = static_cast<const float*>(p.b);
  const float* noise = static_cast<const float*>(p.noise);

  template <class T>
  float bound() const { return p.clamp < 0 ? INFINITY : stored<T>(p.clamp); }

  // P vectors of [i, i + P * kLanes) of an array of `size` values, in the order of a run of pixels or channels.
  template <class T, int P>
  static GT_INLINE void take(const float* from, int64_t size, Vec* to) {
    const Part part = {0, int(std::min<int64_t>(P * kLanes, size))};
    if constexpr (P == 1) {
      to[0] = load_part(from, part);
    } else {
      const Pair s = split(from, load_pair_part(from, part));
      to[0] = s.v[0], to[1] = s.v[1];
    }
  }

  static GT_INLINE Vec finish(Vec u, float slope, float gain, float bound) {
    const Vec zero = {};
    Vec y = choose(u > zero, u, u * slope) * gain;
    y = choose(y > bound, zero + bound, y);
    return choose(y < -bound, zero - bound, y);
  }

  struct Plane {
    float d, b, strength, slope, gain, bound;
    const float* noise;
    int ho, wo;
    template <class T, int P>
    GT_INLINE void run(Vec* y, int oy, int ox, int64_t = 0) const {
      Vec z[P] = {};
      // Rows past the last are computed and dropped.
      if (noise) take<T, P>(noise + int64_t(std::min(oy, ho - 1)) * wo + ox, wo - ox, z);
#pragma GCC unroll 2
      for (int q = 0; q < P; q++) y[q] = finish(y[q] * d + (z[q] * strength + b), slope, gain, bound);
    }
  };
  template <class T>
  Plane plane(int64_t k) const {
    const int64_t n = k / p.c, c = k % p.c;
    return {(d ? d[k] : 1.f) * scale, b ? b[c] : 0.f, strength, slope, gain, bound<T>(),
            noise ? noise + n * p.noise_step : nullptr, ho, wo};
  }

  struct Channels {
    const float *d, *b, *noise;
    float scale, strength, slope, gain, bound;
    int ho, wo;
    template <class T, int P>
    GT_INLINE void run(Vec* y, int oy, int ox, int64_t c) const {
      const float z = noise ? noise[int64_t(std::min(oy, ho - 1)) * wo + ox] * strength : 0.f;
      Vec dv[P], bv[P] = {};
      for (int q = 0; q < P; q++) dv[q] = Vec{} + 1.f;
      if (d) take<T, P>(d + c, P * kLanes, dv);
      if (b) take<T, P>(b + c, P * kLanes, bv);
#pragma GCC unroll 2
      for (int q = 0; q < P; q++) y[q] = finish(y[q] * (dv[q] * scale) + (bv[q] + z), slope, gain, bound);
    }
  };
  template <class T>
  Channels image(int64_t n) const {
    return {d ? d + n * p.c : nullptr, b, noise ? noise + n * p.noise_step : nullptr,
            scale, strength, slope, gain, bound<T>(), ho, wo};
  }
};

}  // namespace gt::fir

namespace gt {

// Runs p on the CPU; false where no fused form serves it. for_chunks: see binding.h.
template <class T, class Chunks>
bool blur_epilogue_cpu(const BlurEpilogueParams& p, const Chunks& for_chunks) {
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
    u.channels_last ? f.pixels(for_chunks, sink) : f.lanes(for_chunks, sink);
    return true;
  }
}

}  // namespace gt
