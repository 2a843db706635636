"""A process that does one job after another: orders come on its standard input, outcomes leave on its output.

It ends when its input does: when whoever started it is done with it, or dead. What it is at then it still finishes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from metabench.sweep.folder import perform
from metabench.sweep.jobs import Job


def main() -> None:
    """Works until the input ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what jobs print must not come between outcomes
    out = Path(sys.argv[1])
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        for line in sys.stdin:
            outcome = perform(Job.from_json(line), out)
            channel.write(json.dumps(outcome._asdict()) + "\n")
            channel.flush()
    os._exit(0)  # whatever threads a job has left behind


if __name__ == "__main__":
    main()
