"""`metabench board ...`: list, build, check, schema."""

from metabench.cli.dispatch import Command, Group

GROUP = Group(
    about="The leaderboards.",
    commands={
        "list": Command("metabench.cli.board.list", "list", "the boards, and what leads them"),
        "build": Command("metabench.cli.board.build", "build --out site", "the site: one folder of HTML and JSON"),
        "check": Command("metabench.cli.board.check", "check origin/main", "what CI does with a pull request"),
        "schema": Command("metabench.cli.board.schema", "schema", "JSON Schemas of the records"),
    },
    example="board",
    does="leaderboards: what leads them, and their site",
)
