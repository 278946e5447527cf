# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench.compare old.json new.json --tolerance=0.1`: exit code 1 where a ratio fell by more than that.

Ratios are compared (both sides of one were timed together), never times. Rows that only one file has are counted.
"""

import argparse
import json
import sys
from pathlib import Path


def ratios(path: str) -> dict[tuple, float]:
    """(op, shape, dtype, layout, direction, vs) -> ratio of a benchmark's JSON file."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data["schema"] != 1:
            sys.exit(f"Error: {path} has schema {data['schema']}, not 1")
        return {(r["op"], tuple(r["shape"]), r["dtype"], r["layout"], r["direction"], r["vs"]): r["ratio"]
                for r in data["ratios"]}
    except (OSError, ValueError, KeyError, TypeError) as e:
        sys.exit(f"Error: {path} is not a benchmark's JSON file: {type(e).__name__}: {e}")


def compare(old: dict[tuple, float], new: dict[tuple, float], tolerance: float) -> list[tuple[float, tuple]]:
    """[(new / old, key)] of what fell by more than `tolerance`, worst first."""
    both = [(new[k] / old[k], k) for k in old.keys() & new.keys()]
    return sorted((b for b in both if b[0] < 1 - tolerance), key=lambda b: b[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--tolerance", type=float, default=0.1, help="share that a ratio may fall by")
    args = parser.parse_args()
    if not 0 <= args.tolerance < 1:
        parser.error("--tolerance must be at least 0 and below 1")
    old, new = ratios(args.old), ratios(args.new)
    common = old.keys() & new.keys()
    if not common:
        sys.exit(f"Error: {args.old} and {args.new} have no ratio in common")
    worse = compare(old, new, args.tolerance)
    for factor, (op, shape, dtype, layout, direction, vs) in worse:
        k = (op, shape, dtype, layout, direction, vs)
        print(f"{op} {'x'.join(map(str, shape))} {dtype} {layout} {direction} against {vs}: "
              f"{old[k]:.2f} -> {new[k]:.2f} ({factor:.2f})")
    print(f"{len(common)} ratios compared, {len(worse)} fell by more than {args.tolerance:.0%}; "
          f"{len(old) - len(common)} only in {args.old}, {len(new) - len(common)} only in {args.new}")
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
