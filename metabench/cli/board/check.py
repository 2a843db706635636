"""`metabench board check`: what CI does with a pull request."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from metabench.cli.arguments import at_least
from metabench.cli.console import plain, say
from metabench.cli.verify import verify_all
from metabench.leaderboard.changes import ROOT, proposed
from metabench.leaderboard.verify import fresh_seed


def command(
    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="COMMIT")],
    repository: Path = Path(),
    workers: int = 1,
) -> None:
    """Verify what differs from a commit: new entries by that commit's boards, and that nothing else changed with them.

    Policies that are published are played again, on seeds that are drawn now.

    Example: metabench board check origin/main

    Args:
        base: The commit that the changes are to be merged into.
        repository: Where they are checked out.
        workers: Processes, each of which verifies one submission at a time.
    """
    at_least(1, workers=workers)
    repository = repository.absolute()
    found = proposed(repository, base)
    if found.everything:
        say("what verifies was changed: every entry is verified")
        verdicts = verify_all([repository / ROOT], found.boards, None, write=False, workers=workers)
    elif found.entries:
        verdicts = verify_all(found.entries, found.boards, fresh_seed, write=False, workers=workers)
    else:
        say(f"no entry differs from {plain(base)}")
        return
    if not all(verdict.accepted for verdict in verdicts):
        sys.exit(1)
