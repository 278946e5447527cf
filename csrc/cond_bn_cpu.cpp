// SPDX-License-Identifier: Apache-2.0
// Class-conditional batch norm on the CPU.
#include "cond_bn.h"
#include "parallel.h"
#include "vec.h"

namespace gt {
namespace {

// Vectors of a line of elements: S = 1 when they advance with the elements (channels last), 0 when they are constant.
template <class A>
struct Line {
  const A *mean, *invstd, *gain, *bias, *s1, *s2;
};

template <class T, int S>
void apply(const T* __restrict x, T* __restrict out, int64_t len, Line<acc_t<T>> v, bool relu) {
  const auto *mean = v.mean, *invstd = v.invstd, *gain = v.gain, *bias = v.bias;
#pragma omp simd
  for (int64_t i = 0; i < len; i++)
    out[i] = Convert<T>::from(
        cond_bn_value(to_acc(x[i]), mean[i * S], invstd[i * S], gain[i * S], bias[i * S], relu));
}

template <class T, int S, class D>
void reduce(const T* __restrict x, const D* __restrict dy, int64_t len, Line<acc_t<T>> v, bool relu,
            acc_t<T>* __restrict a, acc_t<T>* __restrict b) {
  using A = acc_t<T>;
  const A *mean = v.mean, *invstd = v.invstd, *gain = v.gain, *bias = v.bias;
  if (S == 0) {
    A sa = 0, sb = 0;
#pragma omp simd reduction(+ : sa, sb)
    for (int64_t i = 0; i < len; i++) {
      const A xh = (to_acc(x[i]) - mean[0]) * invstd[0], g = cond_bn_passed(xh, to_acc(dy[i]), gain[0], bias[0], relu);
      sa += g;
      sb += g * xh;
    }
    *a += sa;
    *b += sb;
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < len; i++) {
    const A xh = (to_acc(x[i]) - mean[i]) * invstd[i], g = cond_bn_passed(xh, to_acc(dy[i]), gain[i], bias[i], relu);
    a[i] += g;
    b[i] += g * xh;
  }
}

template <class T, int S, class D>
void input_gradient(const T* __restrict x, const D* __restrict dy, T* __restrict out, int64_t len, Line<acc_t<T>> v,
                    bool relu) {
  using A = acc_t<T>;
  const A *mean = v.mean, *invstd = v.invstd, *gain = v.gain, *bias = v.bias, *s1 = v.s1, *s2 = v.s2;
#pragma omp simd
  for (int64_t i = 0; i < len; i++) {
    const A r = invstd[i * S], xh = (to_acc(x[i]) - mean[i * S]) * r;
    const A g = cond_bn_passed(xh, to_acc(dy[i]), gain[i * S], bias[i * S], relu);
    out[i] = Convert<T>::from(cond_bn_dx(xh, g, gain[i * S], r, s1[i * S], s2[i * S]));
  }
}

template <class T>
struct Norm {
  using A = acc_t<T>;
  const CondBnParams& p;
  const T* x = static_cast<const T*>(p.x);
  const T* dy = static_cast<const T*>(p.dy);
  T* out = static_cast<T*>(p.out);
  const int64_t hw = int64_t(p.h) * p.w;
  // A sample is `lines` lines of `len` elements in memory; planes have one set of lines per channel.
  const int64_t len = p.channels_last ? p.c : p.up == 2 ? p.w : hw;
  const int64_t lines = p.channels_last ? hw : p.up == 2 ? p.h : 1;
  const std::vector<A> ones = std::vector<A>(size_t(p.c), A(1)), zeros = std::vector<A>(size_t(p.c), A(0));

  Line<A> line(int64_t n, int64_t c) const {
    auto at = [&](const void* q, int64_t i, const std::vector<A>& other) {
      return q ? static_cast<const A*>(q) + i : other.data();
    };
    return {at(p.mean, c, zeros), at(p.invstd, c, ones), at(p.gain, n * p.c + c, ones), at(p.bias, n * p.c + c, zeros),
            at(p.s1, c, zeros), at(p.s2, c, zeros)};
  }

