"""Writes the generated pages: one per benchmark from its docstring, spec and a rendered still; one per public module.

Everything comes from the code, so that nothing is typed twice; `make docs` runs this first.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from PIL import Image

import metabench
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
    "runs",
    "evaluation.play",
    "evaluation.evaluate",
    "evaluation.results",
    "evaluation.stats",
    "evaluation.summary",
    "evaluation.switches",
    "checks",
    "plugins",
]
STEPS = 6  # taken before the still, so that the agent is seen on its way
LONG = 20  # rows from which a table is folded


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
    finally:
        env.close()
    return True


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def folded(text: str, rows: int, what: str) -> str:
    """A long table behind a line that opens it."""
    return text if rows < LONG else f"<details>\n<summary>{rows} {what}</summary>\n\n{text}\n</details>\n"


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
    text = table(("name", "legal range", "in training", "unit", "meaning"), rows)
    return folded(text, len(rows), "parameters")


def observation_table(family: Any) -> str:
    """The columns of the observation."""
    rows = [
        (str(i), f"`{f.name}`", f"{f.low:g}", f"{f.high:g}", f.unit, f.doc)
        for i, f in enumerate(family.observation_fields)
    ]
    return table(("column", "name", "low", "high", "unit", "meaning"), rows)


def action_table(family: Any) -> str:
    """What each action, or each column of it, does."""
    space, meanings = family.action_space, family.action_meanings
    if isinstance(space, spaces.Discrete):
        return table(("action", "meaning"), [(str(i), name) for i, name in enumerate(meanings)])
    rows = [
        (str(i), name, f"{low:g}", f"{high:g}")
        for i, (name, low, high) in enumerate(zip(meanings, space.low, space.high, strict=True))
    ]
    return table(("column", "meaning", "low", "high"), rows)


def describe_sessions(chosen: Spec) -> str:
    """What happens inside an episode, split by split where they differ."""
    rows = []
    for split in chosen.table().splits:
        sessions = chosen.sessions_of(split)
        rows.append((f"`{split}`", f"`{json.dumps(sessions)}`" if sessions else "the task stays for the whole trial"))
    if len({text for _, text in rows}) > 1:
        return table(("split", "sessions"), rows)
    return f"In every split: {rows[0][1]}.\n"


def reference_table(chosen: Spec) -> str:
    """The yardsticks measured on each split, whichever there are."""
    rows, scored = [], False
    for split in chosen.table().splits:
        levels = chosen.references(split)
        scored |= {"random", "oracle"} <= levels.keys()
        for name, record in sorted(levels.items(), key=lambda item: item[1]["mean"]):
            error, trials = record.get("stderr"), record.get("trials")
            rows.append(
                (
                    f"`{split}`",
                    name,
                    f"{record['mean']:.2f}",
                    "" if error is None else f"{error:.2f}",
                    "" if trials is None else f"{trials}",
                    record.get("method", ""),
                )
            )
    if not rows:
        return "None are measured yet.\n"
    missing = "" if scored else "\nNo oracle is stored yet, so results on this benchmark have no normalised score.\n"
    return table(("split", "yardstick", "mean return", "standard error", "trials", "method"), rows) + missing


def split_table(chosen: Spec) -> str:
    """The frozen splits."""
    frozen = chosen.table()
    rows = [(f"`{split}`", str(frozen.size(split)), f"`{frozen.digest(split)}`") for split in frozen.splits]
    shared = "\nThere are so few tasks that `test` and `ood` have the training tasks.\n" if chosen.shared_tasks else ""
    return table(("split", "tasks", "sha256"), rows) + shared


def description(chosen: Spec) -> str:
    """The summary and the family's docstring; a first line that says the same twice is left out."""
    lead, _, rest = inspect.cleandoc(chosen.family().__doc__ or "").partition("\n")
    same = lead.split(" ", 1)[-1] == chosen.summary.split(" ", 1)[-1]  # but for the article
    body = rest if same else f"{lead}\n{rest}"
    return f"{chosen.summary}\n\n{body.strip()}\n"


def page(chosen: Spec, picture: bool) -> str:
    """One benchmark's page."""
    image = f"""```{{image}} {chosen.id}.png
:alt: {chosen.id} after {STEPS} random steps
:width: 240px
:align: right
```
"""
    family = chosen.family()
    seconds = f" of {family.dt:g} s" if family.dt != 1.0 else ""
    extra = f"It needs `pip install 'metabench[{chosen.extra}]'`.\n" if chosen.extra else ""
    first = next(iter(chosen.table().fixed("test")))
    return f"""# {chosen.id}

{image if picture else ""}
{description(chosen)}
An episode has {chosen.horizon} steps{seconds}, a trial {chosen.episodes} episode{"s" * (chosen.episodes > 1)} of one
task. The standard protocol plays every task of a split {plural(chosen.repeats, "time")}. {extra}

```python
import gymnasium as gym
import metabench

env = gym.make("{NAMESPACE}{chosen.id}", split="test")
observation, info = env.reset(seed=0, options={{"task": {first.index}}})
envs = gym.make_vec("{NAMESPACE}{chosen.id}", num_envs=64, split="train")
```

## Hidden context

{context_table(chosen)}
## Observation

{observation_table(family)}
## Actions

{action_table(family)}
## Sessions

{describe_sessions(chosen)}
## Splits

{split_table(chosen)}
## References

Undiscounted returns per episode of the yardsticks, stored with the package; `make references` measures them again.

{reference_table(chosen)}
## Sources

{chr(10).join(f"- {source}" for source in chosen.sources)}
"""


