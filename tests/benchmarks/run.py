"""`make bench`: measure everything and print it side by side.

    python -m tests.benchmarks.run [--smoke] [NAME...]

``--smoke``: the least that shows that each bench works; its figures mean nothing. Ends with status
1 when a figure is out of its bounds.
"""

from __future__ import annotations

import argparse
import sys

from tests.benchmarks import (
    bench_debug,
    bench_discovery,
    bench_dump,
    bench_inline,
    bench_interpreter,
    bench_kernel,
    bench_many,
    bench_maps,
    bench_returns,
    bench_soak,
    bench_stack,
    bench_start,
    bench_trace,
    bench_trap,
)
from tests.benchmarks.figures import show

BENCHES = {
    "interpreter": bench_interpreter,
    "trap": bench_trap,
    "inline": bench_inline,
    "returns": bench_returns,
    "stack": bench_stack,
    "many": bench_many,
    "maps": bench_maps,
    "start": bench_start,
    "trace": bench_trace,
    "dump": bench_dump,
    "debug": bench_debug,
    "discovery": bench_discovery,
    "kernel": bench_kernel,
    "soak": bench_soak,
}


def main() -> int:
    """Run the benches that were named, or all."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("name", nargs="*", choices=[*BENCHES, []], metavar="NAME")
    arguments = parser.parse_args()
    kept = True
    for name in arguments.name or BENCHES:
        bench = BENCHES[name]
        figures, notes = bench.measure(arguments.smoke)
        show((bench.__doc__ or name).splitlines()[0], figures, notes)
        kept = kept and all(figure.kept for figure in figures)
    return 0 if kept or arguments.smoke else 1


if __name__ == "__main__":
    sys.exit(main())
