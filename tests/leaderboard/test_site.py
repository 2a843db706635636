"""Ranking and the site: tables follow from the records, pages show what the data says, nothing from outside gets in."""

import datetime
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from forging import about, board, entrants, honest, write_boards

import metabench
from metabench.leaderboard.ranking import rank, read_entries
from metabench.leaderboard.records import BOARDS, Training, read_boards
from metabench.leaderboard.site.build import build
from metabench.leaderboard.site.charts import Line, line_chart, number, ticks
from metabench.leaderboard.submit import log_of, open_yardstick, submit
from metabench.leaderboard.verify import record, verify

ROOT = Path(__file__).parent.parent.parent
UNTRAINED = Training(env_steps=0)


def enter(root, boards, id, name, track="online", **changes):
    story = about(agent=name, title=name, track=track, trains=False, plugin=name, training=UNTRAINED, **changes)
    folder = submit(boards[id], open_yardstick(name, boards[id], 2), story, root)
    record(verify(folder, boards))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Leaderboards with two boards, five agents, a claim and a superseded entry."""
    root = tmp_path_factory.mktemp("site") / "leaderboards"
    grid = board("grid", "GridNavigation-v0", title="Grid & <b>navigation</b>")
    eager = board("eager", "PointRobot-v0", metric="data-efficiency", target=0.5)
    boards = write_boards(root, [grid, eager])
    enter(root, boards, "grid", "random")
    enter(root, boards, "grid", "zero")
    enter(root, boards, "grid", "oracle", "oracle")
    card = "# Noise\n\n<script>alert(1)</script> [x](javascript:alert(1)) ![i](http://example.com/i.png)\n\n"
    card += "| a | b |\n|-|-|\n| 1 | 2 |\n"
    for day, claimed in ((20, False), (25, False), (26, True)):
        date = datetime.date(2026, 11, day)
        story = about(title="<i>Noisy</i>", card=card, date=date)
        folder = submit(boards["grid"], entrants("GridNavigation-v0", 2), story, root)
        if not claimed:
            record(verify(folder, boards))
    return root


def tables(root):
    boards = read_boards(root / BOARDS)
    entries = read_entries(root, boards)
    return {(b.id, track): rank(b, track, entries) for b in boards.values() for track in b.tracks}


def test_ranks_follow_from_the_records(root):
    found = tables(root)
    online = found["grid", "online"]
    assert [row.rank for row in online.rows] == [1, 2, 3]
    assert [row.score.estimate for row in online.rows] == sorted((r.score.estimate for r in online.rows), reverse=True)
    assert {row.why_unranked.split(":")[0].split(" by")[0] for row in online.unranked} == {
        "claimed",
        "superseded",
    }
    levels = metabench.spec("GridNavigation-v0").references("test")
    for row in online.rows:
        returns = np.stack([r.array() for r in row.entry.results.results])
        low, high = levels["random"]["mean"], levels["oracle"]["mean"]
        scores = (returns.mean(axis=(2, 3)) - low) / (high - low)
        assert row.mean == returns.mean()
        assert np.allclose(row.tasks, scores.mean(axis=0))
        assert np.allclose(row.curve, (returns.mean(axis=(0, 1, 2)) - low) / (high - low))
        flat = np.sort(scores.ravel())
        cut = len(flat) // 4
        assert np.isclose(row.score.estimate, flat[cut : len(flat) - cut].mean())
        assert row.score.low <= row.score.estimate <= row.score.high
    (oracle,) = found["grid", "oracle"].rows
    assert oracle.entry.submission.agent == "oracle"  # never in the same table as the others


def test_data_efficiency_ranks_by_steps_among_those_who_reach_the_target(tmp_path):
    boards = write_boards(tmp_path, [board("eager", "PointRobot-v0", metric="data-efficiency", target=0.5)])

    class Walker:
        """Knows the goals by heart: good enough to reach the target, which is all this test needs."""

        def __init__(self, share):
            self.share = share
            table = metabench.spec("PointRobot-v0").table()
            self.goals = table.batch("test", np.arange(table.size("test"))).values

        def begin(self, num_trials):
            return 0

        def act(self, step, belief):
            offset = self.goals[: len(step.reward)] * self.share - step.observation
            return np.clip(offset, -0.1, 0.1).astype(np.float32), belief

    for other, (name, share, steps) in enumerate((("far", 1.0, 10**6), ("near", 0.9, 10**4), ("lazy", 0.0, 10))):
        log = log_of([{"iteration": 1, "frames": steps}])
        runs = entrants("PointRobot-v0", 2, other=10 * other)
        own = [entrant._replace(agent=Walker(share), log=log) for entrant in runs]
        story = about(agent=name, title=name, training=Training(env_steps=steps))
        record(verify(submit(boards["eager"], own, story, tmp_path), boards))
    rows = tables(tmp_path)["eager", "online"].rows
    assert [(row.entry.submission.agent, row.reached) for row in rows] == [
        ("near", True),
        ("far", True),
        ("lazy", False),
    ]


class Cells(HTMLParser):
    """The ranked tables of a page: id -> rows of (data-value or text)."""

    def __init__(self):
        super().__init__()
        self.tables, self.stack, self.cell, self.open = {}, [], None, []

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        if tag == "table":
            self.rows = self.tables.setdefault(told.get("id", ""), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.cell, self.value = "", told.get("data-value")

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self.cell is not None:
            self.rows[-1].append(self.cell.strip() if self.value is None else self.value)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def check_pages(root, site):
    """Every ranked table of every board page says what the records say, and so does its JSON."""
    for (id, track), table in tables(root).items():
        page = Cells()
        page.feed((site / "boards" / f"{id}.html").read_text())
        rows = page.tables.get(f"ranked-{track}", [[]])[1:]
        told = json.loads((site / "data" / "boards" / f"{id}.json").read_text())["tracks"][track]["ranked"]
        assert len(rows) == len(table.rows) == len(told)
        for cells, row, data in zip(rows, table.rows, told, strict=True):
            assert cells[:3] == [str(row.rank), row.entry.submission.title, repr(row.score.estimate)]
            assert cells[10] == repr(row.mean)
            assert data["score"] == row.score._asdict() and data["rank"] == row.rank
            assert data["training"]["env_steps"] == row.entry.submission.training.env_steps
            assert (site / "entries" / f"{data['place']}.html").is_file()
            assert (site / "data" / "entries" / f"{data['place']}.json").is_file()


def test_the_pages_say_what_the_data_says(root, tmp_path):
    built = build(root, read_boards(root / BOARDS), tmp_path / "site")
    assert (built.boards, built.entries) == (2, 6)
    check_pages(root, tmp_path / "site")


def test_the_projects_own_leaderboards(tmp_path):
    """Every committed entry carries the record of a verification of its content, and the pages follow from the data."""
    own = ROOT / "leaderboards"
    boards = read_boards(own / BOARDS)
    for chosen in boards.values():
        spec = metabench.spec(chosen.benchmark)
        assert chosen.task_digest == spec.table().digest(chosen.split)
        if chosen.id == "point-robot-3":  # where agents draw their first steps, one trial a goal says little
            assert chosen.repeats == 20 and chosen.episodes == 3
        elif chosen.id == "sparse-point-robot":  # likewise
            assert chosen.repeats == 20 and chosen.episodes == spec.episodes
        elif chosen.id in ("dark-room", "grid-navigation-long"):  # what is learned over a long trial
            assert chosen.episodes == 100 and chosen.repeats * spec.table().size(chosen.split) >= 20
        elif not chosen.id.startswith("metaworld-"):  # whose evidence would be too large
            assert (chosen.episodes, chosen.repeats) == (spec.episodes, spec.repeats)
    build(own, boards, tmp_path / "site")
    check_pages(own, tmp_path / "site")
    for entry in read_entries(own, boards):
        assert entry.tier in ("replayed", "reproduced"), entry.submission.place


def test_the_site_is_deterministic_and_replaces_only_itself(root, tmp_path):
    boards = read_boards(root / BOARDS)
    first, second = tmp_path / "a", tmp_path / "b"
    build(root, boards, first)
    build(root, boards, second)
    build(root, boards, second)  # replaces the old one
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds something else than a site"):
        build(root, boards, other)
    assert (other / "thesis.tex").exists()


def test_nothing_from_outside_becomes_markup_or_is_loaded(root, tmp_path):
    build(root, read_boards(root / BOARDS), tmp_path / "site")
    for path in (tmp_path / "site").rglob("*.html"):
        text = path.read_text()
        assert "<script>" not in text and "<i>Noisy" not in text and "<b>navigation" not in text
        assert "javascript:" not in re.sub(r"\[x\]\(javascript:alert\(1\)\)", "", text)
        loaded = re.findall(r'(?:src|<link[^>]*href)="([^"]*)"', text)
        assert all(not url.startswith(("http:", "https:", "//")) for url in loaded), loaded
        for target in re.findall(r'href="([^"#]+)', text):
            if not target.startswith(("http", "data:")):
                assert (path.parent / target).resolve().is_file(), f"{path}: {target}"
    noisy = next(p for p in (tmp_path / "site" / "entries").rglob("*.html") if "Noise" in p.read_text())
    assert "<table>\n<thead>\n<tr>\n<th>a</th>" in noisy.read_text()  # the card's own table


HOSTILE = """<b a='1' b="2">&x</b>{{ 7 * 7 }}{% raw %}<script>alert(1)</script>--><!--"""


def hostile(model, keep=()):
    """A copy of a record with markup in every text in it, whether its checks would let that through or not."""
    changed = {}
    for name, value in model:
        changed[name] = value if name in keep else _hostile(value, keep)
    return model.model_copy(update=changed)


def _hostile(value, keep):
    if hasattr(value, "model_copy"):
        return hostile(value, keep)
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, (tuple, list)):
        return tuple(_hostile(part, keep) for part in value)
    if isinstance(value, dict) or hasattr(value, "items"):
        return {_hostile(key, keep): _hostile(part, keep) for key, part in value.items()}
    return value


class Markup(HTMLParser):
    """Tags with their attributes' names, and whatever is text."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(name for name, _ in attributes)))
        self.texts += [value for _, value in attributes if value]

    def handle_comment(self, data):
        self.tags.append(("comment", data))

    def handle_data(self, data):
        self.texts.append(data)