def plural(count: int, noun: str) -> str:
    """`1 time`, `4 times`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def sessions_in_short(chosen: Spec) -> str:
    """Which splits have sessions."""
    if chosen.sessions:
        return "yes"
    return f"in {', '.join(chosen.split_sessions)}" if chosen.split_sessions else "on request"


def clean(folder: Path) -> None:
    """Makes an empty folder: a page of an id that is gone would be a warning."""
    folder.mkdir(exist_ok=True)
    for old in (*folder.glob("*.md"), *folder.glob("*.png")):
        old.unlink()


def group_page(group: str, members: list[Spec], picture: bool) -> str:
    """The page of benchmarks that differ in little: the first in full, then all of them as a table."""
    first, rows = page(members[0], picture), []
    for chosen in members:
        digests = (f"`{chosen.digests[split][:16]}`" for split in ("train", "test", "ood"))
        levels = chosen.references("test")
        reached = [measured(levels, name) for name in ("random", "zero", "oracle")]
        reached.append(measured(chosen.references("ood"), "oracle"))
        rows.append((f"`{chosen.id.removeprefix(f'{group}-')}`", *digests, *reached))
    head = ("id", "train", "test", "ood", "random", "zero", "oracle", "oracle, ood")
    lead = (
        f"{len(members)} ids, `{members[0].id}` and so on. Each split's sha256 begins as shown; then mean returns per "
        "episode on `test` (the last column: on `ood`), with the share of successful episodes.\n"
    )
    return f"{first.replace(f'# {members[0].id}', f'# {group}', 1)}\n## All of {group}\n\n{lead}\n{table(head, rows)}"


def measured(levels: Any, name: str) -> str:
    """A yardstick's mean return and success, if they are known."""
    if name not in levels:
        return ""
    success = levels[name].get("success")
    return f"{levels[name]['mean']:.0f}" + ("" if success is None else f" ({success:.0%})")


def write_families(folder: Path) -> None:
    """All benchmarks' pages, their stills and the index; a group has one page, with the still of its first."""
    clean(folder)
    rows, specs = [], metabench.specs()
    groups: dict[str, list[Spec]] = {}
    for chosen in specs:
        if chosen.group:
            groups.setdefault(chosen.group, []).append(chosen)
    for group, members in groups.items():
        picture = still(members[0], folder / f"{members[0].id}.png")
        (folder / f"{group}.md").write_text(group_page(group, members, picture))
        sizes = " / ".join(str(members[0].table().size(split)) for split in ("train", "test", "ood"))
        short = (sizes.replace(" ", "\u00a0"), sessions_in_short(members[0]).replace(" ", "\u00a0"))
        what = f"{len(members)} ids, one for each task"
        rows.append((f"[{group}]({group}.md)", what, str(members[0].horizon), str(members[0].episodes), *short))
    single = [chosen for chosen in specs if not chosen.group]
    for chosen in single:
        picture = still(chosen, folder / f"{chosen.id}.png")
        (folder / f"{chosen.id}.md").write_text(page(chosen, picture))
        sizes = " / ".join(str(chosen.table().size(split)) for split in ("train", "test", "ood"))
        short = (sizes.replace(" ", "\u00a0"), sessions_in_short(chosen).replace(" ", "\u00a0"))  # on one line each
        name = chosen.id.replace("-", "\u2011")  # a hyphen that does not break
        rows.append((f"[{name}]({chosen.id}.md)", chosen.summary, str(chosen.horizon), str(chosen.episodes), *short))
    head = ("id", "what it is", "steps", "episodes", "train / test / ood", "sessions")
    rows.sort()
    names = "\n".join(sorted([*groups, *(chosen.id for chosen in single)]))
    tree = f"```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    lead = "Steps of an episode, episodes of a trial, tasks of each split, and whether tasks change in an episode.\n"
    (folder / "index.md").write_text(f"# Task families\n\n{lead}\n{table(head, rows)}\n{tree}")


def write_api(folder: Path) -> None:
    """One page per public module that there is."""
    clean(folder)
    modules = [name for name in MODULES if importlib.util.find_spec(f"metabench.{name}")]
    for name in modules:
        text = f"# metabench.{name}\n\n```{{eval-rst}}\n.. automodule:: metabench.{name}\n```\n"
        (folder / f"{name}.md").write_text(text)
    rows = "\n".join(modules)
    (folder / "index.md").write_text(f"# API\n\n```{{toctree}}\n:maxdepth: 1\n\n{rows}\n```\n")


def write_notes(folder: Path) -> None:
    """The studies' notes as pages."""
    clean(folder)
    names = []
    for path in sorted((HERE.parent / "studies").glob("*/NOTES.md")):
        text = path.read_text().replace("](../../docs/", "](../")
        (folder / f"{path.parent.name}.md").write_text(text)
        names.append(path.parent.name)
    rows = "\n".join(names)
    lead = "How the settings of the agents were found: every try, those that failed included.\n"
    (folder / "index.md").write_text(f"# Notes of the studies\n\n{lead}\n```{{toctree}}\n:maxdepth: 1\n\n{rows}\n```\n")


if __name__ == "__main__":
    write_families(HERE / "families")
    write_api(HERE / "api")
    write_notes(HERE / "notes")
