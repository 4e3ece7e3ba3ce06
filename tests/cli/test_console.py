"""Progress and text: drawn in a terminal, plain in a pipe, and nothing that steers a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from orthus_cli.console import Reporter, Settings
from orthus_cli.progress import LINE_EVERY, Lines, Pace
from orthus_cli.streams import printable
from orthus_core.events import ImageBegun, Note, PatchDone, Progress, RowDone, StepDone

ROOT = Path(__file__).parents[2]

DRAWS = """
import sys, time
from orthus_cli.console import Reporter, Settings
from orthus_core.events import Note, PatchDone
r = Reporter(Settings(verbosity=int(sys.argv[1])))
def events():
    for done in range(1, 5):
        if done == 3:
            yield Note("half of it")
        yield PatchDone(row=0, image=0, done=done, total=4)
        time.sleep(0.15)
for event in r.track(events()):
    pass
r.result({"files": ["out.png"]}, text="wrote out.png")
"""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def reporter(verbosity: int = 0) -> Reporter:
    return Reporter(Settings(verbosity=verbosity))


def run_in_terminal(code: str, *words: str, **environment: str) -> tuple[str, str]:
    """stdout from a pipe and stderr from a terminal of a process that runs `code`."""
    ours, theirs = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**plain, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100", **environment},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        pieces = []
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # how Linux says that the other end was closed
                break
            if not piece:
                break
            pieces.append(piece)
        assert process.stdout
        out = process.stdout.read().decode()
    os.close(ours)
    return out, b"".join(pieces).decode()


def test_a_terminal_sees_a_bar_with_its_rate_and_time_left() -> None:
    out, err = run_in_terminal(DRAWS, "0")
    assert out == "wrote out.png\n"
    assert "drawing" in err and "/4 patches" in err
    assert "patches/s" in err and " left" in err
    assert "half of it" in err
    assert "\x1b[" in err


def test_a_quiet_terminal_sees_no_bar() -> None:
    out, err = run_in_terminal(DRAWS, "-1")
    assert out == "wrote out.png\n"
    assert err == ""


def test_a_dumb_terminal_sees_no_control_characters() -> None:
    _, err = run_in_terminal(DRAWS, "0", TERM="dumb")
    assert "\x1b" not in err and "half of it" in err


def test_no_color_takes_the_colour_from_warnings() -> None:
    code = "from orthus_cli.console import *; Reporter(Settings()).warn('thin ice')"
    assert "\x1b[" in run_in_terminal(code)[1]
    assert run_in_terminal(code, NO_COLOR="1")[1].strip() == "warning: thin ice"


def test_a_pipe_sees_one_plain_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    events = [Progress("copying", done, 9, "tensors") for done in range(10)]
    assert list(reporter().track(events)) == events
    assert capsys.readouterr().err == "copying: 9/9 tensors\n"


def test_every_event_is_handed_on_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    events = [
        Note("begin"),
        PatchDone(0, 0, 1, 2),
        PatchDone(1, 0, 1, 2),
        PatchDone(0, 0, 2, 2),
        PatchDone(1, 0, 2, 2),
        RowDone(0, "end"),
        ImageBegun(0, 1),
        StepDone(1, 1, {"loss": 0.25, "rate": 3.0}),
        object(),
    ]
    assert list(reporter().track(events)) == events
    assert capsys.readouterr().err.splitlines() == [
        "begin",
        "drawing: 4/4 patches",
        "training: 1/1 steps, loss 0.25, rate 3",
    ]


def test_a_picture_that_was_begun_for_the_model_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    events = [
        ImageBegun(0, 0),
        ImageBegun(0, 1, forced=True),
        ImageBegun(0, 2, forced=True, ending=True, panel=5),
    ]
    assert list(reporter().track(events)) == events
    assert capsys.readouterr().err.splitlines() == [
        "picture 2 was begun for the model, which was still writing",
        "picture 5 was begun for the model, which would have ended",
    ]


def test_pictures_of_one_batch_are_counted_together(capsys: pytest.CaptureFixture[str]) -> None:
    one_of_two = [PatchDone(0, 0, done, 3) for done in (1, 2, 3)]
    list(reporter().track(one_of_two, images=2))
    assert capsys.readouterr().err == ""  # 3 of 6 is not the end of the stage


def test_long_work_in_a_pipe_is_heard_of_now_and_then() -> None:
    clock, said = Clock(), []
    lines = Lines(said.append, clock)
    for step in range(1, 8):
        clock.now += LINE_EVERY / 2
        lines("training", step, 100, "steps", f"loss {step}")
    assert said == [
        "training: 2/100 steps, 15 s each, 24:30 left, loss 2",
        "training: 4/100 steps, 15 s each, 24:00 left, loss 4",
        "training: 6/100 steps, 15 s each, 23:30 left, loss 6",
    ]


def test_pace_counts_from_the_first_event_of_a_stage() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace("training", 500, 1000, "steps") == ""  # resumed at 500: nothing was made yet
    clock.now = 10
    assert pace("training", 600, 1000, "steps") == "10 steps/s, 0:40 left"
    assert pace("saving", 1, 9, "files") == ""  # another stage begins anew


def test_pace_says_hours_and_slow_things_plainly() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace("training", 0, 1001, "steps")
    clock.now = 8
    assert pace("training", 1, 1001, "steps") == "8 s each, 2:13:20 left"


def test_work_ends_when_its_reader_stops(capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def events():
        try:
            yield Note("begin")
            yield Note("never")
        finally:
            closed.append(True)

    tracked = reporter().track(events())
    next(tracked)
    tracked.close()
    assert closed == [True]
    assert "never" not in capsys.readouterr().err


def test_control_characters_are_never_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("a\x1b[2Jb\x07\x9bc\td\n") == "a\ufffd[2Jb\ufffd\ufffdc\td\n"
    reporter().say("file \x1b]0;owned\x07.png")
    reporter().table(("name",), [("\x1b[31mred",)])
    reporter().result({}, text="\x1b[2J")
    seen = capsys.readouterr()
    assert "\x1b" not in seen.out + seen.err


def test_a_result_without_text_is_listed_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    reporter().result({"kind": "orthus", "tau": 1.0, "missing": [], "tied": False, "of": None})
    assert capsys.readouterr().out == "kind: orthus\ntau: 1\nmissing: \ntied: no\nof: \n"


def test_markup_in_a_table_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter(Settings("human")).table(("[bold]name",), [("[red]x[/red] :smile:",)])
    assert "[red]x[/red] :smile:" in capsys.readouterr().out
