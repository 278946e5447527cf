// SPDX-License-Identifier: Apache-2.0
// bias_act on the CPU.
#include "bias_act.h"
#include "parallel.h"

namespace gt {
namespace {

constexpr int64_t kBlock = 1024;     // elements per inner loop: everything it touches stays in the first-level cache

// ACT 0 = decided per element, for what is never hot on a CPU: compiling all combinations would take a minute.
template <int ACT, int ORDER, bool FROM_X, class A>
GT_HD A element(int act, A x, A b, A dy, A v, A alpha, A gain, A scale, A bound) {
  if (ACT == 0) return bias_act_any<ORDER, FROM_X, A>(act, x, b, dy, v, alpha, gain, scale, bound);
  return bias_act_element<ACT, ORDER, FROM_X, A>(x, b, dy, v, alpha, gain, scale, bound);
}

// len <= kBlock elements at offset; bias and sums (nullable) advance with the elements.
template <class T, int ACT, int ORDER, bool FROM_X>
void block(const BiasActParams& p, int64_t offset, int64_t len, const acc_t<T>* bias, acc_t<T>* sums) {
  using A = acc_t<T>;
  const T* __restrict x = static_cast<const T*>(p.x) + offset;
  const T* __restrict dy = static_cast<const T*>(p.dy) + offset;
  const T* __restrict v = static_cast<const T*>(p.v) + offset;
  T* __restrict out = static_cast<T*>(p.out) + offset;
  const A alpha = A(p.alpha), gain = A(p.gain), scale = p.gain == 0 ? A(0) : A(1 / p.gain);
  const A bound = p.clamp < 0 ? A(INFINITY) : stored<T>(p.clamp);
  const bool has_x = p.x != nullptr;
  const int act = p.act;
  if (ORDER == 0) {
#pragma omp simd
    for (int64_t i = 0; i < len; i++)
      out[i] = Convert<T>::from(
          element<ACT, 0, false, A>(act, to_acc(x[i]), bias[i], A(0), A(0), alpha, gain, scale, bound));
    return;
  }
  A g[kBlock];
  if (!has_x) {  // linear without clamp: the slope needs no tensor
#pragma omp simd
    for (int64_t i = 0; i < len; i++) g[i] = to_acc(dy[i]) * gain;
  } else {
#pragma omp simd
    for (int64_t i = 0; i < len; i++)
      g[i] = element<ACT, ORDER, FROM_X, A>(act, to_acc(x[i]), FROM_X ? bias[i] : A(0), to_acc(dy[i]),
                                            ORDER == 2 ? to_acc(v[i]) : A(0), alpha, gain, scale, bound);
  }
#pragma omp simd
  for (int64_t i = 0; i < len; i++) out[i] = Convert<T>::from(g[i]);
  if (sums) {
#pragma omp simd
    for (int64_t i = 0; i < len; i++) sums[i] += g[i];
  }
}

template <class T>
using Block = void (*)(const BiasActParams&, int64_t, int64_t, const acc_t<T>*, acc_t<T>*);

template <class T>
void run(const BiasActParams& p, Block<T> block) {
  using A = acc_t<T>;
  const A* b = static_cast<const A*>(p.b);
  A* db = static_cast<A*>(p.db);
  if (p.inner >= 64 || p.channels == 1) {
    // One plane at a time: the bias is a constant, the sum a reduction.
    const int64_t planes = p.outer * p.channels;
    const int64_t pieces = (p.inner - 1) / kChunk + 1;  // a long plane is several tasks
    const int64_t piece = (p.inner - 1) / pieces + 1;
    std::vector<A> partial(db ? planes * pieces : 0);
    for_chunks(planes * pieces, std::max<int64_t>(1, kChunk / piece), [&](int64_t first, int64_t last) {
      A bias[kBlock], sums[kBlock];
      for (int64_t k = first; k < last; k++) {
        const int64_t plane = k / pieces, start = (k % pieces) * piece, end = std::min(p.inner, start + piece);
        std::fill(bias, bias + std::min(kBlock, piece), b ? b[plane % p.channels] : A(0));
        if (db) std::fill(sums, sums + std::min(kBlock, piece), A(0));
        for (int64_t i = start; i < end; i += kBlock)
          block(p, plane * p.inner + i, std::min(kBlock, end - i), bias, db ? sums : nullptr);
        if (db) {
          A s = 0;
          const int64_t len = std::min(kBlock, piece);
#pragma omp simd reduction(+ : s)
          for (int64_t i = 0; i < len; i++) s += sums[i];
          partial[k] = s;
        }
      }
    });
    if (db)
      for (int64_t c = 0; c < p.channels; c++) {
        double s = 0;
        for (int64_t o = 0; o < p.outer; o++)
          for (int64_t k = 0; k < pieces; k++) s += partial[(o * p.channels + c) * pieces + k];
        db[c] = A(s);
      }
    return;
  }
  // Rows of channels x inner elements with the bias spread over them: channels last, matrices, tiny maps.
  const int64_t row = p.channels * p.inner;
  std::vector<A> bias(row, A(0));
  if (b)
    for (int64_t c = 0; c < p.channels; c++) std::fill_n(bias.begin() + c * p.inner, p.inner, b[c]);
  const int64_t rows = std::max<int64_t>(1, std::min<int64_t>(p.outer, kChunk / row));
  const int64_t chunks = (p.outer - 1) / rows + 1;
  std::vector<A> partial(db ? chunks * row : 0, A(0));
  for_chunks(p.outer, rows, [&](int64_t first, int64_t last) {
    A* sums = db ? partial.data() + first / rows * row : nullptr;
    for (int64_t o = first; o < last; o++)
      for (int64_t i = 0; i < row; i += kBlock)
        block(p, o * row + i, std::min(kBlock, row - i), bias.data() + i, sums ? sums + i : nullptr);
  });
  if (db) {
    std::vector<double> total(row, 0.0);
    for (int64_t k = 0; k < chunks; k++)
      for (int64_t i = 0; i < row; i++) total[i] += partial[k * row + i];
    for (int64_t c = 0; c < p.channels; c++) {
      double s = 0;
      for (int64_t i = 0; i < p.inner; i++) s += total[c * p.inner + i];
      db[c] = A(s);
    }
  }
}

template <class T, int ACT>
Block<T> block_of(const BiasActParams& p) {
  if (p.order == 0) return block<T, ACT, 0, false>;
  if (p.from_x) return p.order == 1 ? block<T, 0, 1, true> : block<T, 0, 2, true>;
  return p.order == 1 ? block<T, ACT, 1, false> : block<T, 0, 2, false>;
}

template <class T>
Block<T> block_of_act(const BiasActParams& p) {
  switch (p.act) {
    case kRelu: return block_of<T, kRelu>(p);
    case kLrelu: return block_of<T, kLrelu>(p);
    case kTanh: return block_of<T, kTanh>(p);
    case kSigmoid: return block_of<T, kSigmoid>(p);
    case kElu: return block_of<T, kElu>(p);
    case kSelu: return block_of<T, kSelu>(p);
    case kSoftplus: return block_of<T, kSoftplus>(p);
    case kSwish: return block_of<T, kSwish>(p);
    default: return block_of<T, kLinear>(p);
  }
}

}  // namespace

void bias_act_cpu(const BiasActParams& p, DType dtype) {
  switch (dtype) {
    case DType::f32: return run<float>(p, block_of_act<float>(p));
    case DType::bf16: return run<bf16>(p, block_of_act<bf16>(p));
    case DType::f16: return run<f16>(p, block_of<f16, 0>(p));
    case DType::f64: return run<double>(p, block_of<double, 0>(p));
  }
}

}  // namespace gt
