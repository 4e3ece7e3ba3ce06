"""The table at the end of a run of this folder, and the commands that are tried."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orthus_cli.app import app
from tests.hardening.commands_under_test import KINDS, CommandUnderTest, Sources
from tests.hardening.tally import PROPERTY, Tally, table


def pytest_terminal_summary(terminalreporter) -> None:
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if rows:
        terminalreporter.section("hardening")
        terminalreporter.write("\n".join(table(rows)) + "\n")


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Sources:
    """What the commands read."""
    return Sources.make(tmp_path_factory.mktemp("sources"), tiny_folder)


def run_here(words: list[str]) -> Result:
    """`orthus WORDS...` in this process."""
    return CliRunner().invoke(app, words, prog_name="orthus", input="")


class Tried:
    """A command, its whole result, and places where it can be run again and again."""

    def __init__(self, command: CommandUnderTest, folder: Path) -> None:
        self.command, self.folder, self.count = command, folder, 0
        self._earlier = folder / "earlier"
        self._earlier.mkdir()
        command.earlier(self._earlier, run_here)
        whole = self.place()
        self.finish(whole)
        self.whole = command.result(whole)
        self.sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]

    def place(self, *, earlier: bool = False) -> Path:
        """A new folder; `earlier`, with what an earlier run has left there."""
        self.count += 1
        place = self.folder / f"place-{self.count}"
        if earlier:
            shutil.copytree(self._earlier, place)
        else:
            place.mkdir()
        return place

    def look(
        self, tally: Tally, name: str, before: Path, place: Path, *, is_finished: bool = False
    ) -> bool:
        """Count what is half or lost in a place, and return whether nothing is.

        Args:
            before: A copy of the place as it was.
            is_finished: Whether a run has ended well there, whose result may be another than ours.
        """
        lost, half = [], self.command.half(place)
        if not half:
            whole = self.command.result(place) if is_finished else self.whole
            lost = self.command.lost(before, place, whole)
        for fault, found in (("half files", half), ("lost files", lost)):
            for what in found:
                tally.found(fault, f"{name}: {what}")
        return not half and not lost

    def finish(self, place: Path) -> None:
        """Run the command to its end."""
        done = run_here(self.command.words(place))
        assert done.exit_code == 0, (done.exit_code, done.stderr, done.exception)


@pytest.fixture(scope="session")
def tried(tmp_path_factory: pytest.TempPathFactory, sources: Sources):
    """`tried(kind)`: each command is made ready once."""
    ready: dict[str, Tried] = {}

    def of(kind: str) -> Tried:
        if kind not in ready:
            ready[kind] = Tried(KINDS[kind](sources), tmp_path_factory.mktemp(kind))
        return ready[kind]

    return of
