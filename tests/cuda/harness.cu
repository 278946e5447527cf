// SPDX-License-Identifier: Apache-2.0
// The kernels without torch: forward of every operator, two types and layouts, against the same functors on the host.
//     nvcc -std=c++17 -O3 -arch=sm_90 -I csrc tests/cuda/harness.cu csrc/*.cu -o harness && ./harness
// tests/bench/gpu_check.py falls back to it where the bindings do not compile; a test runs it emulated on the CPU.
#include <cstdio>
#include <vector>

#include "bias_act.h"
#include "blur_epilogue.h"
#include "cond_bn.h"
#include "epilogue.h"
#include "upfirdn2d.h"
#include "weight_sq.h"

#ifdef GT_EMULATE
#include <cstdlib>
static void* device_alloc(size_t n) { return std::malloc(n + 16); }
static void copy_to(void* d, const void* h, size_t n) { std::memcpy(d, h, n); }
static void copy_back(void* h, const void* d, size_t n) { std::memcpy(h, d, n); }
#else
#include <cuda_runtime.h>
static void check(cudaError_t e) {
  if (e != cudaSuccess) {
    std::printf("CUDA: %s\n", cudaGetErrorString(e));
    std::exit(2);
  }
}
static void* device_alloc(size_t n) {
  void* p = nullptr;
  check(cudaMalloc(&p, n + 16));
  return p;
}
static void copy_to(void* d, const void* h, size_t n) { check(cudaMemcpy(d, h, n, cudaMemcpyHostToDevice)); }
static void copy_back(void* h, const void* d, size_t n) { check(cudaMemcpy(h, d, n, cudaMemcpyDeviceToHost)); }
#endif

namespace gt {
int bias_act_launch(const BiasActParams& p, DType dtype, void* stream);
int epilogue_launch(const EpilogueParams& p, DType dtype, bool backward, void* stream);
int upfirdn2d_launch(const UpfirdnParams& p, DType dtype, void* stream);
int blur_epilogue_launch(const BlurEpilogueParams& p, DType dtype, void* stream);
bool blur_epilogue_fused(const BlurEpilogueParams& p, DType dtype);
int cond_bn_launch(const CondBnParams& p, DType dtype, CondBnJob job, void* stream);
int weight_sq_launch(const WeightSqParams& p, DType dtype, bool gradient, void* stream);
int64_t cond_bn_partials(const CondBnParams& p, CondBnJob job);
}  // namespace gt

using namespace gt;

static int failures = 0, checks = 0;

template <class T>
constexpr DType kType = sizeof(T) == 4 ? DType::f32 : DType::f16;

// Deterministic numbers in [-2, 2).
template <class T>
static std::vector<T> numbers(int64_t n, uint32_t seed) {
  std::vector<T> v(n);
  for (auto& e : v) {
    seed = seed * 1664525u + 1013904223u;
    e = Convert<T>::from(float(seed >> 8) * (4.f / 16777216.f) - 2.f);
  }
  return v;
}

template <class T>
static T* upload(const std::vector<T>& v) {
  T* d = static_cast<T*>(device_alloc(v.size() * sizeof(T)));
  copy_to(d, v.data(), v.size() * sizeof(T));
  return d;
}

// Largest difference from the host's result, relative to 1 + |value|, against what rounding allows.
template <class T, class F>
static void judge(const char* what, bool channels_last, int status, const void* device, int64_t n, F expected) {
  std::vector<T> got(n);
  copy_back(got.data(), device, n * sizeof(T));
  double worst = 0;
  for (int64_t i = 0; i < n; i++) {
    const double e = double(expected(i)), d = std::fabs(double(to_acc(got[i])) - e) / (1 + std::fabs(e));
    worst = d == d && d < 1e30 ? (d > worst ? d : worst) : 1e30;
  }
  const bool good = status == 0 && worst <= (sizeof(T) == 4 ? 1e-5 : 2e-3);
  checks++;
  failures += !good;
  std::printf("%-6s %-12s %s %s  error %.2g, status %d\n", good ? "ok" : "WRONG", what, sizeof(T) == 4 ? "f32" : "f16",
              channels_last ? "nhwc" : "nchw", worst, status);
}

