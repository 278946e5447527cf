// SPDX-License-Identifier: Apache-2.0
// Every operation of csrc/vec.h and csrc/runs.h on numbers whose results are exact, against loops over elements. Returns
// the line of the first one that is wrong.
#include <cstdio>
#include <utility>

#include "runs.h"

using namespace gt;
using namespace gt::vec;

float a[64], b[64];

template <class F>
bool is(Vec v, const F& element) {
  float got[kLanes];
  store(got, v);
  for (int i = 0; i < kLanes; i++)
    if (got[i] != element(i)) return false;
  return true;
}
float both(int i) { return i < kLanes ? a[i] : b[i - kLanes]; }  // element i of (a, b)

template <int... O>
bool windows(std::integer_sequence<int, O...>) {
  return (is(window<O>(load(a), load(b)), [](int i) { return both(i + O); }) && ...);
}

#define CHECK(...) \
  if (!(__VA_ARGS__)) return __LINE__

int main() {
  for (int i = 0; i < 64; i++) a[i] = float((i * 37) % 101 - 50), b[i] = float((i * 53) % 97 - 48);
  const Vec x = load(a), y = load(b), zero = {};
  CHECK(is(x + y, [](int i) { return a[i] + b[i]; }) && is(x - y, [](int i) { return a[i] - b[i]; }));
  CHECK(is(x * y, [](int i) { return a[i] * b[i]; }) && is(2.f * x - y * 3.f, [](int i) { return 2 * a[i] - 3 * b[i]; }));
  CHECK(is(zero + 2.5f, [](int) { return 2.5f; }));
  Vec changed = x;
  changed += y;
  changed *= y;
  changed *= 2.f;
  CHECK(is(changed, [](int i) { return (a[i] + b[i]) * b[i] * 2; }));
  CHECK(is(gt::vec::choose(x > y, x, zero), [](int i) { return a[i] > b[i] ? a[i] : 0.f; }));
  CHECK(is(larger(x, y), [](int i) { return a[i] > b[i] ? a[i] : b[i]; }));
  CHECK(is(smaller(x, y), [](int i) { return a[i] < b[i] ? a[i] : b[i]; }));
  CHECK(windows(std::make_integer_sequence<int, kLanes + 1>{}));
  CHECK(is(evens(x, y), [](int i) { return both(2 * i); }) && is(odds(x, y), [](int i) { return both(2 * i + 1); }));
  CHECK(is(load_even(a), [](int i) { return a[2 * i]; }));
  CHECK(is(GT_SHUFFLE(x, y, 31, 0, 30, 1, 29, 2, 28, 3, 27, 4, 26, 5, 25, 6, 24, 7),
           [](int i) { return both(i % 2 ? i / 2 : 31 - i / 2); }));
  float total = 0, three[4];
  for (int i = 0; i < kLanes; i++) total += a[i];
  sums(x, y, x * 2.f, three);
  CHECK(sum(x) == total && three[0] == total && three[1] == sum(y) && three[2] == 2 * total);

  bf16 h[2 * kLanes], from[2 * kLanes];
  float odd[2 * kLanes];
  for (int i = 0; i < 2 * kLanes; i++) odd[i] = a[i] * 1.0078125f + 0.001f, from[i] = Convert<bf16>::from(a[i]);
  store(h, load(odd));
  for (int i = 0; i < kLanes; i++) CHECK(h[i].v == Convert<bf16>::from(odd[i]).v);
  CHECK(is(load(from), [](int i) { return a[i]; }));
  const Pair pair = load_pair(from), halves_ = split(a, load_pair(a));
  for (const Pair& p : {pair, halves_}) {
    CHECK(is(p.v[0], [](int i) { return a[2 * i]; }) && is(p.v[1], [](int i) { return a[2 * i + 1]; }));
    for (int n = 1; n <= 2 * kLanes; n++) {
      float out[2 * kLanes + 1] = {};
      store_pairs(out, p.v[0], p.v[1], n);
      for (int i = 0; i <= 2 * kLanes; i++) CHECK(out[i] == (i < n ? a[i] : 0));
      bf16 short_[2 * kLanes + 1] = {};
      store_pairs(short_, p.v[0], p.v[1], n);
      for (int i = 0; i <= 2 * kLanes; i++) CHECK(short_[i].v == (i < n ? from[i].v : 0));
    }
  }
  for (int first = 0; first < kLanes; first++)
    for (int last = first + 1; last <= kLanes; last++) {
      const Part part{first, last};
      CHECK(is(load_part(a, part), [&](int i) { return i >= first && i < last ? a[i] : 0; }));
      CHECK(is(load_part(from, part), [&](int i) { return i >= first && i < last ? a[i] : 0; }));
      float out[kLanes + 1] = {};
      store_part(out, x, last);
      for (int i = 0; i <= kLanes; i++) CHECK(out[i] == (i < last ? a[i] : 0));
    }
  std::puts("right");
}
