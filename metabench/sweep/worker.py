"""A process that does one job after another: orders come on its standard input, outcomes leave on its output.

It ends when its input does, whatever it is at: whoever started it is dead then. What it was at goes on from its
checkpoint another time. SIGTERM ends it too, a training run behind a checkpoint that is written then. Ctrl-C is left to
whoever started it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path

from metabench.sweep.folder import perform
from metabench.sweep.jobs import Job


def main() -> None:
    """Works until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what jobs print must not come between outcomes
    out, orders = Path(sys.argv[1]), queue.SimpleQueue[str]()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    try:
        while True:
            outcome = perform(Job.from_json(orders.get()), out)
            channel.write(json.dumps(outcome._asdict()) + "\n")
            channel.flush()
    except BrokenPipeError:
        os._exit(1)


def _listen(orders: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
