"""Writes the generated pages: one per benchmark from its docstring, spec and a rendered still; one per public module.

Everything comes from the code, so that nothing is typed twice; `make docs` runs this first.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import gymnasium as gym
from PIL import Image

import metabench
from metabench.commands import describe_actions
from metabench.registry import NAMESPACE, Spec
from metabench.tasks import latent_ranges, param_ranges

HERE = Path(__file__).parent
MODULES = [
    "tasks",
    "rng",
    "family",
    "drift",
    "simulator",
    "envs",
    "registry",
    "agent",
    "evaluate",
    "results",
    "stats",
    "summary",
    "switches",
    "checks",
    "plugins",
]
STEPS = 6  # taken before the still, so that the agent is seen on its way


def still(chosen: Spec, path: Path) -> bool:
    """Draws the benchmark after a few random steps; whether there was anything to draw with."""
    env = gym.make(NAMESPACE + chosen.id, render_mode="rgb_array")
    env.reset(seed=3)
    env.action_space.seed(1)
    for _ in range(STEPS):
        env.step(env.action_space.sample())
    try:
        Image.fromarray(env.render()).save(path)
    except ValueError as error:
        print(f"{chosen.id}: no picture: {error}")
        return False
    return True


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def context_table(chosen: Spec) -> str:
    """The hidden parameters."""
    context = chosen.family().context_type
    rows = [
        (
            f"`{name}`",
            f"{r.low:g} to {r.high:g}{' (whole)' * r.integer}",
            f"{r.train[0]:g} to {r.train[1]:g}",
            r.unit,
            r.doc,
        )
        for name, r in param_ranges(context).items()
    ]
    rows += [
        (f"`{name}`", f"{r.low:g} to {r.high:g} (whole)", "sessions", r.unit, r.doc)
        for name, r in latent_ranges(context).items()
    ]
    return table(("name", "legal range", "in training", "unit", "meaning"), rows)


def split_table(chosen: Spec) -> str:
    """The frozen splits with the yardsticks measured on them."""
    frozen = chosen.table()
    names = sorted({name for split in frozen.splits for name in chosen.references(split)})
    rows = []
    for split in frozen.splits:
        levels = chosen.references(split)
        means = [f"{levels[n]['mean']:.2f}" if n in levels else "" for n in names]
        rows.append((f"`{split}`", str(frozen.size(split)), f"`{frozen.digest(split)[:16]}`", *means))
    return table(("split", "tasks", "sha256 begins", *names), rows)


def page(chosen: Spec, picture: bool) -> str:
    """One benchmark's page."""
    image = f"""```{{image}} {chosen.id}.png
:alt: {chosen.id} after {STEPS} random steps
:width: 260px
```
"""
    family = chosen.family()
    fields = [
        (str(i), f"`{f.name}`", f"{f.low:g}", f"{f.high:g}", f.unit, f.doc)
        for i, f in enumerate(family.observation_fields)
    ]
    sessions = (
        [f"- all splits: `{json.dumps(chosen.sessions)}`"]
        if chosen.sessions
        else ["The task stays for the whole trial."]
    )
    sessions += [f"- `{split}`: `{json.dumps(value)}`" for split, value in chosen.split_sessions.items()]
    return f"""# {chosen.id}

{chosen.summary}

{image if picture else ""}
{inspect.cleandoc(family.__doc__ or "")}

```python
import gymnasium as gym
import metabench

env = gym.make("{NAMESPACE}{chosen.id}", split="train")
envs = gym.make_vec("{NAMESPACE}{chosen.id}", num_envs=1024, split="train")
```

An episode has {chosen.horizon} steps, a trial {chosen.episodes} episode{"s" * (chosen.episodes > 1)} of one task. The
standard protocol plays every task of a split {chosen.repeats} time{"s" * (chosen.repeats > 1)}.

## Hidden context

{context_table(chosen)}
## Observation

{table(("column", "name", "low", "high", "unit", "meaning"), fields)}
## Actions

{describe_actions(family)}

## Sessions

{chr(10).join(sessions)}

## Splits

Means are returns per episode of the yardsticks that ship with the package; `python scripts/measure_references.py`
measures them again.

{split_table(chosen)}
## Sources

{chr(10).join(f"- {source}" for source in chosen.sources)}
"""


def write_families(folder: Path) -> None:
    """All benchmarks' pages, their stills and the index."""
    folder.mkdir(exist_ok=True)
    rows = []
    for chosen in metabench.specs():
        picture = still(chosen, folder / f"{chosen.id}.png")
        (folder / f"{chosen.id}.md").write_text(page(chosen, picture))
        sizes = " / ".join(str(chosen.table().size(split)) for split in ("train", "test", "ood"))
        drifts = "yes" if chosen.sessions else "on request"
        rows.append(
            (f"[{chosen.id}]({chosen.id}.md)", chosen.summary, str(chosen.horizon), str(chosen.episodes), sizes, drifts)
        )
    head = ("id", "what it is", "steps", "episodes", "train / test / ood", "sessions")
    names = "\n".join(chosen.id for chosen in metabench.specs())
    tree = f"```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    text = f"# Task families\n\n{table(head, rows)}\n{tree}"
    (folder / "index.md").write_text(text)


def write_api(folder: Path) -> None:
    """One page per public module."""
    folder.mkdir(exist_ok=True)
    for name in MODULES:
        text = f"# metabench.{name}\n\n```{{eval-rst}}\n.. automodule:: metabench.{name}\n```\n"
        (folder / f"{name}.md").write_text(text)
    rows = "\n".join(MODULES)
    (folder / "index.md").write_text(f"# API\n\n```{{toctree}}\n:maxdepth: 1\n\n{rows}\n```\n")


if __name__ == "__main__":
    write_families(HERE / "families")
    write_api(HERE / "api")