  // Calls f(n, c, first line, last line) for every piece of work: all channels (c = 0) or, in planes, one.
  template <class F>
  void pieces(const F& f) const {
    if (p.channels_last) {
      const int64_t chunk = std::max<int64_t>(1, kChunk / len), chunks = (lines - 1) / chunk + 1;
      for_chunks(p.n * chunks, 1, [&](int64_t first, int64_t last) {
        for (int64_t k = first; k < last; k++)
          f(k / chunks, int64_t(0), k % chunks * chunk, std::min(lines, (k % chunks + 1) * chunk), k);
      });
    } else {
      for_chunks(p.n * p.c, std::max<int64_t>(1, kChunk / hw), [&](int64_t first, int64_t last) {
        for (int64_t q = first; q < last; q++) f(q / p.c, q % p.c, int64_t(0), lines, q);
      });
    }
  }
  int64_t parts() const {  // pieces of one sample (channels last)
    return (lines - 1) / std::max<int64_t>(1, kChunk / len) + 1;
  }

  int64_t start(int64_t n, int64_t c) const { return p.channels_last ? n * hw * p.c : (n * p.c + c) * hw; }

  // dy of line i of a sample's channel(s), summed over the 2 x 2 pixels that came from one.
  const A* gather(int64_t n, int64_t c, int64_t i, std::vector<A>& buffer) const {
    A* __restrict s = buffer.data();
    if (p.channels_last) {
      const int64_t y = i / p.w, xx = i % p.w, row = int64_t(2) * p.w * p.c;
      const T* __restrict q = dy + (n * 2 * p.h + 2 * y) * row + 2 * xx * p.c;
#pragma omp simd
      for (int64_t j = 0; j < p.c; j++)
        s[j] = (to_acc(q[j]) + to_acc(q[j + p.c])) + (to_acc(q[j + row]) + to_acc(q[j + row + p.c]));
    } else {
      const T* __restrict q = dy + ((n * p.c + c) * 2 * p.h + 2 * i) * 2 * p.w;
      const int64_t row = int64_t(2) * p.w;
#pragma omp simd
      for (int64_t j = 0; j < p.w; j++)
        s[j] = (to_acc(q[2 * j]) + to_acc(q[2 * j + 1])) + (to_acc(q[2 * j + row]) + to_acc(q[2 * j + row + 1]));
    }
    return s;
  }

  // Small planes (4x4 to 16x16): a whole number of vectors each, with what the channel brings broadcast. Called with
  // f(plane, vectors of x).
  bool small() const { return !p.channels_last && p.up == 1 && hw % vec::kLanes == 0 && hw <= 16 * vec::kLanes; }

  template <class F>
  void small_planes(const F& f) const {
    for_chunks(p.n * p.c, std::max<int64_t>(1, kChunk / hw), [&](int64_t first, int64_t last) {
      for (int64_t q = first; q < last; q++) f(q, q % p.c);
    });
  }
  A at(const void* v, int64_t i, A other) const { return v ? static_cast<const A*>(v)[i] : other; }

  void small_job(CondBnJob job) const {
    using vec::Vec;
    constexpr int64_t L = vec::kLanes;
    const Vec zero = {};
    if (job == kCondBnApply)
      return small_planes([&](int64_t q, int64_t c) {
        const float mean = at(p.mean, c, 0), r = at(p.invstd, c, 1), g = at(p.gain, q, 1), b = at(p.bias, q, 0);
        for (int64_t i = 0; i < hw; i += L) {
          const Vec v = g * ((vec::load(x + q * hw + i) - mean) * r) + b;
          vec::store(out + q * hw + i, p.relu ? vec::choose(v < zero, zero, v) : v);
        }
      });
    if (job == kCondBnReduce)
      return small_planes([&](int64_t q, int64_t c) {
        const float mean = at(p.mean, c, 0), r = at(p.invstd, c, 1), g = at(p.gain, q, 1), b = at(p.bias, q, 0);
        Vec sa = zero, sb = zero;
        for (int64_t i = 0; i < hw; i += L) {
          const Vec xh = (vec::load(x + q * hw + i) - mean) * r, given = vec::load(dy + q * hw + i);
          const Vec passed = p.relu ? vec::choose(g * xh + b > zero, given, zero) : given;
          sa += passed;
          sb += passed * xh;
        }
        static_cast<A*>(p.a)[q] = vec::sum(sa);
        static_cast<A*>(p.b)[q] = vec::sum(sb);
      });
    if (job == kCondBnDx)
      return small_planes([&](int64_t q, int64_t c) {
        const float mean = at(p.mean, c, 0), r = at(p.invstd, c, 1), g = at(p.gain, q, 1), b = at(p.bias, q, 0);
        const float s1 = at(p.s1, c, 0), s2 = at(p.s2, c, 0);
        for (int64_t i = 0; i < hw; i += L) {
          const Vec xh = (vec::load(x + q * hw + i) - mean) * r, given = vec::load(dy + q * hw + i);
          const Vec passed = p.relu ? vec::choose(g * xh + b > zero, given, zero) : given;
          vec::store(out + q * hw + i, r * (g * passed - s1 - xh * s2));
        }
      });
    // Statistics: as for large planes, the mean first.
    std::vector<float> means(p.n * p.c), squares(p.n * p.c);
    small_planes([&](int64_t q, int64_t) {
      Vec s = zero, d2 = zero;
      for (int64_t i = 0; i < hw; i += L) s += vec::load(x + q * hw + i);
      const float mean = vec::sum(s) / float(hw);
      for (int64_t i = 0; i < hw; i += L) {
        const Vec e = vec::load(x + q * hw + i) - mean;
        d2 += e * e;
      }
      means[q] = mean;
      squares[q] = vec::sum(d2);
    });
    for (int64_t c = 0; c < p.c; c++) {
      // All planes have one size, so Chan's combination is the spread of their means.
      double mean = 0, m2 = 0;
      for (int64_t n = 0; n < p.n; n++) mean += means[n * p.c + c];
      mean /= double(p.n);
      for (int64_t n = 0; n < p.n; n++) {
        const double e = means[n * p.c + c] - mean;
        m2 += squares[n * p.c + c] + e * e * double(hw);
      }
      static_cast<A*>(p.a)[c] = A(mean);
      static_cast<A*>(p.b)[c] = A(m2);
    }
  }

