// SPDX-License-Identifier: Apache-2.0
// The blur after a transposed convolution with its layer's epilogue on CUDA: the marching blur (march.h), whose results
// get the epilogue in registers; other sizes of filter by the definition, one thread per output.
#include "blur_epilogue.h"
#include "march.h"

namespace gt {

// The epilogue as march.h wants it. The constants stay in the kernel's parameters.
struct FinishValues {
  static constexpr int kRows = 1;  // more do not fit into the registers
  const float *d, *noise, *strength, *b;
  int64_t channels, noise_step;
  float scale, gain, low_gain, bound;

  template <int V, bool CHANNELS>
  struct At {
    static constexpr int K = CHANNELS ? V : 1;
    const FinishValues& f;
    float d[K], b[K], strength;
    const float* noise;

    __device__ __forceinline__ At(const FinishValues& f, int64_t n, int64_t c, int64_t i) : f(f) {
#pragma unroll
      for (int k = 0; k < K; k++) {
        d[k] = (f.d ? f.d[n * f.channels + c + k] : 1.f) * f.scale;
        b[k] = f.b ? f.b[c + k] : 0.f;
      }
      noise = f.noise + (f.noise ? n * f.noise_step + i : 0);
      strength = f.noise ? *f.strength : 0.f;
    }

    __device__ __forceinline__ void down(int pixels) { noise += pixels; }

    template <bool WHOLE>
    __device__ __forceinline__ void apply(float* v, int i, int begin, int end) const {
      float z[CHANNELS ? 1 : V];
      if constexpr (CHANNELS) {
        z[0] = f.noise ? noise[i] : 0.f;
      } else if constexpr (WHOLE) {
        constexpr int P = V < 4 ? V : 4;
#pragma unroll
        for (int k = 0; k < V; k += P) {
          Words<float, P> part{};
          if (f.noise) part.load(noise + k);
#pragma unroll
          for (int j = 0; j < P; j++) z[k + j] = part.value(j);
        }
      } else {
#pragma unroll
        for (int j = 0; j < V; j++) z[j] = f.noise && j >= begin && j < end ? noise[j] : 0.f;
      }
#pragma unroll
      for (int j = 0; j < V; j++) {
        const float add = z[CHANNELS ? 0 : j] * strength + b[CHANNELS ? j : 0];
        v[j] = finish_value(v[j] * d[CHANNELS ? j : 0] + add, f.gain, f.low_gain, f.bound);
      }
    }
  };
};

template <class T>
__global__ void __launch_bounds__(256, 3) blur_epilogue_generic(BlurEpilogueParams p) {
  const UpfirdnParams& f = p.fir;
  const int64_t total = f.n * f.c * f.ho * f.wo, step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t e = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; e < total; e += step) {
    int64_t n, c;
    int y, x;
    split_index(f, e, n, c, y, x);
    static_cast<T*>(f.y)[e] = Convert<T>::from(blur_epilogue_pixel<T>(p, n, c, y, x));
  }
}

#ifdef __CUDACC_RTC__
template __global__ void blur_epilogue_generic<f16>(BlurEpilogueParams);
template __global__ void march_planes<f16, 1, 1, 1, true, FinishValues>(UpfirdnParams, FinishValues, int);
template __global__ void march_planes<float, 1, 1, 0, false, FinishValues>(UpfirdnParams, FinishValues, int);
template __global__ void march_pixels<bf16, 1, 1, 4, FinishValues>(UpfirdnParams, FinishValues, int);
#else

namespace {

template <class T>
void run(const BlurEpilogueParams& p, void* stream) {
  if constexpr (sizeof(T) < 8) {
    if (march_serves(p.fir)) {
      const EpilogueParams& e = p.after;
      const auto values = [](const void* q) { return static_cast<const float*>(q); };
      const FinishValues after{values(e.d), values(e.noise), values(e.strength), values(e.b), e.c, e.noise_step,
                               float(e.scale), float(e.gain), float(e.gain) * float(e.slope),
                               e.clamp < 0 ? INFINITY : stored<T>(e.clamp)};
      return march_launch<T, 1, 1>(p.fir, after, e.noise, stream);
    }
  }
  launch(blur_epilogue_generic<T>, blocks_for(p.fir.n * p.fir.c * p.fir.ho * p.fir.wo, 256), 256, stream, p);
}

}  // namespace

// Whether one pass is worth it: the binding runs the two operators otherwise.
bool blur_epilogue_fused(const BlurEpilogueParams& p, DType dtype) {
  const UpfirdnParams& f = p.fir;
  return dtype != DType::f64 && f.upx == 1 && f.upy == 1 && f.downx == 1 && f.downy == 1 && f.fh <= 4 && f.fw <= 4;
}

int blur_epilogue_launch(const BlurEpilogueParams& p, DType dtype, void* stream) {
  switch (dtype) {
    case DType::f32: run<float>(p, stream); break;
    case DType::f16: run<f16>(p, stream); break;
    case DType::bf16: run<bf16>(p, stream); break;
    case DType::f64: run<double>(p, stream); break;
  }
  return launch_status();
}
#endif

}  // namespace gt
