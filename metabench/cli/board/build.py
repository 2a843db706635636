"""`metabench board build`: the leaderboards as a static site."""

from __future__ import annotations

from pathlib import Path

from metabench.cli.arguments import Boards, folder_of_boards
from metabench.cli.console import plain, say
from metabench.leaderboard.records import boards_in


def command(root: Boards = Path("leaderboards"), out: Path = Path("site"), docs: str | None = None) -> None:
    """Build the site: one folder of HTML and JSON that works from a disk or any static host.

    Example: metabench board build --out site && xdg-open site/index.html

    Args:
        root: The folder of the leaderboards.
        out: Where to; a site that lies there is replaced.
        docs: The way from there to the documentation, if both stand together: `../` links its pages.
    """
    from metabench.leaderboard.site.build import build  # templates take a while, and the help needs none

    built = build(root, boards_in(folder_of_boards(root)), out, docs)
    counts = f"{built.boards} boards, {built.entries} entries, {built.files} files"
    say(f"written: {plain(built.folder / 'index.html')} ({counts})")
