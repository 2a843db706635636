"""One colour per agent, the same in every picture: plots, films, reports, the leaderboards' site."""

from __future__ import annotations

import zlib

# (on a light ground, on a dark one), after Okabe and Ito; neighbours in a chart differ in lightness too.
AGENTS: dict[str, tuple[str, str]] = {
    "oracle": ("#009e73", "#3ccf9a"),
    "random": ("#7d7d7d", "#a5a5a5"),
    "bayes": ("#b8528f", "#e08dbd"),
    "win-stay-lose-shift": ("#b07a00", "#e3c04b"),
    "rl2": ("#0072b2", "#5aa9e6"),
    "varibad": ("#3a9bd1", "#8fd3f7"),
    "dynamite": ("#d55e00", "#ff8a4c"),
    "pearl": ("#7a4fc0", "#b79bf0"),
    "metadreamer": ("#c2185b", "#ff7fa8"),
    "meta-dt": ("#5b7f00", "#a9cf3f"),
    "prompt-dt": ("#00808a", "#4fd3dc"),
    "dt": ("#8a6d3b", "#d0b27c"),
    "bc": ("#5a6472", "#a7b4c4"),
    "dynamite-iql": ("#9c4a1a", "#e0a178"),
    "zero": ("#4d4d4d", "#cfcfcf"),
    "adaptive-planner": ("#2f5fd0", "#8aa8ff"),
    "context-free-planner": ("#6f8fbf", "#b3c7e6"),
    "itch-filter": ("#a03070", "#e58fc0"),
    "sac-oracle": ("#00704f", "#66e0b3"),
    "maml": ("#8c8c00", "#c9c94a"),
}
OTHERS: tuple[tuple[str, str], ...] = (  # for agents that nobody has given one: always the same for the same name
    ("#b5651d", "#eaa66b"),
    ("#3f7f3f", "#86d186"),
    ("#80489a", "#cf9be6"),
    ("#ad3b3b", "#f09090"),
    ("#1f7a8c", "#74c7d8"),
)


def index_of(agent: str) -> int:
    """Which colour an agent has: a place in `palette`."""
    if agent in AGENTS:
        return list(AGENTS).index(agent)
    return len(AGENTS) + zlib.crc32(agent.encode()) % len(OTHERS)


def palette() -> list[tuple[str, str]]:
    """All colours, each (on a light ground, on a dark one)."""
    return [*AGENTS.values(), *OTHERS]


def color_of(agent: str, dark: bool = False) -> str:
    """An agent's colour as `#rrggbb`; a label such as `rl2 (frames 750000)` has its agent's."""
    return palette()[index_of(agent.partition(" ")[0])][dark]
