"""Whose an agent's name is: it belongs to who entered first under it, as a key in the entry shows."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from metabench.leaderboard.keys import fits
from metabench.leaderboard.records import BOARDS, Submission
from metabench.plugins import agent_names

PROJECT = "the project"  # who owns the names of the entries that were on the boards before there were keys
NOBODY = ""  # of entries without a signature: nobody can show that a later one is theirs too


def owner_of(submission: Submission) -> str:
    """Whose an entry is: its author's key if the signature fits, the project of its first entries, or nobody."""
    if submission.rules == 1:
        return PROJECT
    signed = submission.signature and fits(submission.author_key, submission.signature, submission.signed)
    return submission.author_key if signed else NOBODY


def lent(root: Path) -> dict[str, str]:
    """Keys that may enter under a name as well, from the table `names` of the root's boards.toml: name to key."""
    path = root / BOARDS
    told = tomllib.loads(path.read_text()).get("names", {}) if path.is_file() else {}
    if not isinstance(told, dict) or not all(isinstance(key, str) for key in told.values()):
        raise ValueError(f"{path}: the table names holds the author's key of each name")
    return told


def foreign(entries: Sequence[Submission], lent: Mapping[str, str]) -> list[str]:
    """For each entry why it must not stand under its name, in words; empty where it may.

    A name belongs to the first entry of a board that has it. One that is no plug-in's belongs to the first of all
    boards: plug-ins may be entered by anybody where nobody has. Policies that are on a board already, under another
    name or another's, are a copy.

    Args:
        entries: From the oldest to the newest.
        lent: See `lent`.
    """
    told: list[str] = []
    names: dict[tuple[str, str], tuple[str, str]] = {}  # (board or none, agent) -> owner and id of the first
    policies: dict[tuple[str, str], tuple[str, Submission]] = {}
    plugins = agent_names()
    for s in entries:
        key, why = owner_of(s), ""
        places = [(s.board, s.agent)] if s.agent in plugins else [(s.board, s.agent), ("", s.agent)]
        for place in places:
            owner, id = names.setdefault(place, (key, s.id))
            if not (id == s.id or (key == owner != NOBODY) or (key != NOBODY and lent.get(s.agent) == key)):
                why = f"the name {s.agent} belongs to the author of {id}, and the entry is not signed by their key"
        for run in s.runs if s.trains else ():
            owner, other = policies.setdefault((s.board, run.policy_sha256), (key, s))
            if other is not s and (other.agent != s.agent or owner != key):
                why = why or f"its policies are those of {other.agent} ({other.id})"
        told.append(why)
    return told
