// SPDX-License-Identifier: Apache-2.0
// The taps of upfirdn2d as the CPU kernels take them.
#pragma once
#include <cmath>
#include <vector>

#include "upfirdn2d.h"

namespace gt {

// The filter as rows of correlation taps: one row per vertical tap. A filter of rank one (all that [1,3,3,1] makes)
// becomes one vertical and one horizontal vector.
template <class A>
struct Filter {
  bool separable = true;
  std::vector<A> column, row;     // separable
  std::vector<std::vector<A>> rows;  // else

  explicit Filter(const UpfirdnParams& p) {
    std::vector<A> k(size_t(p.fh) * p.fw);
    for (int a = 0; a < p.fh; a++)
      for (int b = 0; b < p.fw; b++) {
        const int i = upfirdn_tap(a, p.fh, p.flip), j = upfirdn_tap(b, p.fw, p.flip);
        k[a * p.fw + b] = p.separable ? A(p.f[i]) * A(p.f[j]) : A(p.f[i * p.fw + j]);
      }
    if (p.separable) {
      for (int a = 0; a < p.fh; a++) column.push_back(A(p.f[upfirdn_tap(a, p.fh, p.flip)]) * A(p.gain));
      for (int b = 0; b < p.fw; b++) row.push_back(A(p.f[upfirdn_tap(b, p.fw, p.flip)]));
      return;
    }
    size_t peak = 0;
    for (size_t i = 0; i < k.size(); i++)
      if (std::abs(k[i]) > std::abs(k[peak])) peak = i;
    const int a0 = int(peak) / p.fw, b0 = int(peak) % p.fw;
    for (int a = 0; a < p.fh; a++) column.push_back(k[a * p.fw + b0]);
    for (int b = 0; b < p.fw; b++) row.push_back(k[peak] == 0 ? A(0) : k[a0 * p.fw + b] / k[peak]);
    const A tolerance = std::abs(k[peak]) * (sizeof(A) == 8 ? A(1e-14) : A(3e-7));
    for (int a = 0; a < p.fh; a++)
      for (int b = 0; b < p.fw; b++)
        if (!(std::abs(k[a * p.fw + b] - column[a] * row[b]) <= tolerance)) separable = false;
    for (A& v : column) v *= A(p.gain);
    if (separable) return;
    for (int a = 0; a < p.fh; a++) {
      rows.emplace_back(k.begin() + a * p.fw, k.begin() + (a + 1) * p.fw);
      for (A& v : rows.back()) v *= A(p.gain);
    }
  }
};

}  // namespace gt
