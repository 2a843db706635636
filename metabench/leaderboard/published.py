"""Trained agents by name: the policies that the leaderboards' entries publish, from a checkout or from a site.

A name is `BOARD/AGENT`, for the newest entry of that agent that has policies, or `BOARD/AGENT/ENTRY`; `@2` at its end
takes the third run instead of the first. Entries are looked for in `METABENCH_LEADERBOARDS`, in `leaderboards/` here
and in the checkout that metabench is run from; then on the sites that `METABENCH_BOARDS` names (`https://` or
`file://`, several by spaces), whose `policies/index.json` says the sha256 of every file. Nothing but JSON and
safetensors is ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from metabench.datasets.download import MirrorError, read_small
from metabench.datasets.ids import data_root
from metabench.evaluation.results import parse, write_atomically
from metabench.leaderboard.folder import Folder
from metabench.runs import CONFIG, POLICY
from metabench.tasks import suggest

SITES, ROOTS = "METABENCH_BOARDS", "METABENCH_LEADERBOARDS"  # environment variables
TREE, INDEX = "policies", "index.json"  # on a site
LARGEST = 64_000_000  # bytes of one file
NAME = re.compile(r"^(?P<board>[a-z0-9-]+)/(?P<agent>[\w.-]+)(/(?P<entry>[\w-]+))?(@(?P<run>\d+))?$", re.ASCII)


class PublishedFile(BaseModel):
    """One file of a policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0, le=LARGEST)


class PublishedIndex(BaseModel):
    """What a site has: `BOARD/AGENT/ENTRY@RUN` to the files of that policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    policies: Mapping[str, Mapping[str, PublishedFile]] = Field(default_factory=dict)


class Name(NamedTuple):
    """A name, taken apart."""

    board: str
    agent: str
    entry: str  # empty: the newest
    run: int


def parse_name(text: str) -> Name | None:
    """The name in `text`; None if it is none."""
    found = NAME.match(text)
    return None if found is None else Name(found["board"], found["agent"], found["entry"] or "", int(found["run"] or 0))


def is_name(text: str) -> bool:
    """Whether `text` may name a published agent: it looks like one, and is no folder here."""
    return parse_name(text) is not None and not Path(text).exists()


def find(text: str) -> Path:
    """The folder of a published policy, from which `metabench.plugins.load_run` makes the agent.

    Raises:
        ValueError: In one sentence: nobody has published it, with near names; or a site has it wrong.
    """
    name = parse_name(text)
    if name is None:
        raise ValueError(f"{text!r} is no name of a published agent: BOARD/AGENT, for instance grid-switch/dynamite")
    known: list[str] = []
    for root in roots():
        for entry in _entries(root, name):
            folder = entry / TREE / f"run_{name.run:03d}"
            if (folder / POLICY).is_file():
                return folder
        known += sorted({f"{p.parts[-5]}/{p.parts[-4]}" for p in root.glob(f"*/*/*/{TREE}/run_000")})
    reasons = []
    for site in sites():
        try:
            return _download(site, name)
        except MirrorError as error:
            reasons.append(f"{site}: {error}")
    near = f"; {suggest(f'{name.board}/{name.agent}', sorted(set(known)))}" if known else ""
    asked = f"; {'; '.join(reasons)}" if reasons else f"; {SITES} names no site to ask"
    raise ValueError(f"there is no published policy {text}{near}{asked}")


def roots() -> list[Path]:
    """Folders of leaderboards, in the order they are asked."""
    named = [Path(part) for part in os.environ.get(ROOTS, "").split()]
    own = Path(__file__).parent.parent.parent / "leaderboards"
    return [root for root in dict.fromkeys((*named, Path("leaderboards"), own)) if root.is_dir()]


def sites() -> list[str]:
    """Sites of leaderboards, in the order they are asked."""
    return [site.rstrip("/") for site in os.environ.get(SITES, "").split()]


def _entries(root: Path, name: Name) -> Iterator[Path]:
    """The entries of that name, newest first."""
    folder = root / name.board / name.agent
    if folder.is_dir():
        yield from sorted((p for p in folder.iterdir() if p.name == (name.entry or p.name)), reverse=True)


def _download(site: str, name: Name) -> Path:
    index = parse(PublishedIndex, read_small(site, f"{TREE}/{INDEX}", 1 << 24).decode(), f"{INDEX} of {site}")
    head, tail = f"{name.board}/{name.agent}/", f"@{name.run}"
    keys = [key for key in index.policies if key.startswith(head + name.entry) and key.endswith(tail)]
    if not keys:
        raise MirrorError(f"it has no policy {head[:-1]}")
    key = max(keys)
    told = index.policies[key]
    if set(told) != {CONFIG, POLICY}:
        raise MirrorError(f"what it calls {key} is no policy")
    target = data_root() / TREE / _digest_of(told)
    if (target / CONFIG).is_file():
        return target
    files = {}
    for file, record in told.items():
        content = read_small(site, f"{TREE}/{key.replace('@', '/')}/{file}", record.bytes)
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise MirrorError(f"its {file} of {key} is not the one its index names")
        files[file] = content
    for file in (POLICY, CONFIG):  # the record last: it says that the other is there
        write_atomically(target / file, files[file])
    return target


def _digest_of(files: Mapping[str, PublishedFile]) -> str:
    told = sorted((name, record.sha256) for name, record in files.items())
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def tree(root: Path) -> tuple[PublishedIndex, dict[str, bytes]]:
    """What a site publishes of the entries in `root`: the first run of each; the index, and the files by path."""
    policies, files = {}, {}
    for entry in sorted(path.parent for path in root.glob(f"*/*/*/{TREE}")):
        own = Folder(entry).policies().get(0, {})
        if set(own) != {CONFIG, POLICY}:
            continue
        key = f"{'/'.join(entry.parts[-3:])}@0"
        policies[key] = {
            name: PublishedFile(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
            for name, content in own.items()
        }
        files |= {f"{TREE}/{key.replace('@', '/')}/{name}": content for name, content in own.items()}
    return PublishedIndex(policies=policies), files
