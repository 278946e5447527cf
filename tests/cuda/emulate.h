// SPDX-License-Identifier: Apache-2.0
// Stands in for the CUDA runtime, so that the .cu files run on a CPU: each CUDA thread is a fiber, blocks run one after
// another, barriers and warp shuffles switch fibers. Slow, but it finds wrong indices, missing barriers (a barrier that
// not all threads reach aborts) and wrong sums without a GPU. Used by tests/torch_utils/ops/test_cuda_emulated.py.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
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

enum State : uint8_t { kNew, kReady, kWarp, kBlock, kDone };

struct Fiber {
  ucontext_t start;
  jmp_buf at;  // where it waits
  std::vector<char> stack = std::vector<char>(64 << 10);
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline std::vector<Fiber*> idle;  // those without a thread
inline ucontext_t creator;        // only to start fibers: these contexts cost system calls, jumps do not
inline jmp_buf round_over;
inline const std::function<void()>* body = nullptr;
inline int current = 0, threads = 0;
inline State state[1024];
inline Fiber* fiber[1024];  // of each thread that began and has not ended
inline uint64_t slots[2][1024];
inline uint8_t turn[1024];  // which of the two a thread uses next

inline void enter(int thread) {
  current = thread;
  threadIdx = dim3(thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y);
}

// The next thread of this round that can run, or the end of the round.
[[noreturn]] inline void run_next() {
  for (int i = current + 1; i < threads; i++) {
    if (state[i] > kReady) continue;
    enter(i);
    if (state[i] == kNew) {
      fiber[i] = idle.back();
      idle.pop_back();
    }
    _longjmp(fiber[i]->at, 1);
  }
  _longjmp(round_over, 1);
}

inline void wait(State s) {
  state[current] = s;
  if (!_setjmp(fiber[current]->at)) run_next();
}

// A fiber runs one thread after the other until one waits: most kernels need no second fiber.
inline void entry() {
  Fiber* const me = fibers.back().get();
  if (!_setjmp(me->at)) swapcontext(&me->start, &creator);
  for (;;) {
    (*body)();
    state[current] = kDone;
    if (current + 1 < threads && state[current + 1] == kNew) {
      enter(current + 1);
      fiber[current] = me;
    } else {
      idle.push_back(me);
      if (!_setjmp(me->at)) run_next();
    }
  }
}

inline void run_block() {
  while (int(fibers.size()) < threads) {
    fibers.push_back(std::make_unique<Fiber>());
    Fiber& f = *fibers.back();
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.data();
    f.start.uc_stack.ss_size = f.stack.size();
    f.start.uc_link = nullptr;
    makecontext(&f.start, entry, 0);
    swapcontext(&creator, &f.start);
    idle.push_back(&f);
  }
  std::fill(state, state + threads, kNew);
  for (;;) {
    current = -1;
    if (!_setjmp(round_over)) run_next();
    const auto of = [](int from, int to, State s) { return std::count(state + from, state + to, s); };
    if (of(0, threads, kDone) == threads) return;
    bool freed = false;
    for (int w = 0; w < threads; w += 32)
      if (of(w, w + 32, kWarp) == 32) {
        std::fill(state + w, state + w + 32, kReady);
        freed = true;
      }
    if (of(0, threads, kBlock) == threads) {
      std::fill(state, state + threads, kReady);
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
  // In turn of two arrays: who comes to the next shuffle may overwrite nothing that another lane has yet to read.
  const int me = current, lane = me % 32;
  uint64_t* const slot = slots[turn[me] ^= 1];
  std::memcpy(&slot[me], &value, sizeof(T));
  wait(kWarp);
  T out = value;
  if (source_lane >= 0 && source_lane < 32) std::memcpy(&out, &slot[me - lane + source_lane], sizeof(T));
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
  threads = int(block.x * block.y * block.z);
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
        run_block();
      }
}
inline int launch_status() { return 0; }
}  // namespace gt
