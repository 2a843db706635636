"""What happens to a training run when its process is told to end: it stops behind a checkpoint, and loses nothing."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from metabench.runs import Stopped


@contextlib.contextmanager
def behind_a_checkpoint(run: Any) -> Iterator[None]:
    """While it lasts, SIGTERM asks a run to stop at the end of its iteration, behind a checkpoint.

    The signal is given again once that is written, to whoever would have had it: by default the process ends then. A
    second SIGTERM does not wait. Schedulers warn so before they take a machine away, and sweeps before they end.

    Args:
        run: With `request_stop`, see `metabench.runs.Run`; without it the signal is left as it is.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(run, "request_stop"):
        yield
        return
    before: Any = signal.getsignal(signal.SIGTERM)

    def ask(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, before)
        run.request_stop()

    signal.signal(signal.SIGTERM, ask)
    try:
        yield
    except Stopped:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