def read_markup(page):
    found = Markup()
    found.feed(page)
    return found


def test_markup_in_any_text_of_any_record_is_text(root):
    """Not the fields that one thinks of: every string of every record, also where a check would have refused it."""
    from metabench.leaderboard.site import pages

    keep = ("benchmark", "split", "track", "metric", "tracks", "tier", "board", "superseded_by", "plugin")
    for table in (table for table in tables(root).values() if table.rows):
        rows = [
            row._replace(
                why_unranked=row.why_unranked and row.why_unranked + HOSTILE,
                entry=row.entry._replace(
                    submission=hostile(row.entry.submission, keep),
                    verification=row.entry.verification and hostile(row.entry.verification, keep),
                    sha256=row.entry.sha256 + HOSTILE,
                    card=row.entry.card + HOSTILE,
                ),
            )
            for row in (*table.rows, *table.unranked)
        ]
        board = hostile(table.board, keep)
        ranked, unranked = tuple(rows[: len(table.rows)]), tuple(rows[len(table.rows) :])
        other = table._replace(board=board, rows=ranked, unranked=unranked)
        boards, entries = {board.id: board}, [row.entry for row in rows]
        built = [pages.overview([other], entries, boards), pages.all_entries(entries)]
        built += [pages.board_page(board, [other], boards), *(pages.entry_page(r.entry, r, other) for r in rows)]
        for page in built:
            found = read_markup(page)
            assert "<script>" not in page
            assert not [tag for tag in found.tags if tag[0] == "comment" or tag == ("b", ("a", "b"))]
            assert any(HOSTILE in text for text in found.texts)


