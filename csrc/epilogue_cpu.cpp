// SPDX-License-Identifier: Apache-2.0
// epilogue on the CPU.
#include "epilogue.h"

#include "parallel.h"
#include "runs.h"

namespace gt {
namespace {

// Three sums, at s[0], s[1], s[2].
GT_INLINE void add_up(double a, double b, double c, double* s) { s[0] = a, s[1] = b, s[2] = c; }
GT_INLINE void add_up(vec::Vec a, vec::Vec b, vec::Vec c, float* s) { vec::sums(a, b, c, s); }

// Planes: d and b are constant, noise runs along. Pixels of channels last: d and b run along, noise is constant.
template <class T, class R = Run<T>>
struct Kernel {
  using A = acc_t<T>;
  using V = typename R::V;
  static constexpr int P = R::kParts, L = R::kWidth;
  const EpilogueParams& p;
  const A *d = static_cast<const A*>(p.d), *b = static_cast<const A*>(p.b), *noise = static_cast<const A*>(p.noise);
  const A gain = A(p.gain), factor = A(p.scale * p.gain);  // of everything that is added; of x beside d
  const A strength = p.strength ? *static_cast<const A*>(p.strength) : A(0);
  const Activation<A> act = {A(p.slope), p.clamp < 0 ? A(INFINITY) : stored<T>(p.clamp)};
  const T *x = static_cast<const T*>(p.x), *dy = static_cast<const T*>(p.dy);  // x: y in the gradient
  T* out = static_cast<T*>(p.out);
  // Pixels that are one task.
  const int64_t chunk = std::max<int64_t>(1, std::min(p.hw, kChunk / p.c)), chunks = (p.hw - 1) / chunk + 1;

  // f(plane, sample, channel, d * factor, noise of the sample or null)
  template <class F>
  void planes(const F& f) const {
    for_chunks(p.n * p.c, std::max<int64_t>(1, kChunk / p.hw), [&](int64_t first, int64_t last) {
      const A *const d = this->d, s = factor;
      while (first < last) {
        const int64_t n = first / p.c, end = std::min(last, (n + 1) * p.c);
        const A* const z = noise ? noise + n * p.noise_step : nullptr;
        for (int64_t q = first, c = first % p.c; q < end; q++, c++) f(q, n, c, (d ? d[q] : A(1)) * s, z);
        first = end;
      }
    });
  }

  // Calls f(i, n) for the runs of `len` elements: n of them are left at i.
  template <class F>
  static GT_INLINE void runs(int64_t len, const F& f) {
    int64_t i = 0;
    for (; i + L <= len; i += L) f(i, L);
    if (i < len) f(i, len - i);
  }

  // What the elements share goes by value: for all the compiler knows, what is stored could change it otherwise.
  static GT_INLINE void forward_plane(const T* x, T* out, int64_t len, A d, A b, const A* z, A strength,
                                      const Activation<A> act) {
    runs(len, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
      V v[P], zv[P] = {};
      R::load(x + i, n, v);
      if (z) R::values(z + i, n, zv);
      for (int j = 0; j < P; j++) v[j] = act(v[j] * d + (zv[j] * strength + b));
      R::store(out + i, n, v);
    });
  }

  // z: noise times strength and gain.
  static void forward_pixel(const T* x, T* out, int64_t len, const V* d, const V* b, A z, const Activation<A> act) {
    runs(len, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
      V v[P];
      R::load(x + i, n, v);
      for (int j = 0; j < P; j++) v[j] = act(v[j] * d[i / L * P + j] + (b[i / L * P + j] + z));
      R::store(out + i, n, v);
    });
  }

  // Vectors of channels in the order of runs: from[c] * factor, or `factor` without.
  void in_order(const A* from, A factor, std::vector<V>& to) const {
    for (int64_t c = 0, i = 0; c < p.c; c += L, i += P) {
      V v[P];
      for (int j = 0; j < P; j++) v[j] = V{} + A(1);
      if (from) R::values(from + c, p.c - c, v);
      for (int j = 0; j < P; j++) to[i + j] = v[j] * factor;
    }
  }

