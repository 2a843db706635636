"""Writes the generated pages: benchmarks, datasets, API, results, the studies' notes, what the first page shows of the boards.

Everything comes from the code, from records or from `films/`, so that nothing is typed twice; `make docs` runs this first.
`python docs/generate.py --readme` writes README's table of what leads each board, and nothing else.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from gymnasium import spaces

import metabench
from metabench.evaluation.results import write_atomically
from metabench.registry import NAMESPACE, Spec
from metabench.tasks import latent_ranges, param_ranges

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import leaders  # noqa: E402  beside this file, wherever that is run from
import parts  # noqa: E402
import rewards  # noqa: E402

FILMS = json.loads((HERE / "films" / "films.json").read_text())
MODULES = [
    "tasks",
    "rng",
    "family",
    "drift",
    "simulator",
    "envs",
    "registry",
    "agent",
    "colors",
    "runs",
    "evaluation.play",
    "evaluation.evaluate",
    "evaluation.results",
    "evaluation.stats",
    "evaluation.summary",
    "evaluation.switches",
    "checks",
    "plugins",
    "tracking",
    "plotting.curves",
    "plotting.panels",
    "plotting.film",
    "datasets",
    "datasets.format",
    "datasets.download",
    "datasets.verify",
    "leaderboard.records",
    "leaderboard.ranking",
    "leaderboard.submit",
    "leaderboard.verify",
    "leaderboard.track",
    "sweep",
    "sweep.jobs",
    "sweep.engine",
    "stacks",
]
AGENTS = sorted(
    point.value.removeprefix("metabench_agents.")
    for point in entry_points(group="metabench.agents")
    if point.value.startswith("metabench_agents.")
)
AGENTS += ["parts.config"]
GROUP = "MetaWorld"  # one film has all of its classes
LONG = 20  # rows from which a table is folded


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


def film(name: str, alt: str, width: int = 0, lazy: bool = False) -> str:
    """A film as it is shown on a page; empty if there is none."""
    if name not in FILMS:
        return ""
    size = f":width: {width}px\n" if width else ""
    later = ":loading: lazy\n" if lazy else ""
    return f"```{{image}} ../films/{name}.webp\n:alt: {alt}\n:class: film\n{size}{later}```\n"


def who_plays(name: str) -> str:
    """What a film shows, for its alternative text."""
    agent = FILMS[name]["agent"] if name in FILMS else ""
    who = {"random": "random actions", "oracle": "the oracle, which sees the task", "zero": "no action at all"}
    tasks = len(FILMS[name]["rows"]) if name in FILMS else 0
    beside = f" on {tasks} tasks side by side" if tasks > 1 else ""
    if name == GROUP:
        return f"{name}: the scripted policy of each of the 50 classes, all at once"
    return f"{name}: {who.get(agent, agent)}{beside}, rewards below"


def linked(source: str) -> str:
    """A source with its arXiv numbers as links."""
    return re.sub(r"(?<![\w/.])(?:arXiv:? ?)?(\d{4}\.\d{5})\b", r"[\1](https://arxiv.org/abs/\1)", source)


def versions(chosen: Spec) -> str:
    """Which other benchmarks share the family, and where the source lies."""
    module = chosen.entry_point.split(":")[0]
    others = [
        f"[{other.id}]({other.group or other.id}.md)"
        for other in metabench.specs()
        if other.entry_point == chosen.entry_point and other.id != chosen.id and not other.group
    ]
    beside = f" The same family is in {', '.join(others)}." if others else ""
    return (
        f"`{chosen.id}` never changes its meaning: another dynamics, reward, table or horizon would be another version.{beside} "
        f"Source: `{module.replace('.', '/')}.py`.\n"
    )


def page(chosen: Spec, name: str = "") -> str:
    """One benchmark's page; `name` stands for it where a group has one page."""
    shown = name or chosen.id
    family = chosen.family()
    seconds = f" of {family.dt:g} s" if family.dt != 1.0 else ""
    extra = f"It needs `pip install 'metabench[{chosen.extra}]'`.\n" if chosen.extra else ""
    first = next(iter(chosen.table().fixed("test")))
    boards = parts.boards_of(chosen.id)
    return f"""# {shown}

{film(shown, who_plays(shown))}
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

## What is hidden

{context_table(chosen)}
## What is seen

{observation_table(family)}
## Actions

{action_table(family)}
## Reward

{rewards.reward(chosen) or "See the source."}
## Sessions

{describe_sessions(chosen)}
## Splits

{parts.split_picture(chosen)}
{split_table(chosen)}
## References

Undiscounted returns per episode of the yardsticks, stored with the package; `make references` measures them again.

{reference_table(chosen)}
## Boards

{boards or "No board asks for this benchmark yet."}
## Versions

{versions(chosen)}
## Sources

{chr(10).join(f"- {linked(source)}" for source in chosen.sources)}
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
    for old in folder.glob("*.md"):
        old.unlink()


def group_page(group: str, members: list[Spec]) -> str:
    """The page of benchmarks that differ in little: the first in full, then all of them as a table."""
    first, rows = page(members[0], group), []
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
    return f"{first}\n## All of {group}\n\n{lead}\n{table(head, rows)}"


def measured(levels: Any, name: str) -> str:
    """A yardstick's mean return and success, if they are known."""
    if name not in levels:
        return ""
    success = levels[name].get("success")
    return f"{levels[name]['mean']:.0f}" + ("" if success is None else f" ({success:.0%})")