def test_the_templates_have_no_way_around_escaping():
    site = ROOT / "metabench" / "leaderboard" / "site"
    folders = (site / "templates", ROOT / "metabench" / "cli" / "templates")
    for path in (path for folder in folders for path in folder.iterdir()):
        assert not re.search(r"\|\s*safe|autoescape|Markup", path.read_text()), path
    code = {path.name: path.read_text() for path in site.glob("*.py")}
    assert {name for name, text in code.items() if "Markup(" in text} == {"render.py"}
    assert code["render.py"].count("Markup(") == 1 and not any("html.escape" in text for text in code.values())


def test_an_unreadable_submission_stops_the_build(root, tmp_path):
    copy = tmp_path / "leaderboards"
    shutil.copytree(root, copy)
    next(copy.glob("*/*/*/submission.json")).write_text("{}")
    with pytest.raises(ValueError, match=r"no valid submission\.json"):
        build(copy, read_boards(copy / BOARDS), tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_an_empty_board_is_built(tmp_path):
    boards = write_boards(tmp_path / "empty", [board("grid", "GridNavigation-v0")])
    assert build(tmp_path / "empty", boards, tmp_path / "site").entries == 0
    assert "No entry yet" in (tmp_path / "site" / "boards" / "grid.html").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no"),
        ("[[board]]\nid = 'x'", "board x: title: Field required"),
        ("[[board", "is no TOML"),
    ],
)
def test_wrong_boards_are_refused_in_words(tmp_path, text, words):
    (tmp_path / BOARDS).write_text(text)
    with pytest.raises(ValueError, match=words):
        read_boards(tmp_path / BOARDS)