  void forward_planes() const {
    const int64_t hw = p.hw;
    planes([b = b, x = x, out = out, hw, gain = gain, s = strength * gain, act = act](int64_t q, int64_t, int64_t c,
                                                                                       A dq, const A* z) {
      forward_plane(x + q * hw, out + q * hw, hw, dq, b ? b[c] * gain : A(0), z, s, act);
    });
  }

  void forward_pixels() const {
    const int64_t vectors = (p.c - 1) / L * P + P;
    for_chunks(p.n * chunks, 1, [&](int64_t first, int64_t last) {
      std::vector<V> dv(vectors), bv(vectors);
      in_order(b, b ? gain : A(0), bv);
      int64_t have = -1;
      for (int64_t k = first; k < last; k++) {
        const int64_t n = k / chunks, start = k % chunks * chunk, end = std::min(p.hw, start + chunk);
        if (n != have) in_order(d ? d + n * p.c : nullptr, factor, dv);
        have = n;
        for (int64_t r = start; r < end; r++)
          forward_pixel(x + (n * p.hw + r) * p.c, out + (n * p.hw + r) * p.c, p.c, dv.data(), bv.data(),
                        noise ? noise[n * p.noise_step + r] * (strength * gain) : A(0), act);
      }
    });
  }

  struct Sums {  // of a run: g, g * noise, dy * y
    V g[P] = {}, noise[P] = {}, y[P] = {};
  };

  // A run of the gradient: dx, and what it adds to the sums.
  static GT_INLINE void gradient(const T* y_, const T* dy, T* dx, int64_t n, const V* factor, const V* z, Sums& s,
                                 const Activation<A>& act) {
    const V zero = {};
    V y[P], given[P];
    R::load(y_, n, y);
    R::load(dy, n, given);
    for (int j = 0; j < P; j++) {
      const V passed = choose((y[j] < act.bound) & (y[j] > -act.bound), given[j], zero);
      const V g = choose(y[j] > zero, passed, passed * act.slope);
      s.g[j] += g;
      s.noise[j] += g * z[j];
      s.y[j] += passed * y[j];
      y[j] = g * factor[j];
    }
    R::store(dx, n, y);
  }

