// SPDX-License-Identifier: Apache-2.0
// epilogue: schema, checks, CPU kernel, CUDA entry.
#include "epilogue.h"

#include "arguments.h"
#include "vec.h"

namespace gt {

#ifdef GT_WITH_CUDA
int epilogue_launch(const EpilogueParams& p, DType dtype, bool gradient, void* stream);
int64_t epilogue_partials(const EpilogueParams& p);
#endif

namespace {

constexpr int64_t kChunk = 1 << 15;  // elements per task

template <class A>
struct Vectors {
  const A *d, *noise, *b;  // noise times strength in the forward, plain in the gradient
};

// SD, SN, SB: 1 when d, noise, b advance with the elements, 0 when they are constant.
template <class T, int SD, int SN, int SB>
void forward(const EpilogueParams& p, int64_t at, int64_t len, const Vectors<acc_t<T>>& v) {
  using A = acc_t<T>;
  const T* __restrict x = static_cast<const T*>(p.x) + at;
  T* __restrict out = static_cast<T*>(p.out) + at;
  const A slope = A(p.slope), gain = A(p.gain), bound = p.clamp < 0 ? A(INFINITY) : stored<T>(p.clamp);
  const A *d = v.d, *noise = v.noise, *b = v.b;
#pragma omp simd
  for (int64_t i = 0; i < len; i++)
    out[i] = Convert<T>::from(
        epilogue_value(to_acc(x[i]) * d[i * SD] + (noise[i * SN] + b[i * SB]), slope, gain, bound));
}

template <class A>
struct Sums {
  A *g, *g_noise, *dy_y;
};

template <class T, int SD, int SN>
void gradient(const EpilogueParams& p, int64_t at, int64_t len, const Vectors<acc_t<T>>& v, const Sums<acc_t<T>>& s) {
  using A = acc_t<T>;
  const T* __restrict y = static_cast<const T*>(p.x) + at;
  const T* __restrict dy = static_cast<const T*>(p.dy) + at;
  T* __restrict out = static_cast<T*>(p.out) + at;
  const A slope = A(p.slope), gain = A(p.gain), bound = p.clamp < 0 ? A(INFINITY) : stored<T>(p.clamp);
  const A *d = v.d, *noise = v.noise;
  if (SD == 0) {  // one sample and channel: reductions
    A g_sum = 0, noise_sum = 0, y_sum = 0;
#pragma omp simd reduction(+ : g_sum, noise_sum, y_sum)
    for (int64_t i = 0; i < len; i++) {
      A passed, value = to_acc(y[i]);
      const A g = epilogue_slope(value, to_acc(dy[i]), slope, bound, passed);
      out[i] = Convert<T>::from(g * d[0] * gain);
      g_sum += g;
      noise_sum += g * noise[i * SN];
      y_sum += passed * value;
    }
    *s.g += g_sum;
    *s.g_noise += noise_sum;
    *s.dy_y += y_sum;
    return;
  }
  A *__restrict g_sum = s.g, *__restrict noise_sum = s.g_noise, *__restrict y_sum = s.dy_y;
#pragma omp simd
  for (int64_t i = 0; i < len; i++) {
    A passed, value = to_acc(y[i]);
    const A g = epilogue_slope(value, to_acc(dy[i]), slope, bound, passed);
    out[i] = Convert<T>::from(g * d[i] * gain);
    g_sum[i] += g;
    noise_sum[i] += g * noise[i * SN];
    y_sum[i] += passed * value;
  }
}

// Three ways through memory. Planes: d and b constant. Pixels of channels last: noise constant. Small planes: a whole
// sample as one vector with d and b spread over it.
template <class T>
struct Run {
  using A = acc_t<T>;
  const EpilogueParams& p;
  const A* d = static_cast<const A*>(p.d);
  const A* b = static_cast<const A*>(p.b);
  const A* noise = static_cast<const A*>(p.noise);
  const A strength = p.strength ? *static_cast<const A*>(p.strength) : A(0);
  const bool planes = !p.channels_last && p.hw >= 64;
  const int64_t spread = p.channels_last ? 1 : p.hw;  // how often d and b repeat in the vectors of a row
  const int64_t row = planes ? p.hw : p.c * spread;   // elements that share their vectors
  const int64_t rows = p.channels_last ? p.hw : 1;    // of one sample
  const int64_t chunk = std::max<int64_t>(1, std::min(rows, kChunk / row));
  const int64_t chunks = (rows - 1) / chunk + 1;      // of one sample

