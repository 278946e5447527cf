// SPDX-License-Identifier: Apache-2.0
// upfirdn2d on the CPU: the cases of fir.h, small planes as one matrix, and any other case row by row.
#include "upfirdn2d.h"

#include "filter.h"
#include "fir.h"
#include "parallel.h"

namespace gt {
namespace {

// count rows of len: out[r * out_step + i] (+)= sum_k weight[k] * in[k][r * in_step + i]. K = 0: any number of taps.
template <class S, int K, class O, class A>
void combine(const S* const* in, const A* weight, int taps, O* out, int64_t len, bool add, int64_t count,
             int64_t in_step, int64_t out_step) {
  for (int64_t r = 0; r < count; r++) {
    O* __restrict o = out + r * out_step;
    if (K > 0 && !add) {
      const S* q[K > 0 ? K : 1];
      A v[K > 0 ? K : 1];
#pragma GCC unroll 12
      for (int k = 0; k < K; k++) q[k] = in[k] + r * in_step, v[k] = weight[k];
#pragma omp simd
      for (int64_t i = 0; i < len; i++) {
        A s = v[0] * to_acc(q[0][i]);
#pragma GCC unroll 12
        for (int k = 1; k < K; k++) s += v[k] * to_acc(q[k][i]);
        o[i] = Convert<O>::from(s);
      }
      continue;
    }
    // Blocks short enough to keep their sums in the first-level cache.
    constexpr int64_t B = 512;
    A sum[B];
    for (int64_t at = 0; at < len; at += B) {
      const int64_t n = std::min(B, len - at);
      for (int64_t i = 0; i < n; i++) sum[i] = add ? to_acc(o[at + i]) : A(0);
      for (int k = 0; k < taps; k++) {
        const S* __restrict q = in[k] + r * in_step + at;
        const A v = weight[k];
#pragma omp simd
        for (int64_t i = 0; i < n; i++) sum[i] += v * to_acc(q[i]);
      }
#pragma omp simd
      for (int64_t i = 0; i < n; i++) o[at + i] = Convert<O>::from(sum[i]);
    }
  }
}

template <class S, class O, class A>
void combine_any(const S* const* in, const A* weight, int taps, O* out, int64_t len, bool add, int64_t count = 1,
                 int64_t in_step = 0, int64_t out_step = 0) {
  // 4 and 12 taps of float32 and bfloat16 are in fir.h: compiling them here for the rest is not worth the build's time.
  if (taps == 2) return combine<S, 2>(in, weight, taps, out, len, add, count, in_step, out_step);
  combine<S, 0>(in, weight, taps, out, len, add, count, in_step, out_step);
}

// One axis, ready to use. Output m * up + s takes the input elements m * down + at of its phase's taps; in input phase
// at mod down these are m + shift, with low <= shift <= high.
template <class A>
struct Axis {
  struct Phase {
    std::vector<A> weight;
    std::vector<int> source, shift;  // input phase, shift
  };
  std::vector<Phase> phase;
  int up, down, low = 0, high = 0;

  Axis(const std::vector<A>& k, int up, int down, int pad) : phase(up), up(up), down(down) {
    bool first = true;
    for (int s = 0; s < up; s++)
      for (int b = 0; b < int(k.size()); b++) {
        const int position = s * down + b - pad;
        if (((position % up) + up) % up) continue;
        const int at = floor_div(position, up), shift = floor_div(at, down);
        phase[s].weight.push_back(k[b]);
        phase[s].source.push_back(at - shift * down);
        phase[s].shift.push_back(shift);
        low = first ? shift : std::min(low, shift);
        high = first ? shift : std::max(high, shift);
        first = false;
      }
  }
};

template <class A>
std::vector<Axis<A>> filter_rows(const Filter<A>& f, const UpfirdnParams& p) {
  std::vector<Axis<A>> out;
  if (f.separable) {
    out.emplace_back(f.row, p.upx, p.downx, p.px);
  } else {
    for (const auto& row : f.rows) out.emplace_back(row, p.upx, p.downx, p.px);
  }
  return out;
}

// Planes, a strip of rows at a time. Input phases are separated on loading, so that every tap of either axis is one
// contiguous loop over the whole strip; output phases are interleaved on storing. Also channels last with few channels.
template <class T>
struct Planes {
  using A = acc_t<T>;
  const UpfirdnParams& p;
  const Filter<A> filter;
  const Axis<A> vertical;
  const std::vector<Axis<A>> horizontal;
  const int columns;      // outputs per horizontal phase
  const int pitch;        // row length of the buffers
  const int64_t sx;       // distance of neighbouring pixels in memory