def test_a_board_cannot_be_superseded_by_nothing(tmp_path):
    with pytest.raises(ValueError, match="superseded by 'gone', which is no board"):
        write_boards(tmp_path, [board("grid", "GridNavigation-v0", superseded_by="gone")])


def test_charts():
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-316.4, -310.4)[0] <= -316.4 and ticks(-316.4, -310.4)[-1] >= -310.4
    assert ticks(3.0, 3.0)[0] <= 3.0 < ticks(3.0, 3.0)[-1]
    assert (number(-0.0001), number(0.5), number(-307.14), number(12345.6)) == ("0.000", "0.500", "-307.1", "12,346")
    chart = line_chart([Line("<a>", "rl2", [1, 2], [0.0, 1.0])], "t", "x", "y", whole_x=True)
    assert "&lt;a&gt;" in chart and "<a>" not in chart and chart.count("<circle") == 2


def test_one_more_agent_moves_only_the_ranks_below_it(root, tmp_path):
    copy = tmp_path / "leaderboards"
    shutil.copytree(root, copy)
    before = {row.entry.sha256: row.score for row in tables(copy)["grid", "online"].rows}
    boards = read_boards(copy / BOARDS)
    enter(copy, boards, "grid", "random", version="2")
    after = {row.entry.sha256: row.score for row in tables(copy)["grid", "online"].rows}
    assert len(after) == len(before) + 1
    assert {name: after[name] for name in before} == before


def test_honest_is_what_the_other_tests_start_from(tmp_path):
    folder, boards = honest(tmp_path, "grid", "GridNavigation-v0")
    assert verify(folder, boards).accepted