  void apply_all() const {
    pieces([&](int64_t n, int64_t c, int64_t first, int64_t last, int64_t) {
      const Line<A> v = line(n, c);
      std::vector<T> one(p.up == 2 ? len : 0);
      for (int64_t i = first; i < last; i++) {
        const T* in = x + start(n, c) + i * len;
        T* to = p.up == 2 ? one.data() : out + start(n, c) + i * len;
        p.channels_last ? apply<T, 1>(in, to, len, v, p.relu) : apply<T, 0>(in, to, len, v, p.relu);
        if (p.up == 1) continue;
        if (p.channels_last) {
          const int64_t row = int64_t(2) * p.w * p.c;
          T* q = out + (n * 2 * p.h + 2 * (i / p.w)) * row + 2 * (i % p.w) * p.c;
          for (T* o : {q, q + p.c, q + row, q + row + p.c}) std::copy(to, to + p.c, o);
        } else {
          T* __restrict q = out + ((n * p.c + c) * 2 * p.h + 2 * i) * 2 * p.w;
          const T* __restrict from = to;
          for (int64_t j = 0; j < p.w; j++) q[2 * j] = q[2 * j + 1] = from[j];
          std::copy(q, q + 2 * p.w, q + 2 * p.w);
        }
      }
    });
  }

  void reduce_all() const {
    A *a = static_cast<A*>(p.a), *b = static_cast<A*>(p.b);
    std::vector<A> part(p.channels_last ? size_t(2) * p.n * parts() * p.c : 0, A(0));
    pieces([&](int64_t n, int64_t c, int64_t first, int64_t last, int64_t k) {
      const Line<A> v = line(n, c);
      std::vector<A> buffer(p.up == 2 ? len : 0);
      A plane[2] = {0, 0};
      A* sa = p.channels_last ? &part[2 * k * p.c] : plane;
      A* sb = p.channels_last ? sa + p.c : plane + 1;
      for (int64_t i = first; i < last; i++) {
        const T* in = x + start(n, c) + i * len;
        if (p.up == 2) {
          const A* g = gather(n, c, i, buffer);
          p.channels_last ? reduce<T, 1, A>(in, g, len, v, p.relu, sa, sb) : reduce<T, 0, A>(in, g, len, v, p.relu, sa, sb);
        } else {
          const T* g = dy + start(n, c) + i * len;
          p.channels_last ? reduce<T, 1, T>(in, g, len, v, p.relu, sa, sb) : reduce<T, 0, T>(in, g, len, v, p.relu, sa, sb);
        }
      }
      if (!p.channels_last) {
        a[n * p.c + c] = plane[0];
        b[n * p.c + c] = plane[1];
      }
    });
    if (!p.channels_last) return;
    const int64_t count = parts();
    for (int64_t n = 0; n < p.n; n++)
      for (int64_t c = 0; c < p.c; c++) {
        double sa = 0, sb = 0;
        for (int64_t k = n * count; k < (n + 1) * count; k++) {
          sa += part[2 * k * p.c + c];
          sb += part[(2 * k + 1) * p.c + c];
        }
        a[n * p.c + c] = A(sa);
        b[n * p.c + c] = A(sb);
      }
  }