  explicit Planes(const UpfirdnParams& p)
      : p(p), filter(p), vertical(filter.column, p.upy, p.downy, p.py), horizontal(filter_rows(filter, p)),
        columns((p.wo - 1) / p.upx + 1), pitch(columns + horizontal[0].high - horizontal[0].low),
        sx(p.channels_last ? p.c : 1) {}

  struct Buffers {
    std::vector<A> in, mid, out, row;
    std::vector<const A*> at;
  };

  void run() const {
    const int lines = (p.ho - 1) / p.upy + 1;  // output rows per vertical phase
    // A strip's buffers should fit the first-level cache; a few rows at least, or loading margins dominates.
    const int strip = std::min(lines, std::max(8, 6144 / (pitch * p.downx * p.downy)));
    const int strips = (lines - 1) / strip + 1;
    const int64_t tasks = p.n * p.c * strips;
    for_chunks(tasks, std::max<int64_t>(1, kChunk / (int64_t(strip) * p.upy * p.wo)), [&](int64_t first, int64_t last) {
      const int rows = strip + vertical.high - vertical.low;
      Buffers b;
      b.in.resize(size_t(p.downy) * p.downx * rows * pitch);
      b.row.resize(size_t(2) * pitch);
      b.mid.resize(size_t(p.upy) * p.downx * strip * pitch);
      b.out.resize(size_t(p.upy) * p.upx * strip * pitch);
      for (int64_t t = first; t < last; t++) {
        const int m0 = int(t % strips) * strip;
        one(t / strips, m0, std::min(strip, lines - m0), rows, strip, b);
      }
    });
  }

  // Rows m0 .. m0 + count of every vertical phase of one plane.
  void one(int64_t plane, int m0, int count, int rows, int strip, Buffers& b) const {
    const int64_t n = plane / p.c, c = plane % p.c;
    const T* x = static_cast<const T*>(p.x) + upfirdn_offset(p, n, c, 0, 0, p.h, p.w);
    T* y = static_cast<T*>(p.y) + upfirdn_offset(p, n, c, 0, 0, p.ho, p.wo);
    const size_t in_size = size_t(rows) * pitch, out_size = size_t(strip) * pitch;
    for (int r = 0; r < p.downy; r++)
      for (int j = 0; j < count + vertical.high - vertical.low; j++)
        load(x, (m0 + vertical.low + j) * p.downy + r, &b.in[r * p.downx * in_size + size_t(j) * pitch], in_size,
             b.row.data());
    const int64_t flat = int64_t(count) * pitch, valid = flat - (horizontal[0].high - horizontal[0].low);
    if (!filter.separable) std::fill(b.out.begin(), b.out.end(), A(0));
    for (int s = 0; s < p.upy; s++) {
      const auto& taps = vertical.phase[s];
      if (filter.separable) {
        for (int q = 0; q < p.downx; q++) {
          b.at.clear();
          for (size_t k = 0; k < taps.weight.size(); k++)
            b.at.push_back(&b.in[(taps.source[k] * p.downx + q) * in_size] + (taps.shift[k] - vertical.low) * pitch);
          combine_any<A, A, A>(b.at.data(), taps.weight.data(), int(b.at.size()), &b.mid[q * out_size], flat, false);
        }
        across(horizontal[0], b.mid.data(), out_size, s, out_size, valid, false, b);
      } else {
        int k = 0;  // vertical phases hold the filter's rows in order, every upy-th of them
        for (int a = 0; a < p.fh; a++) {
          if ((((s * p.downy + a - p.py) % p.upy) + p.upy) % p.upy) continue;
          const A* source = &b.in[taps.source[k] * p.downx * in_size] + (taps.shift[k] - vertical.low) * pitch;
          across(horizontal[a], source, in_size, s, out_size, valid, true, b);
          k++;
        }
      }
    }
    for (int m = 0; m < count; m++)
      for (int s = 0; s < p.upy; s++) {
        const int oy = (m0 + m) * p.upy + s;
        if (oy < p.ho) save(&b.out[s * p.upx * out_size + size_t(m) * pitch], out_size, y + int64_t(oy) * p.wo * sx);
      }
  }