def test_the_script_that_ci_runs_starts():
    ran = subprocess.run([ROOT / ".ci" / "leaderboard"], capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr.startswith("usage: .ci/leaderboard verify")


def test_the_site_has_the_colours_of_the_plots():
    from metabench import colors
    from metabench.leaderboard.site.build import ASSETS

    style = " ".join((ASSETS / "site.css").read_text().split())
    for theme in (0, 1):
        for index, pair in enumerate(colors.palette()):
            assert f"--c{index}: {pair[theme]};" in style


def test_scores_of_all_boards_stand_in_one_table(root):
    from metabench.leaderboard.site.heat import heat, leader

    boards, found = read_boards(root / BOARDS), tables(root)
    seen = heat(list(found.values()), boards)
    assert [board.id for board in seen.boards] == ["grid"]
    ((agent, (cell,)),) = seen.lines
    noisy = next(row for row in found["grid", "online"].rows if row.entry.submission.title == "<i>Noisy</i>")
    assert agent == noisy.entry.submission.agent and cell.row.score == noisy.score and not cell.old
    assert leader(found["grid", "online"]).entry.submission.agent == agent
    assert leader(found["eager", "online"]) is None


def test_an_older_board_fills_the_newer_ones_column(root):
    from metabench.leaderboard.site.heat import heat

    boards = read_boards(root / BOARDS)
    newer = boards["grid"].model_copy(update={"id": "grid-2"})
    boards = {**boards, "grid": boards["grid"].model_copy(update={"superseded_by": "grid-2"}), "grid-2": newer}
    entries = read_entries(root, boards)
    all_tables = [rank(b, track, entries) for b in boards.values() for track in b.tracks]
    seen = heat(all_tables, boards)
    assert [board.id for board in seen.boards] == ["grid-2"]
    assert [cells[0].old for _, cells in seen.lines] == [True]


def test_a_board_as_csv(root, tmp_path):
    import csv

    boards = read_boards(root / BOARDS)
    build(root, boards, tmp_path / "site", docs="../")
    rows = list(csv.DictReader((tmp_path / "site" / "data" / "boards" / "grid.csv").read_text().splitlines()))
    table = tables(root)["grid", "online"]
    online = [row for row in rows if row["track"] == "online"]
    assert [float(row["score"]) for row in online] == [r.score.estimate for r in (*table.rows, *table.unranked)]
    page = (tmp_path / "site" / "boards" / "grid.html").read_text()
    assert "@misc{metabench-grid" in page and 'href="../../families/GridNavigation-v0.html"' in page


def test_no_cell_is_a_formula():
    from metabench.leaderboard.site.build import _harmless

    assert [_harmless(v) for v in ("=1+1", "@x", "-1", -1, "a=1")] == ["'=1+1", "'@x", "'-1", -1, "a=1"]


def test_steps_to_a_level_and_budget_stand_on_board_and_entry(tmp_path):
    import csv

    root = tmp_path / "leaderboards"
    boards = write_boards(root, [board("grid", "GridNavigation-v0")])  # random -1.24, oracle 11.04
    returns = ((-1.0, 5.0, 6.0), (-1.0, 6.0, 8.2))  # 50 % is 4.9, 75 % is 7.97
    for agent, logged, cores in (("noisy", True, 3), ("quiet", False, None)):
        runs = entrants("GridNavigation-v0", 2, other=0 if logged else 10)
        if logged:
            steps = ((1, 200), (2, 400), (3, 1000))
            rows = [
                [{"iteration": k, "frames": at, "return": r} for (k, at), r in zip(steps, own, strict=True)]
                for own in returns
            ]
            runs = [run._replace(log=log_of(own)) for run, own in zip(runs, rows, strict=True)]
        training = Training(env_steps=1000, hours=0.5, cores=cores)
        folder = submit(boards["grid"], runs, about(agent=agent, title=agent, training=training), root)
        assert verify(folder, boards).accepted
        record(verify(folder, boards))
        told = json.loads((folder / "submission.json").read_text())["training"]
        assert told.get("cores", "left out") == (cores or "left out")
    build(root, boards, tmp_path / "site")
    page = (tmp_path / "site" / "boards" / "grid.html").read_text()
    every = re.findall(r"<tr data-text.*?</tr>", page, re.DOTALL)
    lines = {re.search(r"entries/grid/(\w+)/", line)[1]: line for line in every}
    cells = {name: re.findall(r"<td[^>]*>([^<]*)</td>", line) for name, line in lines.items()}
    assert " | ".join(["1 k", "400", "not reached", "1,800", "3"]) in " | ".join(cells["noisy"])
    assert cells["quiet"].count("-") == 2 and "?" in cells["quiet"]
    lines = (tmp_path / "site" / "data" / "boards" / "grid.csv").read_text().splitlines()
    rows = {row["agent"]: row for row in csv.DictReader(lines)}
    assert [rows["noisy"][name] for name in ("cores", "steps_to_50", "steps_to_75")] == ["3", "400.0", "inf"]
    assert [rows["quiet"][name] for name in ("cores", "steps_to_50", "steps_to_75")] == ["", "", ""]
    (entry,) = (tmp_path / "site" / "entries" / "grid" / "noisy").glob("*.html")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", entry.read_text()))
    assert facts["steps to 50 %"] == "400" and facts["steps to 75 %"] == "not reached (1 of 2 runs)"
    assert facts["seconds a run"] == "1,800" and facts["cores a run"] == "3"


def test_cores_that_nobody_told_change_no_id():
    assert "cores" not in Training(env_steps=5).model_dump(mode="json")
    assert Training(env_steps=5, cores=2).model_dump(mode="json")["cores"] == 2
    with pytest.raises(ValueError):
        Training(env_steps=5, cores=0)


def test_random_leads_nothing(tmp_path, capsys):
    from metabench.cli.main import main
    from metabench.leaderboard.site.build import overview_data

    root = tmp_path / "leaderboards"
    boards = write_boards(root, [board("grid", "GridNavigation-v0")])
    enter(root, boards, "grid", "random")
    (told,) = overview_data([rank(boards["grid"], "online", read_entries(root, boards))], boards)["boards"]
    assert told["leaders"] == {"online": None} and told["ranked"] == 1
    assert not main(["board", "list", str(root)])
    assert "no entry yet" in capsys.readouterr().out
