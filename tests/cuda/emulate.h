// SPDX-License-Identifier: Apache-2.0
// Stands in for the CUDA runtime, so that the .cu files run on a CPU: each CUDA thread is a fiber, blocks run one after
// another, barriers and warp shuffles switch fibers. Slow, but it finds wrong indices, missing barriers (a barrier that
// not all threads reach aborts) and wrong sums without a GPU. Used by tests/torch_utils/ops/test_cuda_emulated.py.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace gt_emulate {

enum State { kReady, kWarp, kBlock, kDone };

struct Fiber {
  ucontext_t start;
  jmp_buf at;  // where it waits
  std::vector<char> stack = std::vector<char>(64 << 10);
  State state = kDone;
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline ucontext_t scheduler;  // only to start fibers: these contexts cost system calls, jumps do not
inline jmp_buf schedule;
inline const std::function<void()>* body = nullptr;
inline int current = 0;
inline uint64_t slots[1024];

inline void wait(State s) {
  fibers[current]->state = s;
  if (!_setjmp(fibers[current]->at)) _longjmp(schedule, 1);
}

// A fiber runs one thread of every block.
inline void entry() {
  if (!_setjmp(fibers[current]->at)) swapcontext(&fibers[current]->start, &scheduler);
  for (;;) {
    (*body)();
    wait(kDone);
  }
}

inline void run_block(int threads) {
  while (int(fibers.size()) < threads) {
    fibers.push_back(std::make_unique<Fiber>());
    Fiber& f = *fibers.back();
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.data();
    f.start.uc_stack.ss_size = f.stack.size();
    f.start.uc_link = nullptr;
    makecontext(&f.start, entry, 0);
    current = int(fibers.size()) - 1;
    swapcontext(&scheduler, &f.start);
  }
  for (int i = 0; i < threads; i++) fibers[i]->state = kReady;
  for (;;) {
    volatile int ran = 0;  // volatile: changed between a setjmp and the jump back
    int live = 0, at_block = 0;
    for (volatile int i = 0; i < threads; i++) {
      if (fibers[i]->state != kReady) continue;
      current = i;
      threadIdx = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
      if (!_setjmp(schedule)) _longjmp(fibers[i]->at, 1);
      ran++;
    }
    for (int i = 0; i < threads; i++) {
      live += fibers[i]->state != kDone;
      at_block += fibers[i]->state == kBlock;
    }
    if (live == 0) return;
    bool freed = ran > 0;
    for (int w = 0; w < threads; w += 32) {
      const int end = w + 32 < threads ? w + 32 : threads;
      int at_warp = 0;
      for (int i = w; i < end; i++) at_warp += fibers[i]->state == kWarp;
      if (at_warp == end - w) {
        for (int i = w; i < end; i++) fibers[i]->state = kReady;
        freed = true;
      }
    }
    if (at_block == threads) {
      for (int i = 0; i < threads; i++) fibers[i]->state = kReady;
      freed = true;
    }
    if (!freed) {
      std::fprintf(stderr, "emulated CUDA: a barrier or shuffle that not all threads reach (block %u,%u of %u,%u)\n",
                   blockIdx.x, blockIdx.y, gridDim.x, gridDim.y);
      std::abort();
    }
  }
}

}  // namespace gt_emulate

inline void __syncthreads() { gt_emulate::wait(gt_emulate::kBlock); }

template <class T>
T gt_exchange(T value, int source_lane) {
  using namespace gt_emulate;
  const int me = current, lane = me % 32;
  std::memcpy(&slots[me], &value, sizeof(T));
  wait(kWarp);
  T out = value;
  if (source_lane >= 0 && source_lane < 32) std::memcpy(&out, &slots[me - lane + source_lane], sizeof(T));
  wait(kWarp);
  return out;
}
template <class T>
T __shfl_down_sync(unsigned, T value, int d) {
  return gt_exchange(value, gt_emulate::current % 32 + d);
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return gt_exchange(value, lane);
}

namespace gt {
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, void*, A... args) {
  using namespace gt_emulate;
  gridDim = grid;
  blockDim = block;
  const int threads = int(block.x * block.y * block.z);
  if (threads > 1024 || grid.y > 65535 || grid.z > 65535 || threads % 32) {
    std::fprintf(stderr, "emulated CUDA: launch of %u x %u x %u blocks of %d threads\n", grid.x, grid.y, grid.z, threads);
    std::abort();
  }
  const std::function<void()> call = [&] { kernel(args...); };
  body = &call;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        blockIdx = dim3(x, y, z);
        run_block(threads);
      }
}
inline int launch_status() { return 0; }
}  // namespace gt
