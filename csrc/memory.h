// SPDX-License-Identifier: Apache-2.0
// Fresh memory is mapped page by page as it is touched, which costs more than a kernel's own work on results of many
// megabytes.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace gt {

// Asks for large pages (a hint; without effect elsewhere than on Linux).
inline void large_pages(void* memory, size_t bytes) {
#ifdef __linux__
  constexpr uintptr_t page = 2 << 20;
  if (bytes < 2 * page) return;
  const uintptr_t first = (uintptr_t(memory) + page - 1) & ~(page - 1), last = (uintptr_t(memory) + bytes) & ~(page - 1);
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace gt