  void across(const Axis<A>& axis, const A* source, size_t source_size, int s, size_t out_size, int64_t valid,
              bool add, Buffers& b) const {
    for (int t = 0; t < p.upx; t++) {
      const auto& taps = axis.phase[t];
      b.at.clear();
      for (size_t k = 0; k < taps.weight.size(); k++)
        b.at.push_back(source + taps.source[k] * source_size + taps.shift[k] - axis.low);
      combine_any<A, A, A>(b.at.data(), taps.weight.data(), int(b.at.size()), &b.out[(s * p.upx + t) * out_size], valid,
                           add);
    }
  }

  // Row iy, each horizontal phase to its own buffer. The margins are zero from the start: no row writes there.
  void load(const T* x, int iy, A* to, size_t in_size, A* __restrict row) const {
    const int low = horizontal[0].low;
    if (p.downx == 2 && sx == 1) {
      // Element i of `row` is pixel 2 * low + i.
      int first = std::min(std::max(0, -2 * low), 2 * pitch), last = std::max(first, std::min(2 * pitch, p.w - 2 * low));
      A* __restrict even = to;
      A* __restrict odd = to + in_size;
      if (iy < 0 || iy >= p.h) {
        std::fill(even, even + pitch, A(0));
        std::fill(odd, odd + pitch, A(0));
        return;
      }
      const T* __restrict in = x + int64_t(iy) * p.w + 2 * low;
#pragma omp simd
      for (int i = first; i < last; i++) row[i] = to_acc(in[i]);
#pragma omp simd
      for (int j = 0; j < pitch; j++) {
        even[j] = row[2 * j];
        odd[j] = row[2 * j + 1];
      }
      return;
    }
    for (int q = 0; q < p.downx; q++) {
      A* __restrict o = to + q * in_size;
      // Column j holds input pixel (low + j) * downx + q.
      int first = std::max(0, ceil_div(-q, p.downx) - low), last = std::min(pitch, ceil_div(p.w - q, p.downx) - low);
      if (iy < 0 || iy >= p.h || last <= first) {
        std::fill(o, o + pitch, A(0));
        continue;
      }
      const T* __restrict in = x + (int64_t(iy) * p.w + (low + first) * p.downx + q) * sx;
      o += first;
      const int len = last - first;
      if (sx == 1 && p.downx == 1) {
#pragma omp simd
        for (int j = 0; j < len; j++) o[j] = to_acc(in[j]);
      } else {
        const int64_t step = sx * p.downx;
        for (int j = 0; j < len; j++) o[j] = to_acc(in[j * step]);
      }
    }
  }

  void save(const A* __restrict from, size_t out_size, T* __restrict y) const {
    if (sx == 1 && p.upx == 1) {
#pragma omp simd
      for (int j = 0; j < p.wo; j++) y[j] = Convert<T>::from(from[j]);
    } else if (sx == 1 && p.upx == 2) {
      const A* __restrict odd = from + out_size;
      const int pairs = p.wo / 2;
#pragma omp simd
      for (int j = 0; j < pairs; j++) {
        y[2 * j] = Convert<T>::from(from[j]);
        y[2 * j + 1] = Convert<T>::from(odd[j]);
      }
      if (p.wo % 2) y[p.wo - 1] = Convert<T>::from(from[pairs]);
    } else {
      for (int j = 0; j < p.wo; j++) y[j * sx] = Convert<T>::from(from[j % p.upx * out_size + j / p.upx]);
    }
  }
};

// Channels last: a row is one vector of width x channels. The vertical taps go into a row buffer with zero margins, the
// horizontal taps from there into the output.
template <class T>
struct Pixels {
  using A = acc_t<T>;
  const UpfirdnParams& p;
  const Filter<A> filter;
  const Axis<A> vertical;
  const std::vector<Axis<A>> horizontal;
  int left, right;  // margins, in pixels