  void values(int64_t n, std::vector<A>& dv, std::vector<A>& bv) const {
    A *__restrict dq = dv.data(), *__restrict bq = bv.data();
    for (int64_t c = 0; c < p.c; c++) {
      const A dc = (d ? d[n * p.c + c] : A(1)) * A(p.scale), bc = b ? b[c] : A(0);
      for (int64_t j = 0; j < spread; j++) dq[c * spread + j] = dc, bq[c * spread + j] = bc;
    }
  }

  // to[c * hw + j] (+)= from[j]
  void repeat(const A* __restrict from, A* __restrict to, bool add) const {
    for (int64_t c = 0; c < p.c; c++, to += p.hw)
      for (int64_t j = 0; j < p.hw; j++) to[j] = add ? to[j] + from[j] : from[j];
  }

  // Small planes (4x4 to 16x16): a whole number of vectors each, with d and b broadcast.
  static constexpr bool kVectors = std::is_same_v<T, float> || std::is_same_v<T, bf16>;
  bool small() const { return !p.channels_last && p.hw % vec::kLanes == 0 && p.hw <= 16 * vec::kLanes; }

  // f(plane, sample, channel, d, noise of the sample or zeros)
  template <class F>
  void small_planes(const F& f) const {
    const std::vector<float> zeros(noise ? 0 : p.hw, 0.f);
    for_chunks(p.n * p.c, std::max<int64_t>(1, kChunk / p.hw), [&](int64_t first, int64_t last) {
      int64_t n = first / p.c, c = first % p.c;
      for (int64_t q = first; q < last; q++) {
        f(q, n, c, (d ? d[q] : A(1)) * A(p.scale), noise ? noise + n * p.noise_step : zeros.data());
        if (++c == p.c) c = 0, n++;
      }
    });
  }

  void small_forward() const {
    using vec::Vec;
    const T* x = static_cast<const T*>(p.x);
    T* out = static_cast<T*>(p.out);
    const float slope = float(p.slope), gain = float(p.gain), bound = p.clamp < 0 ? INFINITY : stored<T>(p.clamp);
    small_planes([&](int64_t q, int64_t, int64_t c, float dq, const float* z) {
      const float bq = b ? b[c] : 0.f;
      for (int64_t i = 0; i < p.hw; i += vec::kLanes) {
        const Vec u = vec::load(x + q * p.hw + i) * dq + (vec::load(z + i) * strength + bq), zero = {};
        Vec y = vec::choose(u > zero, u, u * slope) * gain;
        y = vec::choose(y > bound, zero + bound, y);
        vec::store(out + q * p.hw + i, vec::choose(y < -bound, zero - bound, y));
      }
    });
  }

  bool small_gradient(A* part) const {  // false: not for this case
    if constexpr (!kVectors) return false;
    else if (!small()) return false;
    else return small_gradient_of(part), true;
  }

  void small_gradient_of(A* part) const {
    using vec::Vec;
    const T *y = static_cast<const T*>(p.x), *dy = static_cast<const T*>(p.dy);
    T* out = static_cast<T*>(p.out);
    const float slope = float(p.slope), gain = float(p.gain), bound = p.clamp < 0 ? INFINITY : stored<T>(p.clamp);
    small_planes([&](int64_t q, int64_t n, int64_t c, float dq, const float* z) {
      const Vec zero = {};
      const float factor = dq * gain;
      Vec g_sum = zero, noise_sum = zero, y_sum = zero;
      for (int64_t i = 0; i < p.hw; i += vec::kLanes) {
        const Vec value = vec::load(y + q * p.hw + i), given = vec::load(dy + q * p.hw + i);
        const Vec passed = vec::choose((value < bound) & (value > -bound), given, zero);
        const Vec g = vec::choose(value > zero, passed, passed * slope);
        vec::store(out + q * p.hw + i, g * factor);
        g_sum += g;
        noise_sum += g * vec::load(z + i);
        y_sum += passed * value;
      }
      A* s = part + n * 3 * p.c + c;
      s[0] = vec::sum(g_sum);
      s[p.c] = noise ? vec::sum(noise_sum) : 0.f;
      s[2 * p.c] = vec::sum(y_sum);
    });
  }

