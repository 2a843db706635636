"""Names and places of datasets: `metabench/cheetah-vel/mixed-v0`, and the folder its splits lie in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from metabench.registry import NAMESPACE, Spec, ids, spec
from metabench.tasks import suggest

QUALITIES = ("medium", "expert", "mixed", "mixed-2", "replay", "sac-history", "history", "random")
DATA_VARIABLE = "METABENCH_DATA"  # environment variable: where datasets lie, instead of the platform's cache
_PATTERN = re.compile(r"(?P<family>[a-z0-9]+(?:-[a-z0-9]+)*)/(?P<quality>[a-z0-9]+(?:-[a-z0-9]+)*)-v(?P<version>\d+)")


class DatasetId(NamedTuple):
    """A dataset's name: whose data, how good, and the version of the benchmark it was played on."""

    family: str  # the benchmark's name in lower case with hyphens: "cheetah-vel"
    quality: str  # one of QUALITIES, or any other word for data of one's own
    version: int  # that of the benchmark: dynamics, reward and tables are fixed by it

    def __str__(self) -> str:
        return f"{NAMESPACE}{self.path}"

    @property
    def path(self) -> str:
        """`cheetah-vel/mixed-v0`: the folder under the root, and under every mirror."""
        return f"{self.family}/{self.quality}-v{self.version}"

    @classmethod
    def parse(cls, text: str) -> DatasetId:
        """Reads `metabench/cheetah-vel/mixed-v0`, with or without the namespace; ValueError in one sentence."""
        match = _PATTERN.fullmatch(text.removeprefix(NAMESPACE))
        if not match:
            raise ValueError(
                f"{text!r} is no dataset id: one looks like metabench/cheetah-vel/mixed-v0, a family, "
                f"a quality ({', '.join(QUALITIES)} or a word of your own) and the benchmark's version"
            )
        return cls(match["family"], match["quality"], int(match["version"]))

    @classmethod
    def of(cls, benchmark: str, quality: str) -> DatasetId:
        """The id of a benchmark's data of one quality."""
        name, _, version = spec(benchmark).id.rpartition("-v")
        return cls(family_slug(name), quality, int(version))

    @property
    def benchmark(self) -> Spec:
        """The benchmark it was played on; ValueError with near names if there is none."""
        known = {f"{family_slug(id.rpartition('-v')[0])}-v{id.rpartition('-v')[2]}": id for id in ids()}
        wanted = f"{self.family}-v{self.version}"
        if wanted not in known:
            raise ValueError(f"no benchmark belongs to the dataset {self}; {suggest(wanted, sorted(known))}")
        return spec(known[wanted])


def family_slug(name: str) -> str:
    """`CheetahVel` as `cheetah-vel`, `MetaWorld-Reach` as `metaworld-reach`, `MetaWorld-ML10` as `metaworld-ml10`."""
    words = name.replace("MetaWorld", "Metaworld").split("-")
    return "-".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", word) for word in words).lower()


def data_root() -> Path:
    """Where datasets lie: `METABENCH_DATA`, or the platform's cache folder."""
    if os.environ.get(DATA_VARIABLE):
        return Path(os.environ[DATA_VARIABLE]).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("metabench", appauthor=False)) / "datasets"


def split_folder(id: DatasetId, split: str, root: Path | None = None) -> Path:
    """The folder of one split of a dataset, whether it exists or not."""
    return (root or data_root()) / id.path / split