  void dx_all() const {
    pieces([&](int64_t n, int64_t c, int64_t first, int64_t last, int64_t) {
      const Line<A> v = line(n, c);
      std::vector<A> buffer(p.up == 2 ? len : 0);
      for (int64_t i = first; i < last; i++) {
        const int64_t at = start(n, c) + i * len;
        if (p.up == 2) {
          const A* g = gather(n, c, i, buffer);
          p.channels_last ? input_gradient<T, 1, A>(x + at, g, out + at, len, v, p.relu)
                          : input_gradient<T, 0, A>(x + at, g, out + at, len, v, p.relu);
        } else {
          p.channels_last ? input_gradient<T, 1, T>(x + at, dy + at, out + at, len, v, p.relu)
                          : input_gradient<T, 0, T>(x + at, dy + at, out + at, len, v, p.relu);
        }
      }
    });
  }

  // Per piece: the mean, then squares about it while the piece is in the cache, corrected by what the mean missed.
  void stats_all() const {
    const int64_t count = p.channels_last ? p.n * parts() : p.n * p.c;
    std::vector<double> means(count * (p.channels_last ? p.c : 1)), squares(means.size());
    std::vector<int64_t> sizes(count);
    pieces([&](int64_t n, int64_t c, int64_t first, int64_t last, int64_t k) {
      const T* __restrict q = x + start(n, c) + first * len;
      if (!p.channels_last) {
        const int64_t m = hw;
        A s = 0, d = 0, d2 = 0;
#pragma omp simd reduction(+ : s)
        for (int64_t i = 0; i < m; i++) s += to_acc(q[i]);
        const A mean = s / A(m);
#pragma omp simd reduction(+ : d, d2)
        for (int64_t i = 0; i < m; i++) {
          const A e = to_acc(q[i]) - mean;
          d += e;
          d2 += e * e;
        }
        means[k] = double(mean) + double(d) / m;
        squares[k] = double(d2) - double(d) * d / m;
        sizes[k] = m;
        return;
      }
      const int64_t m = last - first;
      std::vector<A> sum(p.c, A(0)), dev(p.c, A(0)), dev2(p.c, A(0));
      A *__restrict s = sum.data(), *__restrict d = dev.data(), *__restrict d2 = dev2.data();
      for (int64_t i = 0; i < m; i++) {
#pragma omp simd
        for (int64_t j = 0; j < p.c; j++) s[j] += to_acc(q[i * p.c + j]);
      }
      for (int64_t j = 0; j < p.c; j++) s[j] /= A(m);
      for (int64_t i = 0; i < m; i++) {
#pragma omp simd
        for (int64_t j = 0; j < p.c; j++) {
          const A e = to_acc(q[i * p.c + j]) - s[j];
          d[j] += e;
          d2[j] += e * e;
        }
      }
      for (int64_t j = 0; j < p.c; j++) {
        means[k * p.c + j] = double(s[j]) + double(d[j]) / m;
        squares[k * p.c + j] = double(d2[j]) - double(d[j]) * d[j] / m;
      }
      sizes[k] = m;
    });
    for (int64_t c = 0; c < p.c; c++) {
      double n = 0, mean = 0, m2 = 0;
      const int64_t per = p.channels_last ? count : p.n;
      for (int64_t k = 0; k < per; k++) {
        const int64_t i = k * p.c + c;
        chan<double>(n, mean, m2, double(sizes[p.channels_last ? k : i]), means[i], squares[i]);
      }
      static_cast<A*>(p.a)[c] = A(mean);
      static_cast<A*>(p.b)[c] = A(m2 > 0 || m2 != m2 ? m2 : 0);
    }
  }
};

}  // namespace

void cond_bn_cpu(const CondBnParams& p, DType dtype, CondBnJob job) {
  GT_DISPATCH(dtype, {
    const Norm<T> run{p};
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>)
      if (run.small()) return run.small_job(job);
    switch (job) {
      case kCondBnStats: run.stats_all(); break;
      case kCondBnApply: run.apply_all(); break;
      case kCondBnReduce: run.reduce_all(); break;
      case kCondBnDx: run.dx_all(); break;
    }
  })
}

}  // namespace gt
