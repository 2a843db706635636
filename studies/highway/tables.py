"""The table of what knowing the drivers is worth, of what `results/` keeps."""

from __future__ import annotations

import json

from studies.highway.information import FOLDER, show
from studies.tables import file_source, sources


def information(benchmark: str = "HighwayMerge-v0") -> str:
    """Planners and networks with and without the context."""
    path = FOLDER / benchmark / "information.json"
    table = json.loads(path.read_text())["agents"]
    keyed = {name: " ".join(record["keys"]) for name, record in table.items() if "keys" in record}
    return show(table) + "\n" + sources(keyed or {"all": file_source(path)})


TABLES = {"highway-information": information}