  explicit Pixels(const UpfirdnParams& p)
      : p(p), filter(p), vertical(filter.column, p.upy, p.downy, p.py), horizontal(filter_rows(filter, p)) {
    left = std::max(0, -horizontal[0].low * p.downx);
    right = std::max(0, ((p.wo - 1) / p.upx + horizontal[0].high + 1) * p.downx - p.w);
  }

  void run() const {
    const int64_t row = int64_t(p.w) * p.c, width = int64_t(p.wo) * p.c;
    const std::vector<T> zeros(row, Convert<T>::from(A(0)));
    for_chunks(p.n * p.ho, std::max<int64_t>(1, kChunk / width), [&](int64_t first, int64_t last) {
      std::vector<A> buffer((int64_t(left) + p.w + right) * p.c, A(0)), sum(filter.separable ? 0 : width);
      std::vector<const T*> in;
      for (int64_t r = first; r < last; r++) {
        const int oy = int(r % p.ho);
        const T* x = static_cast<const T*>(p.x) + r / p.ho * p.h * row;
        T* y = static_cast<T*>(p.y) + r * width;
        A* middle = buffer.data() + int64_t(left) * p.c;
        const auto& taps = vertical.phase[oy % p.upy];
        in.clear();
        for (size_t k = 0; k < taps.weight.size(); k++) {
          const int iy = (oy / p.upy + taps.shift[k]) * p.downy + taps.source[k];
          in.push_back(iy >= 0 && iy < p.h ? x + iy * row : zeros.data());
        }
        if (filter.separable) {
          combine_any<T, A, A>(in.data(), taps.weight.data(), int(in.size()), middle, row, false);
          across<T>(horizontal[0], middle, y, false);
          continue;
        }
        std::fill(sum.begin(), sum.end(), A(0));
        size_t k = 0;
        for (int a = 0; a < p.fh; a++) {
          if (((((oy % p.upy) * p.downy + a - p.py) % p.upy) + p.upy) % p.upy) continue;
          const A one = A(1);
          combine_any<T, A, A>(&in[k++], &one, 1, middle, row, false);
          across<A>(horizontal[a], middle, sum.data(), true);
        }
        const A* __restrict from = sum.data();
#pragma omp simd
        for (int64_t i = 0; i < width; i++) y[i] = Convert<T>::from(from[i]);
      }
    });
  }