  void forward_all() const {
    if constexpr (kVectors)
      if (small()) return small_forward();
    std::vector<A> scaled;  // noise times strength
    if (noise) {
      scaled.resize(p.noise_step ? p.n * p.hw : p.hw);
      for (size_t i = 0; i < scaled.size(); i++) scaled[i] = noise[i] * strength;
    }
    const A zero = A(0);
    if (planes) {
      for_chunks(p.n * p.c, std::max<int64_t>(1, kChunk / p.hw), [&](int64_t first, int64_t last) {
        for (int64_t q = first; q < last; q++) {
          const A dv = (d ? d[q] : A(1)) * A(p.scale), bv = b ? b[q % p.c] : A(0);
          if (noise)
            forward<T, 0, 1, 0>(p, q * p.hw, p.hw, {&dv, scaled.data() + q / p.c * p.noise_step, &bv});
          else
            forward<T, 0, 0, 0>(p, q * p.hw, p.hw, {&dv, &zero, &bv});
        }
      });
      return;
    }
    for_chunks(p.n * chunks, 1, [&](int64_t first, int64_t last) {
      std::vector<A> dv(row), bv(row);
      int64_t have = -1;
      for (int64_t k = first; k < last; k++) {
        const int64_t n = k / chunks, start = k % chunks * chunk, end = std::min(rows, start + chunk);
        if (n != have) values(have = n, dv, bv);
        if (!p.channels_last && noise) repeat(&scaled[n * p.noise_step], bv.data(), true);
        for (int64_t r = start; r < end; r++) {
          const A* z = p.channels_last && noise ? &scaled[n * p.noise_step + r] : &zero;
          forward<T, 1, 0, 1>(p, (n * rows + r) * row, row, {dv.data(), z, bv.data()});
        }
      }
    });
  }