def card(name: str, chosen: Spec, count: int = 1) -> str:
    """A benchmark in the gallery: its film, what it is, what is hidden, its sizes."""
    hidden = [*param_ranges(chosen.family().context_type), *latent_ranges(chosen.family().context_type)]
    told = ", ".join(hidden[:3]) + (f" and {len(hidden) - 3} more" if len(hidden) > 3 else "")
    sizes = " / ".join(str(chosen.table().size(split)) for split in ("train", "test", "ood"))
    what = f"{count} ids, one for each task" if count > 1 else chosen.summary
    short = {"yes": "in every split"}.get(sessions_in_short(chosen), sessions_in_short(chosen))
    drift = f"; the task changes inside an episode, {short}" if sessions_in_short(chosen) != "on request" else ""
    return f"""::::{{container}} card
{film(name, who_plays(name), lazy=True)}
**[{name}]({name}.md)**

{what}

:::{{container}} facts
Hidden: {told}. {chosen.horizon} steps, {plural(chosen.episodes, "episode")} a trial; {sizes} tasks{drift}.
:::
::::
"""


def write_families(folder: Path) -> None:
    """All benchmarks' pages and the gallery; a group has one page."""
    clean(folder)
    cards, specs = {}, metabench.specs()
    groups: dict[str, list[Spec]] = {}
    for chosen in specs:
        if chosen.group:
            groups.setdefault(chosen.group, []).append(chosen)
    for group, members in groups.items():
        (folder / f"{group}.md").write_text(group_page(group, members))
        cards[group] = card(group, members[0], len(members))
    for chosen in specs:
        if not chosen.group:
            (folder / f"{chosen.id}.md").write_text(page(chosen))
            cards[chosen.id] = card(chosen.id, chosen)
    names = sorted(cards)
    tree = "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
    lead = (
        "Every film shows one agent on tasks that differ in what is hidden, side by side. Sizes are tasks of `train` / `test` / `ood`.\n"
        "[ScratchItch](../scratch_itch.md) and [merging](../highway.md) have pages on how they were built and measured.\n"
    )
    gallery = ":::::{container} cards\n" + "\n".join(cards[name] for name in names) + ":::::\n"
    (folder / "index.md").write_text(f"# Task families\n\n{lead}\n{gallery}\n{tree}")


def write_api(folder: Path) -> None:
    """One page per public module that there is, ours and the agents'."""
    clean(folder)
    modules = [f"metabench.{name}" for name in MODULES] + [f"metabench_agents.{name}" for name in AGENTS]
    modules = [name for name in modules if importlib.util.find_spec(name)]
    for name in modules:
        # Every algorithm offers the same Run.
        shared = "   :exclude-members: Run\n" * name.startswith("metabench_agents.")
        text = f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n{shared}```\n"
        (folder / f"{name.removeprefix('metabench.')}.md").write_text(text)
    rows = "\n".join(name.removeprefix("metabench.") for name in modules)
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


def write_datasets(folder: Path) -> None:
    """A page for every dataset that was generated."""
    clean(folder)
    for name, text in parts.dataset_pages().items():
        (folder / f"{name}.md").write_text(text)


def write_readme(path: Path = leaders.README) -> None:
    """README's table of what leads each board."""
    text = path.read_text()
    if (new := leaders.update_readme(text, parts.ranked()[1])) != text:
        write_atomically(path, new.encode())
        print(f"written: {path}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--readme"]:
        write_readme()
        sys.exit()
    write_families(HERE / "families")
    write_api(HERE / "api")
    write_notes(HERE / "notes")
    write_datasets(HERE / "datasets")
    (HERE / "results.md").write_text(parts.results_page())
    (HERE / "_parts").mkdir(exist_ok=True)
    (HERE / "_parts" / "boards.html").write_text(parts.heat_table("boards/"))
