"""`metabench board build`: the leaderboards as a static site."""

from __future__ import annotations

from pathlib import Path

from metabench.cli.arguments import Boards, at_least, folder_of_boards
from metabench.cli.console import plain, say
from metabench.cli.verify import verify_all
from metabench.leaderboard.folder import entries_in
from metabench.leaderboard.records import boards_in


def command(
    root: Boards = Path("leaderboards"),
    out: Path = Path("site"),
    verify: bool = False,
    docs: str | None = None,
    workers: int = 1,
) -> None:
    """Build the site: one folder of HTML and JSON that works from a disk or any static host.

    Everything that takes no simulator is computed again; what was replayed and played again is taken from the records
    of verifications that lie beside the entries, unless these are verified first.

    Example: metabench board build --out site && xdg-open site/index.html

    Args:
        root: The folder of the leaderboards.
        out: Where to; a site that lies there is replaced.
        verify: Verify every entry first, re-runs with their recorded seeds included; a fault stops the build.
        docs: The way from there to the documentation, if both stand together: `../` links its pages.
        workers: With --verify: processes, each of which verifies one submission at a time.
    """
    at_least(1, workers=workers)
    from metabench.leaderboard.site.build import build  # templates take a while, and the help needs none

    boards = boards_in(folder_of_boards(root))
    if verify and (entries := entries_in(root)):
        found = verify_all(entries, boards, None, write=False, workers=workers)
        if wrong := [verdict for verdict in found if verdict.fault]:
            raise ValueError(f"there is no site: {wrong[0].folder} is not accepted: {wrong[0].fault}")
    built = build(root, boards, out, docs)
    counts = f"{built.boards} boards, {built.entries} entries, {built.files} files"
    say(f"written: {plain(built.folder / 'index.html')} ({counts})")
