// SPDX-License-Identifier: Apache-2.0
// What the CPU kernels share: a deterministic parallel loop, a switch over types. Of torch they take its threads only, and
// those through a function: to read its headers takes a compiler longer than many a kernel.
#pragma once
#include <algorithm>
#include <vector>

#include "portable.h"

namespace gt {

constexpr int64_t kChunk = 1 << 15;  // elements per task of a parallel loop

// call(f, first, last) over parts of 0 ... n of at least `grain` each, on torch's threads.
void on_threads(int64_t n, int64_t grain, void (*call)(const void*, int64_t, int64_t), const void* f);

// The same of f(first, last).
template <class F>
void parallel_for(int64_t n, int64_t grain, const F& f) {
  on_threads(n, grain, [](const void* g, int64_t first, int64_t last) { (*static_cast<const F*>(g))(first, last); }, &f);
}

// Runs f(first, last) over fixed chunks: what a chunk sums does not depend on the number of threads.
template <class F>
void for_chunks(int64_t n, int64_t chunk, const F& f) {
  const int64_t chunks = n > 0 ? (n - 1) / chunk + 1 : 0;
  if (chunks == 1) return f(int64_t(0), n);
  parallel_for(chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) f(i * chunk, std::min(n, (i + 1) * chunk));
  });
}

#define GT_DISPATCH(DTYPE, ...)                       \
  switch (DTYPE) {                                    \
    case ::gt::DType::f32: { using T = float; __VA_ARGS__; break; }  \
    case ::gt::DType::f64: { using T = double; __VA_ARGS__; break; } \
    case ::gt::DType::f16: { using T = ::gt::f16; __VA_ARGS__; break; }    \
    case ::gt::DType::bf16: { using T = ::gt::bf16; __VA_ARGS__; break; }  \
  }

}  // namespace gt