// Blur and epilogue in one pass: filters of rank one and two and of fewer taps, paddings, shared noise, parts left out;
// x and y start `shift` elements behind an aligned address.
template <class T>
static void blurs(int64_t n, int64_t c, int h, int w, bool nhwc, int shift) {
  const auto x = numbers<T>(n * c * h * w + shift, 6);
  const T* dx = upload(x);
  const int64_t most = n * c * (h + 8) * (w + 8);
  const auto b = numbers<float>(c, 7), noise = numbers<float>(most, 8), strength = numbers<float>(1, 9);
  auto d = numbers<float>(n * c, 10);
  for (auto& e : d) e = 0.5f + std::fabs(e);
  const float *db = upload(b), *dd = upload(d), *dn = upload(noise), *ds = upload(strength);
  T* y = static_cast<T*>(device_alloc((most + shift) * sizeof(T)));
  const std::vector<float> line = {0.125f, 0.25f, 0.5f, 0.125f}, any = numbers<float>(16, 11);
  std::vector<float> outer;
  for (float e : line)
    for (float f : line) outer.push_back(e * f);
  const float *d1 = upload(line), *d2 = upload(outer), *d3 = upload(any);
  struct Case {
    const float *host, *device;
    int fh, fw, px, py, right, below;
    bool separable, flip;
  };
  const Case cases[] = {{outer.data(), d2, 4, 4, 1, 1, 2, 2, false, false}, {outer.data(), d2, 4, 4, 2, 1, 1, 2, false, true},
                        {line.data(), d1, 4, 4, 1, 2, 1, 1, true, false},   {any.data(), d3, 4, 4, 2, 2, 2, 2, false, false},
                        {any.data(), d3, 3, 2, 1, 0, 0, 2, false, true},    {outer.data(), d2, 4, 4, -1, 3, 5, -2, false, false}};
  for (int k = 0; k < 6; k++) {
    const Case& a = cases[k];
    BlurEpilogueParams p{};
    UpfirdnParams& f = p.fir;
    f.x = dx + shift, f.y = y + shift, f.f = a.device, f.n = n, f.c = c, f.h = h, f.w = w;
    f.fh = a.fh, f.fw = a.fw, f.px = a.px, f.py = a.py, f.separable = a.separable, f.flip = a.flip;
    f.upx = f.upy = f.downx = f.downy = 1, f.gain = 1.5, f.channels_last = nhwc;
    f.ho = h + a.py + a.below - a.fh + 1, f.wo = w + a.px + a.right - a.fw + 1;
    EpilogueParams& e = p.after;
    const int64_t hw = int64_t(f.ho) * f.wo;
    e.out = f.y, e.n = n, e.c = c, e.hw = hw, e.noise_step = k == 2 ? 0 : hw, e.channels_last = nhwc;
    e.scale = k == 1 ? 0.7 : 1, e.slope = k == 3 ? 0 : 0.2, e.gain = 1.4, e.clamp = k % 2 ? -1 : 1.2;
    e.d = k == 1 ? nullptr : dd, e.noise = k == 4 ? nullptr : dn, e.strength = k == 4 ? nullptr : ds;
    e.b = k == 5 ? nullptr : db;
    const int status = blur_epilogue_launch(p, kType<T>, nullptr);
    BlurEpilogueParams host = p;
    host.fir.x = x.data() + shift, host.fir.f = a.host;
    host.after.d = e.d ? d.data() : nullptr, host.after.noise = e.noise ? noise.data() : nullptr;
    host.after.strength = strength.data(), host.after.b = e.b ? b.data() : nullptr;
    char name[32];
    std::snprintf(name, sizeof name, "blur %d%s", k, shift ? " +1" : "");
    judge<T>(name, nhwc, status + !blur_epilogue_fused(p, kType<T>), y + shift, n * c * hw, [&](int64_t i) {
      const int64_t at = nhwc ? i / c % hw : i % hw;
      return blur_epilogue_pixel<T>(host, i / (c * hw), nhwc ? i % c : i / hw % c, int(at / f.wo), int(at % f.wo));
    });
  }
}

