"""What others wrote prints as text; nothing is cut; a closed pipe is quiet."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import metabench
from metabench.cli.console import out, plain, say, show, table
from metabench.cli.main import main

HOSTILE = "[red]x[/red] \x1b[31mred\x1b[0m\r\n\x9b31m \u202egnp.exe\u2066 :skull: [link=http://e.org]y[/link] [/]"
SHOWN = r"[red]x[/red] \x1b[31mred\x1b[0m\r\n\x9b31m \u202egnp.exe\u2066 :skull: [link=http://e.org]y[/link] [/]"


@pytest.mark.parametrize("text", [HOSTILE, "back\\", "\\[bold]", "[bold", "x[/]", "[@click=f]", "\ud800"])
def test_hostile_text_prints_as_it_is(capsys, text):
    say(f"[bold]{plain(text)}[/] end")
    shown = table("name")
    shown.add_row(plain(text))
    show(shown)
    printed = capsys.readouterr().out
    assert printed.count(SHOWN if text is HOSTILE else text.replace("\ud800", r"\ud800")) == 2
    assert not any(ord(c) < 32 and c != "\n" for c in printed) and "\x9b" not in printed and "\u202e" not in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", HOSTILE),
        ("train", HOSTILE, "GridSwitch-v0"),
        ("train", "rl2", "GridSwitch-v0", "--evaluate", HOSTILE),
        ("evaluate", HOSTILE, "GridSwitch-v0"),
        ("evaluate", "bayes", "GridSwitch-v0", "--split", HOSTILE),
        ("summarise", HOSTILE),
        ("verify", HOSTILE),
        ("submit", "bayes", "--board", HOSTILE, "--authors", "A", "--root", HOSTILE),
        ("dataset", "info", HOSTILE),
        ("dataset", HOSTILE),
        ("board", "list", HOSTILE),
        (HOSTILE,),
    ],
    ids=lambda words: " ".join(word for word in words if word != HOSTILE),
)
def test_hostile_arguments_print_as_text(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("metabench: ") and error.count("\n") == 1
    assert "\x1b" not in error and "\x9b" not in error and "\u202e" not in error and "[red]x[/red]" in error


def test_a_hostile_file_name_prints_as_text(capsys, tmp_path):
    path = tmp_path / "[red]r[/red]\x1b[31m.json"
    main(["evaluate", "random", "PointRobot-v0", "--out", str(path)])
    main(["summarise", str(path)])
    printed = capsys.readouterr().out
    assert printed.count(r"[red]r[/red]\x1b[31m.json") == 2 and "\x1b" not in printed


def in_a_terminal(*arguments, columns):
    """What a command writes where standard output is a terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "metabench.cli", *arguments]
    ran = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment)
    os.close(theirs)
    parts = []
    while True:
        try:
            parts.append(os.read(ours, 4096))
        except OSError:  # the other end is closed
            break
        if not parts[-1]:
            break
    ran.communicate()
    os.close(ours)
    text = b"".join(parts).decode()
    for code in ("\x1b[1m", "\x1b[0m", "\x1b[2m"):
        text = text.replace(code, "")
    return text


def test_ids_are_whole_in_a_narrow_terminal():
    text = in_a_terminal("list", columns=80)
    assert "…" not in text
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    for spec in metabench.specs():
        assert any(line.startswith(f"{spec.id} ") for line in lines) or spec.group
    boards = in_a_terminal("board", "list", str(Path(__file__).parents[2] / "leaderboards"), columns=60)
    assert "…" not in boards and "CheetahDirSwitch-v0" in boards


def test_a_pipe_gets_whole_lines_whatever_columns_says(monkeypatch):
    environment = os.environ | {"COLUMNS": "40"}
    ran = subprocess.run(
        [sys.executable, "-m", "metabench.cli", "list"], capture_output=True, text=True, env=environment, check=True
    )
    lines = ran.stdout.splitlines()
    for spec in metabench.specs():
        (line,) = [line for line in lines if line.startswith(f"{spec.id} ")]
        assert spec.summary in line and str(spec.horizon) in line


@pytest.mark.parametrize("words", [("list",), ("--help",), ("list", "--help"), ("show", "GridSwitch-v0")])
def test_a_closed_pipe_is_quiet(words):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "metabench.cli", *words]
    ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert ran.stderr == "" and ran.returncode == 141


def test_a_table_is_never_cut(monkeypatch, capsys):
    monkeypatch.setattr(type(out), "is_terminal", True)
    monkeypatch.setenv("COLUMNS", "20")
    made = table("id", "what~", "number>")
    made.add_row("an-id-of-some-length-v0", "folded where there is no room for it", "1,234,567")
    show(made)
    printed = capsys.readouterr().out
    assert "an-id-of-some-length-v0" in printed and "1,234,567" in printed and "…" not in printed
