// SPDX-License-Identifier: Apache-2.0
// A vector twice as long as the processor's registers, as two that stay in them: one of the compiler's own types of that
// length would be kept in memory.
#pragma once
#include <type_traits>

#include "portable.h"

namespace gt::vec {

template <class H>
struct Twice {
  H lo, hi;

  Twice() = default;
  GT_INLINE constexpr Twice(H lo_, H hi_) : lo(lo_), hi(hi_) {}
  template <class G>  // the same bits
  GT_INLINE explicit Twice(Twice<G> v) : lo((H)v.lo), hi((H)v.hi) {}
  GT_INLINE Twice& operator+=(Twice v) { return *this = {lo + v.lo, hi + v.hi}; }
  GT_INLINE Twice& operator*=(Twice v) { return *this = {lo * v.lo, hi * v.hi}; }
  GT_INLINE Twice& operator*=(float s) { return *this = {lo * s, hi * s}; }
};

#define GT_BOTH(op)                                                                                            \
  template <class H>                                                                                           \
  GT_INLINE auto operator op(Twice<H> a, Twice<H> b) {                                                         \
    return Twice<decltype(a.lo op b.lo)>(a.lo op b.lo, a.hi op b.hi);                                          \
  }                                                                                                            \
  template <class H, class S, class = std::enable_if_t<std::is_arithmetic_v<S>>>                               \
  GT_INLINE auto operator op(Twice<H> a, S s) {                                                                \
    return Twice<decltype(a.lo op s)>(a.lo op s, a.hi op s);                                                   \
  }                                                                                                            \
  template <class H, class S, class = std::enable_if_t<std::is_arithmetic_v<S>>>                               \
  GT_INLINE auto operator op(S s, Twice<H> a) {                                                                \
    return Twice<decltype(s op a.lo)>(s op a.lo, s op a.hi);                                                   \
  }
GT_BOTH(+) GT_BOTH(-) GT_BOTH(*) GT_BOTH(/) GT_BOTH(&) GT_BOTH(|) GT_BOTH(>>) GT_BOTH(<<)
GT_BOTH(>) GT_BOTH(<) GT_BOTH(!=)
#undef GT_BOTH
template <class H>
GT_INLINE Twice<H> operator~(Twice<H> a) {
  return {~a.lo, ~a.hi};
}

}  // namespace gt::vec
