"""`metabench board schema`: what the records of the leaderboards look like, for other programs."""

from __future__ import annotations

import json
from pathlib import Path

from metabench.cli.console import plain, say
from metabench.evaluation.results import write_atomically
from metabench.leaderboard.records import schemas


def command(out: Path = Path("schemas")) -> None:
    """Write the JSON Schemas of submission.json and the other records.

    Args:
        out: Where to.
    """
    for name, schema in schemas().items():
        target = out / f"{Path(name).stem}.schema.json"
        write_atomically(target, (json.dumps(schema, indent=1) + "\n").encode())
        say(f"written: {plain(target)}")
