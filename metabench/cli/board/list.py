"""`metabench board list`: one line per board and track."""

from __future__ import annotations

from pathlib import Path

from metabench.cli.arguments import Boards, folder_of_boards
from metabench.cli.console import out, plain, show, table
from metabench.leaderboard.ranking import rank, read_entries
from metabench.leaderboard.records import boards_in
from metabench.leaderboard.site.heat import leader


def command(root: Boards = Path("leaderboards")) -> None:
    """List the boards, with what leads them.

    Args:
        root: The folder of the leaderboards.
    """
    boards = boards_in(folder_of_boards(root))
    entries = read_entries(root, boards)
    shown = table("board", "benchmark", "track", "leads~", "score>", "entries>", gap=1)
    for board in boards.values():
        for number, track in enumerate(board.tracks):
            found = rank(board, track, entries)
            first_of_all = leader(found)  # never random actions
            lead = ("no entry yet", "")
            if first_of_all:
                lead = (plain(first_of_all.entry.submission.title), f"{first_of_all.score.estimate:.3f}")
            first = number == 0 or not out.is_terminal  # every line by itself tells its board to `grep`
            head = (f"[bold]{plain(board.id)}[/]", plain(board.benchmark)) if first else ("", "")
            shown.add_row(*head, plain(track), *lead, str(len(found.rows)))
    show(shown)
