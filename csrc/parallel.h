// SPDX-License-Identifier: Apache-2.0
// What the CPU kernels share: a deterministic parallel loop, a switch over types. Of torch they take its threads only: to
// read the headers of tensors takes a compiler longer than many a kernel.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "portable.h"

namespace gt {

constexpr int64_t kChunk = 1 << 15;  // elements per task of a parallel loop

// Runs f(first, last) over fixed chunks: what a chunk sums does not depend on the number of threads.
template <class F>
void for_chunks(int64_t n, int64_t chunk, const F& f) {
  const int64_t chunks = n > 0 ? (n - 1) / chunk + 1 : 0;
  if (chunks == 1) return f(int64_t(0), n);
  at::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
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
