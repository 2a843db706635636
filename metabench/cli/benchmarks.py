"""What the commands do; `cli` only parses. Everything prints to the console it is given."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from metabench.agent import Agent
from metabench.evaluation.evaluate import evaluate
from metabench.evaluation.results import Result
from metabench.evaluation.summary import Summary, summarise
from metabench.plugins import agent_names, load_agent, load_plugin, open_run
from metabench.registry import NAMESPACE, Spec, make_vec, spec, specs
from metabench.runs import is_published, result_path
from metabench.tasks import latent_ranges, param_ranges


def version() -> str:
    """`metabench 0.1.0`."""
    return f"metabench {metadata.version('metabench')}"


def list_benchmarks(out: Console) -> None:
    """A table of all ids."""
    table = Table(
        "id", "what it is", header_style="bold", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    table.add_column("steps", justify="right")
    table.add_column("episodes", justify="right")
    table.add_column("tasks (train/test/ood)", justify="right")
    table.add_column("random", justify="right")
    table.add_column("oracle", justify="right")
    groups: dict[str, list[Spec]] = {}
    for chosen in specs():
        if chosen.group:  # one line for all of them, where the first stands
            members = groups.setdefault(chosen.group, [])
            members.append(chosen)
            if len(members) > 1:
                continue
        frozen, levels = chosen.table(), chosen.references("test")
        sizes = "/".join(str(frozen.size(split)) for split in ("train", "test", "ood"))
        yard = [f"{levels[name]['mean']:.1f}" if name in levels else "" for name in ("random", "oracle")]
        name, what = (f"{chosen.group}-...", "see below") if chosen.group else (chosen.id, chosen.summary)
        yard = ["", ""] if chosen.group else yard
        table.add_row(f"[bold]{name}[/]", what, str(chosen.horizon), str(chosen.episodes), sizes, *yard)
    out.print(table)
    for group, members in groups.items():
        out.print(
            f"\n[bold]{group}-...[/] are {len(members)} ids like {members[0].id}, one for each of", highlight=False
        )
        out.print(", ".join(s.id.removeprefix(f"{group}-") for s in members), highlight=False)
    out.print(
        f"\nagents: {', '.join(agent_names())}\n`metabench show ID` tells all about one of them.", highlight=False
    )


def show(out: Console, benchmark: str, as_json: bool) -> None:
    """Everything about one benchmark."""
    chosen = spec(benchmark)
    if as_json:
        out.print_json(chosen.to_json())
        return
    family = chosen.family()
    out.print(f"[bold]{chosen.id}[/]  {chosen.summary}\n", highlight=False)
    out.print(
        (type(family).__doc__ or "").split("\n", 1)[-1].strip().replace("\n    ", "\n"), highlight=False, markup=False
    )
    facts = _plain("", "")
    facts.add_row(
        "make",
        f'gym.make("{NAMESPACE}{chosen.id}", split="train")',
    )
    facts.add_row("horizon", f"{chosen.horizon} steps" + (f" of {family.dt:g} s" if family.dt != 1.0 else ""))
    facts.add_row("trial", f"{chosen.episodes} episode{'s' * (chosen.episodes > 1)} of one task")
    facts.add_row("protocol", f"every task of a split {chosen.repeats} times, fixed slots")
    facts.add_row(
        "sessions", json.dumps(chosen.sessions) if chosen.sessions else "none: the task stays for the whole trial"
    )
    for split, sessions in chosen.split_sessions.items():
        facts.add_row(f"sessions, {split}", json.dumps(sessions))
    facts.add_row("actions", describe_actions(family))
    facts.add_row("backends", ", ".join((f"{family.backends[0]} (default)", *family.backends[1:])))
    out.print(facts)
    out.print(_context_table(family.context_type))
    out.print(_observation_table(family))
    out.print(_split_table(chosen))
    out.print("[bold]sources[/]\n" + "\n".join(f"  {source}" for source in chosen.sources), highlight=False)


def _plain(*columns: str, title: str = "") -> Table:
    table = Table(
        *columns,
        box=None,
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        pad_edge=False,
    )
    table.show_header = any(columns)
    return table


def describe_actions(family: Any) -> str:
    """What a family's actions do, in a line."""
    space = family.action_space
    if isinstance(space, spaces.Discrete):
        return ", ".join(f"{i} {name}" for i, name in enumerate(family.action_meanings))
    ranges = zip(family.action_meanings, space.low, space.high, strict=True)
    return "; ".join(f"{name} in [{low:g}, {high:g}]" for name, low, high in ranges)


def _context_table(context_type: type) -> Table:
    table = _plain("name", "range", "training", "unit", "meaning", title="\nhidden context")
    for name, r in param_ranges(context_type).items():
        kind = " (whole)" if r.integer else ""
        table.add_row(name, f"{r.low:g} .. {r.high:g}{kind}", f"{r.train[0]:g} .. {r.train[1]:g}", r.unit, r.doc)
    for name, r in latent_ranges(context_type).items():
        table.add_row(name, f"{r.low:g} .. {r.high:g} (whole)", "by sessions", r.unit, r.doc)
    return table


def _observation_table(family: Any) -> Table:
    table = _plain("column", "name", "low", "high", "unit", "meaning", title="\nobservation")
    for index, f in enumerate(family.observation_fields):
        table.add_row(str(index), f.name, f"{f.low:g}", f"{f.high:g}", f.unit, f.doc)
    return table


def _split_table(chosen: Spec) -> Table:
    frozen = chosen.table()
    names = sorted({name for split in frozen.splits for name in chosen.references(split)})
    table = _plain("split", "tasks", "sha256", *names, title="\nsplits, and the yardsticks' mean return per episode")
    for split in frozen.splits:
        levels: Mapping[str, Any] = chosen.references(split)
        means = [f"{levels[n]['mean']:.2f}" if n in levels else "" for n in names]
        table.add_row(split, str(frozen.size(split)), frozen.digest(split)[:12], *means)
    table.add_row("fresh", "endless", "", *("" for _ in names))
    return table


