"""`make soak`: all of them, one after the other; ends with status 1 when something is not right.

    python -m tests.soak.run [SECONDS]

SECONDS for the processes that come and go; the service takes a minute.
"""

from __future__ import annotations

import sys

from tests.soak import churn, service


def main(seconds: float) -> int:
    """Run and print."""
    faults = []
    for name, report in (
        ("processes that come and go", churn.soak(seconds)),
        ("nginx under load", service.soak(60.0)),
    ):
        print(f"{name}:")
        for line in [*report.lines(), *report.check()]:
            print(f"  {line.strip()}", flush=True)
        faults += report.check()
    print("all is well" if not faults else f"{len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 600.0))
