// SPDX-License-Identifier: Apache-2.0
// What the bindings share: checks, layouts, streams. c10 and ATen core only: the CUDA half compiles against a CPU-only
// torch too, because the stream is taken through the generic interface.
#pragma once
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "memory.h"
#include "portable.h"

namespace gt {

using at::Tensor;
using OptTensor = std::optional<Tensor>;

inline DType dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return DType::f32;
    case at::kDouble: return DType::f64;
    case at::kHalf: return DType::f16;
    case at::kBFloat16: return DType::bf16;
    default: TORCH_CHECK(false, "float32, float64, float16 or bfloat16 expected, got ", x.scalar_type());
  }
}

// Type of per-channel and per-sample vectors that go with x.
inline at::ScalarType acc_type(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// The layout results are written in: channels_last only where it is unambiguous.
inline at::MemoryFormat layout_of(const Tensor& x) {
  if (x.dim() == 4 && !x.is_contiguous() && x.size(1) > 1 && x.stride(1) == 1) return at::MemoryFormat::ChannelsLast;
  return at::MemoryFormat::Contiguous;
}

inline Tensor in_layout(const Tensor& x, at::MemoryFormat f) { return x.contiguous(f); }

inline Tensor vector_of(const OptTensor& v, const Tensor& x, int64_t n, const char* name) {
  TORCH_CHECK(v->numel() == n, name, ": ", n, " values expected, got ", v->sizes());
  TORCH_CHECK(v->device() == x.device(), name, " is on ", v->device(), ", x on ", x.device());
  return v->to(acc_type(x)).contiguous();
}

inline void* ptr(const Tensor& t) { return t.defined() && t.numel() ? t.data_ptr() : nullptr; }

// GT_WITH_CUDA: there are CUDA kernels. GT_EMULATE (tests): the same kernels, run for CPU tensors by an emulator; those
// for the CPU are not there.
#ifdef GT_EMULATE
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

inline bool on_cuda(const Tensor& x) { return kEmulated ? x.is_cpu() : x.is_cuda(); }

inline void* current_stream(const Tensor& x) {
  if (kEmulated) return nullptr;
  return c10::impl::VirtualGuardImpl(x.device().type()).getStream(x.device()).native_handle();
}

// An operator by name, through the dispatcher.
template <class F>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").template typed<F>();
}

inline void check_launch(int code, const char* op) {
  TORCH_CHECK(code == 0, op, ": CUDA launch failed with error ", code);
}

// A fresh result, before anything is written.
inline Tensor fresh(Tensor y) {
  if (y.is_cpu()) large_pages(y.data_ptr(), y.nbytes());
  return y;
}

}  // namespace gt