  void gradient_all() const {
    const int64_t nc = p.n * p.c, parts = planes ? 1 : chunks;
    std::vector<A> part(3 * nc * parts, A(0));  // [n][part][3][c]
    const A zero = A(0);
    if (small_gradient(part.data())) {
      // done
    } else if (planes) {
      for_chunks(nc, std::max<int64_t>(1, kChunk / p.hw), [&](int64_t first, int64_t last) {
        for (int64_t q = first; q < last; q++) {
          const A dv = (d ? d[q] : A(1)) * A(p.scale);
          A* s = &part[q / p.c * 3 * p.c + q % p.c];
          const Sums<A> sums{s, s + p.c, s + 2 * p.c};
          if (noise)
            gradient<T, 0, 1>(p, q * p.hw, p.hw, {&dv, noise + q / p.c * p.noise_step, nullptr}, sums);
          else
            gradient<T, 0, 0>(p, q * p.hw, p.hw, {&dv, &zero, nullptr}, sums);
        }
      });
    } else {
      for_chunks(p.n * chunks, 1, [&](int64_t first, int64_t last) {
        std::vector<A> dv(row), bv(row), nv(p.channels_last ? 0 : row), sums(3 * row);
        int64_t have = -1;
        for (int64_t k = first; k < last; k++) {
          const int64_t n = k / chunks, start = k % chunks * chunk, end = std::min(rows, start + chunk);
          if (n != have) values(have = n, dv, bv);
          std::fill(sums.begin(), sums.end(), A(0));
          const Sums<A> s{sums.data(), sums.data() + row, sums.data() + 2 * row};
          if (!p.channels_last) {
            if (noise) repeat(noise + n * p.noise_step, nv.data(), false);
            gradient<T, 1, 1>(p, n * row, row, {dv.data(), nv.data(), nullptr}, s);
          } else {
            for (int64_t r = start; r < end; r++)
              gradient<T, 1, 0>(p, (n * rows + r) * row, row,
                                {dv.data(), noise ? noise + n * p.noise_step + r : &zero, nullptr}, s);
          }
          for (int64_t i = 0; i < 3; i++)
            for (int64_t c = 0; c < p.c; c++) {
              A t = 0;
              for (int64_t j = 0; j < spread; j++) t += sums[i * row + c * spread + j];
              part[(k * 3 + i) * p.c + c] = t;
            }
        }
      });
    }
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
          dd[n * p.c + c] =
              A(epilogue_dd<double>(g[c], g_noise[c], dy_y[c], d[n * p.c + c], strength, b ? b[c] : A(0), p.gain));
    }
    if (db)
      for (int64_t c = 0; c < p.c; c++) db[c] = A(all[c] * p.gain);
    if (p.dstrength) *static_cast<A*>(p.dstrength) = A(all_noise * p.gain);
  }
};

struct Arguments : EpilogueArguments {
  Tensor x;
};

Arguments prepare(const Tensor& x, const OptTensor& d, double scale, const OptTensor& noise, const OptTensor& strength,
                  const OptTensor& b, double slope, double gain, double clamp) {
  TORCH_CHECK(x.dim() == 4, "epilogue: x [N, C, H, W] expected, got ", x.sizes());
  Arguments a{epilogue_arguments(x, x.size(0), x.size(1), x.size(2) * x.size(3), d, scale, noise, strength, b, slope,
                                 gain, clamp), in_layout(x, layout_of(x))};
  a.p.x = ptr(a.x);
  return a;
}

void execute(EpilogueParams& p, const Tensor& x, bool gradient) {
  const DType dtype = dtype_of(x);
#ifdef GT_WITH_CUDA
  if (on_cuda(x)) {
    c10::DeviceGuard guard(x.device());
    Tensor partial;
    if (gradient) partial = at::empty({epilogue_partials(p)}, x.options().dtype(acc_type(x)));
    p.partial = ptr(partial);
    return check_launch(epilogue_launch(p, dtype, gradient, current_stream(x)), "epilogue");
  }
#endif
  GT_DISPATCH(dtype, {
    const Run<T> run{p};
    gradient ? run.gradient_all() : run.forward_all();
  })
}

Tensor epilogue(const Tensor& x, const OptTensor& d, double scale, const OptTensor& noise, const OptTensor& strength,
                const OptTensor& b, double slope, double gain, double clamp) {
  Arguments a = prepare(x, d, scale, noise, strength, b, slope, gain, clamp);
  Tensor y = fresh(at::empty_like(a.x));
  if (y.numel() == 0) return y;
  a.p.out = y.data_ptr();
  execute(a.p, a.x, false);
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> epilogue_grad(const Tensor& dy_, const Tensor& y, const OptTensor& d,
                                                         double scale, const OptTensor& noise,
                                                         const OptTensor& strength, const OptTensor& b, double slope,
                                                         double gain, double clamp) {
  TORCH_CHECK(dy_.sizes() == y.sizes() && dy_.dtype() == y.dtype() && dy_.device() == y.device(),
              "epilogue_grad: dy ", dy_.sizes(), " ", dy_.dtype(), " does not fit y ", y.sizes(), " ", y.dtype());
  Arguments a = prepare(y, d, scale, noise, strength, b, slope, gain, clamp);
  const Tensor dy = in_layout(dy_, layout_of(y));
  const auto options = y.options().dtype(acc_type(y));
  Tensor dx = fresh(at::empty_like(a.x));
  Tensor dd = d ? at::empty({y.size(0), y.size(1)}, options) : at::empty({0}, options);
  Tensor dstrength = noise ? at::empty({}, options) : at::empty({0}, options);
  Tensor db = b ? at::empty({y.size(1)}, options) : at::empty({0}, options);
  if (dx.numel() == 0) {
    dd.zero_();
    dstrength.zero_();
    db.zero_();
    return {dx, dd, dstrength, db};
  }
  a.p.dy = dy.data_ptr();
  a.p.out = dx.data_ptr();
  a.p.dd = d ? dd.data_ptr() : nullptr;
  a.p.dstrength = noise ? dstrength.data_ptr() : nullptr;
  a.p.db = b ? db.data_ptr() : nullptr;
  execute(a.p, a.x, true);
  return {dx, dd, dstrength, db};
}

}  // namespace
}  // namespace gt

TORCH_LIBRARY_FRAGMENT(gantransfer, m) {
  m.def("epilogue(Tensor x, Tensor? d, float scale, Tensor? noise, Tensor? strength, Tensor? b, float slope, "
        "float gain, float clamp) -> Tensor");
  m.def("epilogue_grad(Tensor dy, Tensor y, Tensor? d, float scale, Tensor? noise, Tensor? strength, Tensor? b, "
        "float slope, float gain, float clamp) -> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gantransfer, CPU, m) {
  m.impl("epilogue", gt::epilogue);
  m.impl("epilogue_grad", gt::epilogue_grad);
}

#if defined(GT_WITH_CUDA) && !defined(GT_EMULATE)
TORCH_LIBRARY_IMPL(gantransfer, CUDA, m) {
  m.impl("epilogue", gt::epilogue);
  m.impl("epilogue_grad", gt::epilogue_grad);
}
#endif
