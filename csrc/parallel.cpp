// SPDX-License-Identifier: Apache-2.0
// torch's threads, for the CPU kernels (parallel.h).
#include "parallel.h"

#include <ATen/Parallel.h>

namespace gt {

void on_threads(int64_t n, int64_t grain, void (*call)(const void*, int64_t, int64_t), const void* f) {
  at::parallel_for(0, n, grain, [=](int64_t first, int64_t last) { call(f, first, last); });
}

}  // namespace gt