template <class T>
static void run(int64_t n, int64_t c, int h, int w, bool nhwc) {
  const int64_t hw = int64_t(h) * w, total = n * c * hw;
  const auto x = numbers<T>(total, 1);
  const auto b = numbers<float>(c, 2), noise = numbers<float>(n * hw, 3), strength = numbers<float>(1, 4);
  auto d = numbers<float>(n * c, 5);
  for (auto& e : d) e = 0.5f + std::fabs(e);
  const T* dx = upload(x);
  const float *db = upload(b), *dd = upload(d), *dn = upload(noise), *ds = upload(strength);
  T* y = static_cast<T*>(device_alloc(4 * total * sizeof(T)));
  const auto channel = [&](int64_t i) { return nhwc ? i % c : i / hw % c; };
  const auto pixel = [&](int64_t i) { return nhwc ? i / c % hw : i % hw; };
  const auto sample = [&](int64_t i) { return i / (c * hw); };

  for (int act : {int(kLrelu), int(kSwish), int(kTanh)}) {
    BiasActParams p{};
    p.outer = nhwc ? n * hw : n, p.channels = c, p.inner = nhwc ? 1 : hw;
    p.x = dx, p.b = db, p.out = y, p.act = act, p.alpha = 0.2, p.gain = 1.4, p.clamp = 1.5;
    const int status = bias_act_launch(p, kType<T>, nullptr);
    judge<T>("bias_act", nhwc, status, y, total, [&](int64_t i) {
      return bias_act_any<0, false, float>(act, to_acc(x[i]), b[channel(i)], 0.f, 0.f, 0.2f, 1.4f, 0.f, stored<T>(1.5));
    });
  }

  EpilogueParams e{};
  e.x = dx, e.out = y, e.d = dd, e.noise = dn, e.strength = ds, e.b = db;
  e.n = n, e.c = c, e.hw = hw, e.noise_step = hw, e.channels_last = nhwc;
  e.scale = 1, e.slope = 0.2, e.gain = 1.4, e.clamp = 2;
  const int status = epilogue_launch(e, kType<T>, false, nullptr);
  judge<T>("epilogue", nhwc, status, y, total, [&](int64_t i) {
    const float u = d[sample(i) * c + channel(i)] * to_acc(x[i]) + strength[0] * noise[sample(i) * hw + pixel(i)] +
                    b[channel(i)];
    return epilogue_value(u, 0.2f, 1.4f, stored<T>(2));
  });

  const std::vector<float> taps = {0.125f, 0.375f, 0.375f, 0.125f};
  const float* df = upload(taps);
  for (int mode = 0; mode < 3; mode++) {
    UpfirdnParams p{};
    p.x = dx, p.f = df, p.y = y, p.n = n, p.c = c, p.h = h, p.w = w, p.fh = p.fw = 4, p.separable = true;
    p.upx = p.upy = mode == 1 ? 2 : 1, p.downx = p.downy = mode == 2 ? 2 : 1, p.px = p.py = mode == 2 ? 1 : 2;
    p.gain = mode == 1 ? 4 : 1, p.channels_last = nhwc;
    p.ho = (h * p.upy + 3 - 4) / p.downy + 1, p.wo = (w * p.upx + 3 - 4) / p.downx + 1;
    const int done = upfirdn2d_launch(p, kType<T>, nullptr);
    UpfirdnParams host = p;
    host.x = x.data(), host.f = taps.data();
    judge<T>(mode == 0 ? "blur" : mode == 1 ? "up2" : "down2", nhwc, done, y, n * c * p.ho * p.wo, [&](int64_t i) {
      const int64_t area = int64_t(p.ho) * p.wo, at = nhwc ? i / c % area : i % area;
      return upfirdn_pixel<T>(host, i / (c * area), nhwc ? i % c : i / area % c, int(at / p.wo), int(at % p.wo));
    });
  }

  if (sizeof(T) == 4) {
    const int64_t k = w % 9 ? 4 : 9, rows = total / (c * k);  // the image's memory as a weight [rows, c, k]
    const auto dq = numbers<float>(rows * c, 6);
    const WeightSqParams p{dx, upload(dq), y, rows, c, k, nhwc}, host{x.data(), dq.data(), nullptr, rows, c, k, nhwc};
    int done = weight_sq_launch(p, DType::f32, false, nullptr);
    judge<float>("weight_sq", nhwc, done, y, rows * c,
                 [&](int64_t i) { return weight_sq_value<float, 0>(host, i / c, i % c); });
    done = weight_sq_launch(p, DType::f32, true, nullptr);
    judge<float>("its gradient", nhwc, done, y, rows * c * k,
                 [&](int64_t i) { return weight_sq_slope<float>(host, i); });
  }
  blurs<T>(n, c, h, w, nhwc, 0);
  blurs<T>(n, c, h, w, nhwc, 1);  // unaligned

  CondBnParams p{};
  p.x = dx, p.n = n, p.c = c, p.h = h, p.w = w, p.up = 1, p.channels_last = nhwc, p.relu = true;
  float* mean = static_cast<float*>(device_alloc(c * 4));
  float* m2 = static_cast<float*>(device_alloc(c * 4));
  p.a = mean, p.b = m2, p.partial = device_alloc(cond_bn_partials(p, kCondBnStats) * 4);
  const int stats = cond_bn_launch(p, kType<T>, kCondBnStats, nullptr);
  std::vector<double> s0(c), s1(c);
  for (int64_t i = 0; i < total; i++) s0[channel(i)] += double(to_acc(x[i])) / double(n * hw);
  for (int64_t i = 0; i < total; i++) {
    const double v = double(to_acc(x[i])) - s0[channel(i)];
    s1[channel(i)] += v * v;
  }
  judge<float>("mean", nhwc, stats, mean, c, [&](int64_t i) { return s0[i]; });
  judge<float>("squares", nhwc, stats, m2, c, [&](int64_t i) { return s1[i]; });
  CondBnParams q = p;
  q.out = y, q.mean = db, q.invstd = dd, q.gain = dd, q.bias = nullptr;
  const int apply = cond_bn_launch(q, kType<T>, kCondBnApply, nullptr);
  judge<T>("cond_bn", nhwc, apply, y, total, [&](int64_t i) {
    const int64_t k = channel(i);
    return cond_bn_value(to_acc(x[i]), b[k], d[k], d[sample(i) * c + k], 0.f, true);
  });
}

int main() {
  for (bool nhwc : {false, true}) {
    run<float>(2, 5, 7, 9, nhwc);
    run<float>(2, 16, 17, 20, nhwc);
    run<f16>(3, 16, 8, 8, nhwc);
    run<f16>(2, 24, 20, 33, nhwc);
  }
  std::printf("%d checks, %d wrong\n", checks, failures);
  return failures != 0;
}