  template <class O>
  void across(const Axis<A>& axis, const A* middle, O* out, bool add) const {
    std::vector<const A*> at;
    for (int s = 0; s < std::min(p.upx, p.wo); s++) {
      const auto& taps = axis.phase[s];
      at.clear();
      for (size_t k = 0; k < taps.weight.size(); k++)
        at.push_back(middle + (int64_t(taps.shift[k]) * p.downx + taps.source[k]) * p.c);
      const int64_t count = (p.wo - s - 1) / p.upx + 1;  // outputs of this phase
      if (p.upx == 1 && p.downx == 1)
        combine_any<A, O, A>(at.data(), taps.weight.data(), int(at.size()), out, count * p.c, add);
      else
        combine_any<A, O, A>(at.data(), taps.weight.data(), int(at.size()), out + s * p.c, p.c, add, count,
                             p.downx * p.c, p.upx * p.c);
    }
  }
};

// Small planes: each is a row vector times one constant matrix, kLanes outputs at a time, skipping inputs that a block
// of outputs does not see. float32 and bfloat16.
template <class T>
void run_small(const UpfirdnParams& p) {
  constexpr int B = vec::kLanes, P = 8;
  const int in = p.h * p.w, out = p.ho * p.wo, blocks = (out - 1) / B + 1;
  std::vector<float> matrix;                      // [entry][B]
  std::vector<int> source, start(blocks + 1, 0);  // input of each entry; entries of each block
  const Filter<float> filter(p);
  auto tap = [&](int a, int b) { return filter.separable ? filter.column[a] * filter.row[b] : filter.rows[a][b]; };
  for (int k = 0; k < blocks; k++) {
    for (int i = 0; i < in; i++) {
      float values[B];
      bool any = false;
      for (int j = 0; j < B; j++) {
        const int o = k * B + j;
        values[j] = 0;
        if (o >= out) continue;
        const int a = i / p.w * p.upy + p.py - o / p.wo * p.downy, b = i % p.w * p.upx + p.px - o % p.wo * p.downx;
        if (a >= 0 && a < p.fh && b >= 0 && b < p.fw) {
          values[j] = tap(a, b);
          any = true;
        }
      }
      if (!any) continue;
      source.push_back(i);
      matrix.insert(matrix.end(), values, values + B);
    }
    start[k + 1] = int(source.size());
  }
  for_chunks(p.n * p.c, std::max<int64_t>(P, kChunk / out / P * P), [&](int64_t first, int64_t last) {
    std::vector<float> wide(sizeof(T) == 2 ? size_t(P) * in : 0);
    for (int64_t q = first; q < last; q += P) {
      const int count = int(std::min<int64_t>(P, last - q));
      const T* x = static_cast<const T*>(p.x) + q * in;
      T* y = static_cast<T*>(p.y) + q * out;
      const float* planes;
      if constexpr (sizeof(T) == 2) {
        float* to = wide.data();
        vec::cover(int64_t(count) * in, [&](int64_t i) { vec::store(to + i, vec::load(x + i)); },
                   [&](int64_t i) { to[i] = to_acc(x[i]); });
        planes = to;
      } else {
        planes = x;
      }
      const float* plane[P];  // missing planes repeat the last
      for (int r = 0; r < P; r++) plane[r] = planes + int64_t(std::min(r, count - 1)) * in;
      for (int k = 0; k < blocks; k++) {
        vec::Vec sum[P] = {};
        for (int e = start[k]; e < start[k + 1]; e++) {
          const vec::Vec m = vec::load(matrix.data() + size_t(e) * B);
          const int i = source[e];
#pragma GCC unroll 8
          for (int r = 0; r < P; r++) sum[r] += m * plane[r][i];
        }
        for (int r = 0; r < count; r++) vec::store_part(y + int64_t(r) * out + k * B, sum[r], out - k * B);
      }
    }
  });
}

// The cases of fir.h. False: not one of them.
template <class T, int K, int UP, int DOWN>
bool run_fir(const UpfirdnParams& p, const Filter<float>& filter) {
  const fir::Image image{p.x, p.y, p.n, p.c, p.h, p.w, p.ho, p.wo};
  const fir::Filter2d<T, K, UP, DOWN> f(image, filter.column.data(), filter.row.data(), p.px, p.py);
  auto chunks = [](int64_t n, int64_t chunk, const auto& g) { for_chunks(n, chunk, g); };
  if (!p.channels_last) {
    if (!f.regular()) return false;
    f.lanes(chunks);
    return true;
  }
  if constexpr (K == 4)
    if (f.walkable()) return f.pixels(chunks), true;
  f.rows(chunks);
  return true;
}

template <class T, int K>
bool run_fir(const UpfirdnParams& p) {
  if (p.upx != p.upy || p.downx != p.downy || p.fh != K) return false;
  const Filter<float> filter(p);
  if (!filter.separable) return false;
  if (p.upx == 1 && p.downx == 1) return run_fir<T, K, 1, 1>(p, filter);
  if (p.upx == 2 && p.downx == 1) return run_fir<T, K, 2, 1>(p, filter);
  if (p.upx == 1 && p.downx == 2) return run_fir<T, K, 1, 2>(p, filter);
  return false;
}

template <class T>
void run(const UpfirdnParams& p) {
  const bool small = !p.channels_last && p.w <= 8 && p.wo <= 16 && p.h <= 8 && p.ho <= 16 && p.n * p.c >= 64;
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>) {
    if (small) return run_small<T>(p);
    if (p.fw == 4 && run_fir<T, 4>(p)) return;
    if constexpr (std::is_same_v<T, float>)  // augmentation's filters: on images, in float32
      if (p.fw == 12 && run_fir<T, 12>(p)) return;
  }
  if (p.channels_last && (p.c >= 16 || (p.upx == 1 && p.downx == 1))) return Pixels<T>(p).run();
  Planes<T>(p).run();
}

}  // namespace

void upfirdn2d_cpu(const UpfirdnParams& p, DType dtype) { GT_DISPATCH(dtype, run<T>(p);) }

}  // namespace gt