  // to: three sums.
  static GT_INLINE void gradient_plane(const T* y, const T* dy, T* dx, int64_t len, A d, const A* z,
                                       const Activation<A> act, A* to) {
    Sums s;
    V factor[P];
    for (int j = 0; j < P; j++) factor[j] = V{} + d;
    runs(len, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
      V zv[P] = {};
      if (z) R::values(z + i, n, zv);
      gradient(y + i, dy + i, dx + i, n, factor, zv, s, act);
    });
    for (int j = 1; j < P; j++) s.g[0] += s.g[j], s.noise[0] += s.noise[j], s.y[0] += s.y[j];
    add_up(s.g[0], s.noise[0], s.y[0], to);
  }

  void gradient_planes(A* part) const {  // part: [n][3][c]
    const int64_t hw = p.hw, size = p.c;
    planes([y = x, dy = dy, dx = out, hw, size, act = act, part](int64_t q, int64_t n, int64_t c, A dq, const A* z) {
      A sums[4];
      gradient_plane(y + q * hw, dy + q * hw, dx + q * hw, hw, dq, z, act, sums);
      for (int i = 0; i < 3; i++) part[(n * 3 + i) * size + c] = sums[i];
    });
  }

  // part: [n][chunk][3][c]. A few runs of channels at a time, with their sums in registers.
  void gradient_pixels(A* part) const {
    constexpr int B = 4 / P;
    for_chunks(p.n * chunks, 1, [&](int64_t first, int64_t last) {
      for (int64_t k = first; k < last; k++) {
        int64_t c = 0;
        for (; c + B * L <= p.c; c += B * L) gradient_block<B>(k, c, part + k * 3 * p.c);
        for (; c < p.c; c += L) gradient_block<1>(k, c, part + k * 3 * p.c);
      }
    });
  }

  template <int B>
  void gradient_block(int64_t k, int64_t c, A* part) const {
    const int64_t n = k / chunks, start = k % chunks * chunk, end = std::min(p.hw, start + chunk), size = p.c;
    const int64_t at = n * p.hw * size + c, left = B > 1 ? L : size - c;
    const Activation<A> same = act;
    Sums s[B];
    V factor[B][P];
    for (int i = 0; i < B; i++) {
      for (int j = 0; j < P; j++) factor[i][j] = V{} + A(1);
      if (d) R::values(d + n * p.c + c + i * L, left, factor[i]);
      for (int j = 0; j < P; j++) factor[i][j] *= this->factor;
    }
    const A* const z = noise ? noise + n * p.noise_step : nullptr;
    const T *y0 = x + at, *dy0 = dy + at;
    T* dx0 = out + at;
    for (int64_t r = start; r < end; r++) {
      V zv[P];
      for (int j = 0; j < P; j++) zv[j] = V{} + (z ? z[r] : A(0));
#pragma GCC unroll 4
      for (int i = 0; i < B; i++)
        gradient(y0 + r * size + i * L, dy0 + r * size + i * L, dx0 + r * size + i * L, left, factor[i], zv, s[i], same);
    }
    for (int i = 0; i < B; i++) {
      const V* from[3] = {s[i].g, s[i].noise, s[i].y};
      for (int f = 0; f < 3; f++)
        for (int64_t e = 0; e < std::min<int64_t>(L, left); e++) {  // element e: lane e / P of vector e % P
          A value;
          __builtin_memcpy(&value, reinterpret_cast<const char*>(&from[f][e % P]) + e / P * sizeof(A), sizeof(A));
          part[f * size + c + i * L + e] = value;
        }
    }
  }

  void forward_all() const { p.channels_last ? forward_pixels() : forward_planes(); }

  void gradient_all() const {
    const int64_t parts = p.channels_last ? chunks : 1;
    std::vector<A> part(3 * p.n * p.c * parts);  // [n][part][3][c]
    p.channels_last ? gradient_pixels(part.data()) : gradient_planes(part.data());
    A *dd = static_cast<A*>(p.dd), *db = static_cast<A*>(p.db);
    std::vector<double> sums(3 * p.c), all(p.c, 0.0);  // of one sample; of all
    double *__restrict g = sums.data(), *__restrict g_noise = g + p.c, *__restrict dy_y = g + 2 * p.c;
    double all_noise = 0;
    for (int64_t n = 0; n < p.n; n++) {
      for (int64_t k = 0; k < parts; k++) {
        const A* __restrict from = &part[(n * parts + k) * 3 * p.c];
        for (int64_t i = 0; i < 3 * p.c; i++) g[i] = k ? g[i] + from[i] : double(from[i]);
      }
      for (int64_t c = 0; c < p.c; c++) {
        all[c] += g[c];
        all_noise += g_noise[c];
      }
      if (dd)
        for (int64_t c = 0; c < p.c; c++)
          dd[n * p.c + c] = A(epilogue_dd<double>(g[c], g_noise[c], dy_y[c], d[n * p.c + c], strength,
                                                  b ? b[c] : A(0), p.gain));
    }
    if (db)
      for (int64_t c = 0; c < p.c; c++) db[c] = A(all[c] * p.gain);
    if (p.dstrength) *static_cast<A*>(p.dstrength) = A(all_noise * p.gain);
  }
};

}  // namespace

void epilogue_cpu(const EpilogueParams& p, DType dtype, bool gradient) {
  GT_DISPATCH(dtype, {
    if constexpr (std::is_same_v<T, bf16>)
      if (!p.channels_last && p.hw <= vec::kLanes) {  // half a run of bfloat16
        const Kernel<T, ShortRun> run{p};
        return gradient ? run.gradient_all() : run.forward_all();
      }
    const Kernel<T> run{p};
    gradient ? run.gradient_all() : run.forward_all();
  })
}

}  // namespace gt
