// SPDX-License-Identifier: Apache-2.0
// Products of matrices of float32 on the CPU whose sums stay in registers: a few rows of the left factor, read a number at
// a time, with a panel of columns of the right one. Each element is summed in one order, whatever is computed beside it.
#pragma once
#include <algorithm>

#include "lanes.h"

namespace gt::product {

using lanes::kLanes;
using lanes::Vec;

// Rows and vectors of sums: 24 of 32 registers with AVX-512 and on Arm, 12 of 16 with AVX2.
constexpr int kRows = 6, kVecs = lanes::kRegisters == 32 ? 4 : 2;

// Columns of a panel, for a number of columns in sixteens: what registers hold at a time, so that a panel is read without
// gaps and stays in the first cache.
inline int64_t panel_width(int64_t columns) {
  constexpr int64_t most = kVecs * kLanes;
  return most >= 64 && columns % 64 == 0 ? 64 : most >= 32 && columns % 32 == 0 ? 32 : 16;
}

// Where the left factor lies, in blocks of terms: at(i, r) is term 0 of row r in block i, term() away
// from term 1.
struct Lines {  // rows of one length
  const float* const* block;
  int64_t row;
  int64_t term() const { return 1; }
  GT_INLINE const float* at(int64_t i, int64_t r) const { return block[i] + r * row; }
};
struct Columns {  // the rows are neighbours, one block
  const float* first;
  int64_t between;
  int64_t term() const { return between; }
  GT_INLINE const float* at(int64_t, int64_t r) const { return first + r; }
};
struct Listed {  // rows anywhere, which all blocks see from another place
  const float* const* row;
  const int64_t* block;
  int64_t term() const { return 1; }
  GT_INLINE const float* at(int64_t i, int64_t r) const { return row[r] + block[i]; }
};

template <int R, int V, class Left>
GT_INLINE void multiply(const Left& left, int64_t blocks, int64_t length, const float* b, int64_t width, float* out,
                        bool add) {
  Vec sum[R][V];
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sum[r][v] = add ? lanes::load(out + r * width + v * kLanes) : Vec{};
  const int64_t term = left.term();
  for (int64_t i = 0; i < blocks; i++) {
    const float* a[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) a[r] = left.at(i, r);
    for (int64_t k = 0; k < length; k++, b += width) {
      Vec right[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) right[v] = lanes::load(b + v * kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < R; r++) {
        Vec one = lanes::all(a[r][k * term]);
        lanes::hold(one);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[r][v] += one * right[v];
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) lanes::store(out + r * width + v * kLanes, sum[r][v]);
}

template <int V, class Left>
void some_rows(const Left& left, int64_t blocks, int64_t length, const float* b, int64_t width, int64_t rows,
               float* out, bool add) {
  switch (rows) {
    case 1: return multiply<1, V>(left, blocks, length, b, width, out, add);
    case 2: return multiply<2, V>(left, blocks, length, b, width, out, add);
    case 3: return multiply<3, V>(left, blocks, length, b, width, out, add);
    case 4: return multiply<4, V>(left, blocks, length, b, width, out, add);
    case 5: return multiply<5, V>(left, blocks, length, b, width, out, add);
    default: return multiply<kRows, V>(left, blocks, length, b, width, out, add);
  }
}

// out[r, :width] (+)= sum over blocks and terms of left b, for at most kRows rows. Term k of block i, column v:
// b[(i * length + k) * width + v].
template <class Left>
GT_INLINE void run(const Left& left, int64_t blocks, int64_t length, const float* b, int64_t width, int64_t rows,
                   float* out, bool add) {
  const int64_t vecs = std::min<int64_t>(width / kLanes, kVecs);
  rows = std::min<int64_t>(rows, kRows);
  for (int64_t v = 0; v < width; v += vecs * kLanes) {
    if (vecs == kVecs) some_rows<kVecs>(left, blocks, length, b + v, width, rows, out + v, add);
    else if (vecs == 2) some_rows<2>(left, blocks, length, b + v, width, rows, out + v, add);
    else some_rows<1>(left, blocks, length, b + v, width, rows, out + v, add);
  }
}

}  // namespace gt::product