def evaluate_agent(out: Console, name: str, benchmark: str, split: str, seed: int, target: Path | None) -> Result:
    """Plays one agent, prints its summary, writes its result."""
    spec(benchmark).table().size(split)  # a wrong split is told before anything is loaded
    agent, label, train_seed = load_agent(name, benchmark, split, seed)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{label} on {split}", total=None)
        result = evaluate(
            agent,
            benchmark,
            split=split,
            seed=seed,
            train_seed=train_seed,
            name=label,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if target is None and train_seed is not None and not is_published(Path(name)):
        target = result_path(Path(name), split)
    if target is not None:
        result.save(target)
    out.print(summary_table([summarise([result])]))
    if target is not None:
        out.print(f"written: {target}", highlight=False)
    return result


def summarise_files(out: Console, paths: Sequence[Path]) -> list[Summary]:
    """Prints one line per benchmark, split and agent over all the results in `paths`."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for path in paths:
        result = Result.load(path)
        groups.setdefault((result.protocol.benchmark, result.protocol.split, result.agent), []).append(result)
    summaries = [summarise(group) for group in groups.values()]
    for benchmark in dict.fromkeys(key[0] for key in groups):
        out.print(f"[bold]{benchmark}[/]", highlight=False)
        out.print(summary_table([s for s in summaries if s.protocol.benchmark == benchmark]))
    return summaries


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Agents by return, best first; splits in the order they come."""
    adapts = any(len(s.curve) > 1 for s in summaries)
    several, wins = any(s.runs > 1 for s in summaries), any(s.success is not None for s in summaries)
    table = _plain("split", "agent", *(("runs",) if several else ()))
    table.padding = (0, 1, 0, 0)  # eighty characters are enough then
    for column in table.columns:
        column.no_wrap = column.header != "agent"
    bounded = any(s.share is not None for s in summaries)
    episodes = ("first\nepisode", "last\nepisode", "regret") if adapts else ()
    optional = (("success",) if wins else (), ("IQM", "95 % interval"), ("of Bayes",) if bounded else ())
    for column in ("return", *episodes, *(name for names in optional for name in names)):
        table.add_column(column, justify="right", no_wrap=True)
    splits = list(dict.fromkeys(s.protocol.split for s in summaries))
    for s in sorted(summaries, key=lambda s: (splits.index(s.protocol.split), -s.area)):
        cells = [f"{s.area:.2f} ± {s.stderr:.2f}"]
        if adapts:
            cells += [f"{s.zero_shot:.2f}", f"{s.few_shot:.2f}", "" if s.regret is None else f"{s.regret:.2f}"]
        cells += (
            ["", ""] if s.score is None else [f"{s.score.estimate:.3f}", f"{s.score.low:.3f} to {s.score.high:.3f}"]
        )
        if wins:
            cells.insert(len(cells) - 2, "" if s.success is None else _percent(s.success))
        runs = (str(s.runs),) if several else ()
        if bounded:
            cells.append("" if s.share is None else _percent(s.share))
        table.add_row(s.protocol.split, s.agent, *runs, *cells)
    return table


def _percent(share: float) -> str:
    return f"{round(share, 2) + 0.0:.0%}"  # the sum turns -0 into 0


def train_agent(
    out: Console,
    name: str,
    benchmark: str,
    config: Any,
    seed: int,
    folder: Path | None,
    splits: Sequence[str],
    show_bar: bool,
) -> Agent[Any]:
    """Trains, then evaluates on `splits`."""
    chosen = spec(benchmark)
    algorithm: Any = load_plugin(name)
    for split in splits:
        chosen.table().size(split)
    folder = folder or Path("runs") / f"{chosen.id}-{name}-s{seed}"
    agent = algorithm.train(chosen.id, config, seed=seed, run=open_run(algorithm, folder, show=show_bar))
    summaries = []
    for split in splits:
        result = evaluate(agent, chosen.id, split=split, train_seed=seed, name=name)
        result.save(result_path(folder, split))
        summaries.append(summarise([result]))
    if summaries:
        out.print(summary_table(summaries))
    out.print(f"written: {folder}", highlight=False)
    return agent


def bench(out: Console, benchmarks: Sequence[str]) -> None:
    """Steps per second of the public interfaces; medians of five."""
    table = _plain(
        "id", "slots", title="environment steps per second, one thread, random actions, auto-reset and infos included"
    )
    for column in ("native vector env", "SyncVectorEnv", "ratio"):
        table.add_column(column, justify="right")
    for chosen in [spec(id) for id in benchmarks] or specs():
        for count, peer in ((1, False), (64, True), (1024, False), (8192, False)):
            ours = steps_per_second(make_vec(chosen.id, count))
            cells = ["", ""]
            if peer:
                sync = steps_per_second(gym.make_vec(NAMESPACE + chosen.id, count, vectorization_mode="sync"))
                cells = [f"{sync:,.0f}", f"{ours / sync:.0f}x"]
            table.add_row(chosen.id, f"{count:,}", f"{ours:,.0f}", *cells)
    out.print(table)


def steps_per_second(env: Any, seconds: float = 0.2, rounds: int = 5) -> float:
    """Median over `rounds` of about `seconds` each, actions drawn beforehand."""
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(16)]
    rates = []
    for _ in range(rounds):
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for action in actions:
                env.step(action)
            steps += len(actions)
        rates.append(steps * env.num_envs / (time.perf_counter() - start))
    return float(np.median(rates))
