"""Data formats of other distributions: asked about what ours do not recognise, harmless when
broken, never imported without need.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orthus_core.data.formats.sniff import FORMATS, open_rows, read
from orthus_core.data.rows import SourceOptions
from orthus_core.entry_points import OURS
from orthus_core.errors import DataError

TABLE = """
import csv
from orthus_core.data.document import Document, turn
from orthus_core.data.formats.reading import ReadResult
from orthus_core.data.formats.sniff import DataFormat
from orthus_core.data.pictures import FilePicture

def read_table(path, *, strict):
    reading = ReadResult(strict)
    with path.open(newline="") as file:
        for line, (name, words) in enumerate(csv.reader(file), start=1):
            segments = turn("user", words) + turn("model", FilePicture(path.parent / name))
            reading.documents.append(Document(segments, id=f"{path.name}:{line}"))
    return reading

listed = DataFormat("a list", lambda path: path.suffix == ".list", read_table)
"""


@pytest.fixture
def format_plugin(stranger):
    """Makes a distribution orthus-list that registers the data format `table`."""
    return lambda code, name="listed": stranger(
        name, code, target="listed", distribution="orthus-list", group="orthus.data_formats"
    )


@pytest.fixture
def table(start: Path) -> Path:
    path = start.parent / "pictures.list"
    path.write_text(f"{start.name},a grey ramp\nmissing.png,nothing\n")
    return path


def test_a_format_of_another_distribution_is_found_by_itself(orthus, format_plugin, table):
    format_plugin(TABLE)
    done = orthus("data", "check", table)
    assert "1 usable, 1 bad" in done.stdout, done.output
    assert "missing.png" in done.stderr
    assert orthus("data", "check", table, "--as", "listed").stdout == done.stdout


def test_a_format_may_be_named_where_ours_would_read_it(orthus, format_plugin, table):
    format_plugin(TABLE.replace('path.suffix == ".list"', "False"))
    assert "no known data set" in orthus("data", "check", table).stderr
    assert "1 usable" in orthus("data", "check", table, "--as", "listed").stdout
    wrong = orthus("data", "check", table, "--as", "litsed")
    assert wrong.exit_code == 1 and f"{', '.join(FORMATS)}, listed" in wrong.stderr


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import no_such_module", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("listed = 3", "TypeError: it is a int, and must be a DataFormat"),
    ],
)
def test_a_broken_format_is_listed_and_hurts_nothing(orthus, format_plugin, table, code, problem):
    format_plugin(code)
    table.with_suffix(".txt").write_text("words")
    done = orthus("data", "check", table)
    assert done.exit_code == 1
    assert "no known data set" in done.stderr and f"listed ({problem}" in done.stderr
    (row,) = json.loads(orthus("plugins", "--format", "json").stdout)["data_formats"]
    assert row["data format"] == "listed" and row["problem"].startswith(problem)
    assert "orthus-list" in orthus("plugins").stdout
    named = orthus("data", "check", table, "--as", "listed")
    assert f"the data format 'listed' of orthus-list failed: {problem}" in named.stderr
    (table.parent / "start.txt").write_text("a ramp")
    assert "1 usable" in orthus("data", "check", table.parent).stdout


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return reading", "return reading.documents", "it returned a list, not a ReadResult"),
        ("reading = ReadResult(strict)", "reading = 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_format_that_fails_at_reading_says_whose_it_is(format_plugin, table, old, new, message):
    format_plugin(TABLE.replace(old, new))
    with pytest.raises(DataError, match=message) as caught:
        read(table)
    assert "orthus-list" in caught.value.message and caught.value.hint


def test_a_format_that_fails_at_recognising_is_passed_over(format_plugin, table):
    format_plugin(TABLE.replace('path.suffix == ".list"', "1 / 0"))
    with pytest.raises(DataError, match="no known data set") as caught:
        read(table)
    assert "ZeroDivisionError" in caught.value.hint


def test_no_format_takes_a_name_of_ours(orthus, format_plugin, table):
    format_plugin(TABLE, name="records")
    (row,) = json.loads(orthus("plugins", "--format", "json").stdout)["data_formats"]
    assert row["data format"] == "records (orthus-list)"
    assert row["problem"] == f"the name is taken by {OURS}"
    with pytest.raises(DataError, match="no known data set"):
        read(table)


def test_what_ours_read_imports_no_plugin(orthus, format_plugin, table, monkeypatch, tmp_path):
    mark = tmp_path / "imported"
    format_plugin(f"open({str(mark)!r}, 'w').close()\n" + TABLE)
    (table.parent / "start.txt").write_text("a ramp")
    assert "1 usable" in orthus("data", "check", table.parent).stdout
    monkeypatch.setenv("ORTHUS_PLUGINS", "")
    assert "no known data set" in orthus("data", "check", table).stderr
    assert not mark.exists()
    monkeypatch.setenv("ORTHUS_PLUGINS", "orthus-list")
    assert "1 usable" in orthus("data", "check", table).stdout
    assert mark.exists()


def test_a_distribution_of_formats_alone_is_not_missing(orthus, format_plugin, monkeypatch):
    format_plugin(TABLE)
    monkeypatch.setenv("ORTHUS_PLUGINS", "orthus-list,ghost")
    rows = json.loads(orthus("plugins", "--format", "json").stdout)["plugins"]
    assert [row["command"] for row in rows if row["problem"]] == ["ghost"]


ROWS = """
from orthus_core.data.formats.sniff import DataFormat
from orthus_core.data.index.json_lines import json_lines
from orthus_core.data.rows import IndexedRows
from orthus_core.data.document import Document, turn

def rows(path, options):
    index = yield from json_lines(path, objects=False)
    def parse(record, place, visit):
        return Document(turn("user", record), id=options.name)
    return IndexedRows(index, parse, str(path))

listed = DataFormat("a list", lambda path: path.suffix == ".list", rows=rows)
"""


def test_a_format_of_rows_gets_the_options_and_its_faults_have_their_places(format_plugin, table):
    format_plugin(ROWS)
    table.write_text('"a cup"\n{\n')
    opening = open_rows(table, SourceOptions(name="mine"))
    rows = last(opening)
    assert len(rows) == 2 and rows.document(0).id == "mine"
    with pytest.raises(DataError, match="no JSON") as caught:
        rows.document(1)
    assert caught.value.where == f"{table}:2"


def test_faults_of_a_reader_are_rows_that_cannot_be_used(format_plugin, table):
    append = 'reading.documents.append(Document(segments, id=f"{path.name}:{line}"))'
    skip = "reading.skip_record(path, line, ValueError(words), part='x')"
    format_plugin(TABLE.replace(append, skip))
    table.write_text("a.png,one\n" * 12)
    rows = last(open_rows(table))
    assert len(rows) == len({*rows.keys().tolist()}) == 12
    with pytest.raises(DataError, match="ValueError: one") as caught:
        rows.document(11)
    assert caught.value.where == str(rows.place(11)) == f"{table}:12, x"


def last(opening):
    """What a generator returns."""
    while True:
        try:
            next(opening)
        except StopIteration as end:
            return end.value


def test_every_format_of_ours_says_what_it_is():
    assert {"records", "chat", "image-folder", "webdataset"} <= {*FORMATS}
    with pytest.raises(DataError) as caught:
        read(Path("nowhere"))
    for data_format in FORMATS.values():
        assert data_format.rows is not None and data_format.description in caught.value.hint
