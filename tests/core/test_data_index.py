"""Indices of JSON lines, JSON arrays, tars and tables: what is read, named and kept."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from orthus_core.cache_folder import cache_folder
from orthus_core.data.formats.sniff import open_rows
from orthus_core.data.index import json_array as array_module
from orthus_core.data.index import store, table_file
from orthus_core.data.index import tar_samples as tar_samples_module
from orthus_core.data.index.arrow_table import tables
from orthus_core.data.index.json_array import json_array
from orthus_core.data.index.json_lines import json_lines
from orthus_core.data.index.stored_sets import is_hub_id
from orthus_core.data.index.tar_samples import tar_samples, tars_at
from orthus_core.data.pictures import MemberPicture
from orthus_core.data.rows import SourceOptions
from orthus_core.data.sources import Mixture, ShuffledRows
from orthus_core.errors import ChangedDataError, DataError
from orthus_core.events import Event, Note, Progress
from orthus_core.train.data_check import FaultsOf


def result(opening: Generator[Event, None, Any], events: list[Event] | None = None) -> Any:
    while True:
        try:
            event = next(opening)
        except StopIteration as end:
            return end.value
        if events is not None:
            events.append(event)


def rows_of(index: Any) -> list[Any]:
    """Each record, or the message of its error."""
    found = []
    for number in range(len(index)):
        try:
            found.append(index.record(number))
        except DataError as error:
            assert str(error.where).startswith(str(index.place(number)))
            found.append(error.message)
    return found


KINDS = ("png", "txt")


def png(color: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(file, "PNG")
    return file.getvalue()


def tar(path: Path, *members: tuple[str, bytes], form: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as opened:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small data is kept on disk as well."""
    monkeypatch.setattr(store, "SMALL_BYTES", 0)
    monkeypatch.setattr("orthus_core.data.index.arrow_table.SMALL_BYTES", 0)


# JSON lines


def test_each_line_that_is_not_blank_is_a_record(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"b": \n[1]\n{"a": 1, "a": 2}\n{"c": "\xff"}\n{"z": 9}'
    )
    index = result(json_lines(file))
    assert [index.place(number).line for number in range(6)] == [1, 4, 5, 6, 7, 8]
    whole, broken, not_object, twice, not_text, last = rows_of(index)
    assert (whole, last) == ({"a": 1}, {"z": 9})
    assert "no JSON" in broken and "list, not an object" in not_object
    assert "'a' is there twice" in twice and "not UTF-8" in not_text
    assert rows_of(result(json_lines(file, objects=False)))[2] == [1]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_other_encodings_give_the_same_records(tmp_path: Path, encoding: str):
    text = '{"a": "häß \U0001f600"}\r\n\r\n{"b": 2}'
    file, plain = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}" if encoding.endswith("e") else ""
    file.write_bytes((mark + text).encode(encoding))
    plain.write_text(text.replace("\r\n\r\n", "\n"), encoding="utf-8")
    index, other = result(json_lines(file)), result(json_lines(plain))
    assert rows_of(index) == [{"a": "häß \U0001f600"}, {"b": 2}]
    assert index.place(1).line == 3
    assert index.identity == other.identity and (index.keys() == other.keys()).all()


def test_a_line_longer_than_what_is_read_at_once(tmp_path: Path):
    records = [{"a": "x" * length} for length in (3, 3_000_000, 5)]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, records)))
    assert rows_of(result(json_lines(file))) == records


def test_a_file_of_something_else_is_named(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_text("<!doctype html><html>login</html>\n")
    with pytest.raises(DataError, match="a web page"):
        result(json_lines(file))
    with pytest.raises(DataError, match="No such file"):
        result(json_lines(tmp_path / "none.jsonl"))


# JSON arrays


def array(path: Path, content: bytes) -> Any:
    file = path / "a.json"
    file.write_bytes(content)
    return result(json_array(file))


@pytest.mark.parametrize("window", [1, 3, 16, 1 << 20])
def test_an_array_is_read_through_any_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
):
    monkeypatch.setattr(array_module, "_WINDOW", window)
    records = [{"id": n, "v": 'ä"\\{[' * n, "n": 12345.6e7, "l": [True, None]} for n in range(30)]
    content = b"\xef\xbb\xbf " + json.dumps(records, ensure_ascii=False, indent=1).encode()
    index = array(tmp_path, content)
    assert rows_of(index) == records
    assert str(index.place(11)).endswith("a.json, record 12")
    file = tmp_path / "numbers.json"
    file.write_text("[12345, 6.5e3,true ,[[-1]]]")
    assert rows_of(result(json_array(file, objects=False))) == [12345, 6500.0, True, [[-1]]]
    broken = b'[{"id": 1, "t": "x"}, {"id": 2, "t": "y" z"}, {"id": 3, "t": nul}, 17, {"id": 5}, ]'
    first, second, third, number, last = rows_of(array(tmp_path, broken))
    assert (first, last) == ({"id": 1, "t": "x"}, {"id": 5})
    assert "no JSON" in second and "no JSON" in third and "int, not an object" in number


@pytest.mark.parametrize(
    ("content", "whole", "problem"),
    [
        (b'[{"id": 1}, {"id": 2', 1, "cut short"),
        (b'[{"id": 1}, {"id": 2}', 2, "ends without its ']'"),
        (b'[{"id": 1},', 1, "cut short after record 1"),
        (b'[{"id": 1}, {"id": "a', 1, "cut short"),
        (b'[{"id": 1} {"id": 2}]', 1, "no comma after record 1"),
        (b'[{"id": 1}][{"id": 2}]', 1, "goes on after the end"),
    ],
)
def test_an_array_that_ends_too_early_keeps_what_is_before(
    tmp_path: Path, content: bytes, whole: int, problem: str
):
    *records, fault = rows_of(array(tmp_path, content))
    assert records == [{"id": number + 1} for number in range(whole)]
    assert problem in fault


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a": 1}', "one object"),
        (b"<html>", "a web page"),
        (b"", "an empty file"),
        ("[]".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_is_no_array_is_named(tmp_path: Path, content: bytes, problem: str):
    with pytest.raises(DataError, match=problem):
        array(tmp_path, content)


# tars


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_members_of_one_name_are_a_sample(tmp_path: Path, form: int):
    deep = "d" * 90 + "/" + "e" * 60
    names = ["./a/1.JPG", "./a/1.txt", "a/._1.jpg", "__MACOSX/q.txt", "a/2.seg.png", "b/1.txt"]
    names += ["a/2.txt", "a/1.txt", f"{deep}.jpg", "../../etc/p.txt"]
    if form != tarfile.USTAR_FORMAT:
        names += ["ä" * 80 + ".jpg"]
    file = tar(tmp_path / "0.tar", *((name, name.encode()) for name in names), form=form)
    index = result(tar_samples([file]))
    found = [{k: member.read().decode() for k, member in each.items()} for each in rows_of(index)]
    assert found[:5] == [
        {"jpg": "./a/1.JPG", "txt": "./a/1.txt"},
        {"seg.png": "a/2.seg.png", "txt": "a/2.txt"},
        {"txt": "b/1.txt"},
        {"txt": "a/1.txt"},  # the name comes again with a suffix that was there
        {"jpg": f"{deep}.jpg"},
    ]
    assert found[5:] == [{os.path.splitext(name)[1][1:]: name} for name in names[9:]]
    assert str(index.place(0)).endswith("0.tar, a/1.JPG")
    assert index.keys()[0] == index.keys()[3] != index.keys()[2]


def test_tars_of_a_folder_are_sorted_and_keep_their_identity(tmp_path: Path):
    for number in (4, 1, 3, 0, 2):
        tar(tmp_path / "set" / f"{number}.tar", (f"{number}.png", png()), (f"{number}.txt", b"x"))
    (tmp_path / "set" / "0_stats.json").write_text("{}")
    index = result(tar_samples(tars_at(tmp_path / "set")))
    assert [index.name(number) for number in range(5)] == ["0", "1", "2", "3", "4"]
    moved = shutil.copytree(tmp_path / "set", tmp_path / "elsewhere")
    os.utime(moved / "0.tar", (1, 1))
    other = result(tar_samples(tars_at(moved)))
    assert other.identity == index.identity and (other.keys() == index.keys()).all()
    tar(moved / "1.tar", ("1.png", png()), ("1.txt", b"xy"))
    assert result(tar_samples(tars_at(moved))).identity != index.identity


def test_a_tar_that_is_cut_short_keeps_its_whole_samples(tmp_path: Path):
    members = [(f"{n}.{kind}", b"x" * 700) for n in range(3) for kind in ("jpg", "txt")]
    content = tar(tmp_path / "0.tar", *members).read_bytes()
    other = tar(tmp_path / "1.tar", ("9.txt", b"whole"))
    for end, whole, where in (
        (3 * 1536 + 512, 1, "in 1.txt"),
        (4 * 1536 + 100, 1, "in a header"),
        (4 * 1536 + 900, 2, "in 2.jpg"),
        (700, 0, "in 0.jpg"),
        (6 * 1536, 2, "no end mark"),
    ):
        (tmp_path / "0.tar").write_bytes(content[:end])
        index = result(tar_samples([tmp_path / "0.tar", other]))
        *samples, fault, last = rows_of(index)
        assert [set(sample) for sample in samples] == [{"jpg", "txt"}] * whole
        assert "cut short" in fault and where in fault and last["txt"].read() == b"whole"
        assert index.place(whole).file == tmp_path / "0.tar"
    damaged = content[: 2 * 1536] + b"\xff" * 512 + content[2 * 1536 + 512 :]
    (tmp_path / "0.tar").write_bytes(damaged)
    assert "damaged from byte 3072 on" in rows_of(result(tar_samples([tmp_path / "0.tar"])))[-1]
    (tmp_path / "0.tar").write_text("version https://git-lfs.github.com/spec/v1\nsize 7\n")
    assert "Git LFS" in rows_of(result(tar_samples([tmp_path / "0.tar", other])))[0]
    with pytest.raises(DataError, match="Git LFS"):
        result(tar_samples([tmp_path / "0.tar"]))


def test_tars_that_were_joined_byte_by_byte_are_a_fault(tmp_path: Path):
    one = tar(tmp_path / "1.tar", ("a.txt", b"a"), ("b.txt", b"b"))
    two = tar(tmp_path / "2.tar", ("./c.txt", b"c"), ("d.txt", b"d"))
    padded = one.read_bytes() + bytes(20_480)
    one.write_bytes(padded)
    assert len(result(tar_samples([one]))) == 2, "what fills a tar up is no fault"
    one.write_bytes(padded + two.read_bytes())
    index = result(tar_samples([one]))
    assert [index.name(number) for number in range(3)] == ["a", "b", "c"] and len(index) == 3
    assert index.record(1)["txt"].read() == b"b"
    with pytest.raises(DataError, match=f"goes on after its end mark, byte {len(padded)}"):
        index.record(2)


def test_members_that_have_dots_in_their_names_are_refused_where_they_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tar_samples_module, "_MOST_SUFFIXES", 20)
    names = [f"frame.{number:02}.png" for number in range(30)]
    few = tar(tmp_path / "few" / "1.tar", *((name, png()) for name in names[:12]))
    fault = opened_fault(few, 0).message
    assert "12 pictures: 00.png, 01.png," in fault and "07.png, ..." in fault
    assert "08.png" not in fault
    tars = [tar(tmp_path / f"{n}.tar", *((name, png()) for name in names)) for n in (1, 2)]
    with pytest.raises(DataError, match="more than 20 suffixes, such as '20.png'") as raised:
        result(tar_samples(tars))
    assert raised.value.where == str(tars[0]) and "rename the members" in raised.value.hint


def opened_fault(path: Path, number: int) -> DataError:
    with pytest.raises(DataError) as raised:
        opened(path).document(number)
    return raised.value


def test_compressed_tars_are_refused_by_name(tmp_path: Path):
    packed = tmp_path / "0.tar.gz"
    packed.write_bytes(gzip.compress(tar(tmp_path / "0.tar", ("1.txt", b"")).read_bytes()))
    for reading in (lambda: tars_at(tmp_path), lambda: result(tar_samples([packed]))):
        with pytest.raises(DataError, match="compressed") as caught:
            reading()
        assert "0.tar.gz" in caught.value.where and "unpack it once" in caught.value.hint


def test_hidden_folders_hold_no_tars(tmp_path: Path):
    for name in ("a.tar", "below/B.TAR", ".cache/c.tar", "below/__MACOSX/d.tar", ".e.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert tars_at(tmp_path) == [tmp_path / "a.tar", tmp_path / "below/B.TAR"]


def test_a_member_is_a_picture(tmp_path: Path):
    file = tar(tmp_path / "0.tar", ("1.png", png("blue")), ("2.png", png()[:40]))
    first, second = (
        MemberPicture(sample["png"]) for sample in rows_of(result(tar_samples([file])))
    )
    assert first.load(4)[0, 0].tolist() == [0, 0, 255]
    assert first.key != second.key
    with pytest.raises(DataError) as caught:
        second.load(4)
    assert caught.value.where == f"{file}, 2.png"


# tables


def test_rows_of_tables_are_read_one_by_one(tmp_path: Path):
    cat = pa.array(["x", "y", "x"]).dictionary_encode()
    image = [{"bytes": png(), "path": None}] * 3
    first, second = tmp_path / "0.parquet", tmp_path / "1.parquet"
    pq.write_table(pa.table({"URL": ["u1", "u2", "u3"], "cat": cat, "image": image}), first)
    pq.write_table(pa.table({"URL": ["v1"], "cat": ["z"]}), second)
    index = result(tables([first, second]))
    assert index.columns == ["URL", "cat", "image"] and len(index) == 4
    assert index.record(1) == {"URL": "u2", "cat": "y", "image": {"bytes": png(), "path": None}}
    assert str(index.place(3)) == f"{second}, row 1"
    # The key is the address: rows keep it when others come before them.
    assert (result(tables([second, first])).keys()[1:] == index.keys()[:3]).all()
    # A column that tells no rows apart is no key.
    pq.write_table(pa.table({"id": [0] * 4, "t": ["a", "b", "c", "d"]}), second)
    assert len(np.unique(result(tables([second])).keys())) == 4


def test_lists_of_pictures_whose_paths_are_all_missing_are_read(tmp_path: Path):
    pictures = [[{"bytes": png(), "path": None}, {"bytes": png("blue"), "path": None}]]
    turns = [{"role": "user", "content": "Alike?"}, {"role": "assistant", "content": "No"}]
    table = pa.table({"images": pictures, "messages": [turns]})
    assert table.schema.field("images").type.value_type.field("path").type == pa.null()
    pq.write_table(table, tmp_path / "a.parquet")
    (document,) = [result(open_rows(tmp_path / "a.parquet")).document(0)]
    assert [segment.type for segment in document.segments] == ["image", "image", "text", "text"]


def test_broken_lines_of_csv_are_rows_that_cannot_be_read(tmp_path: Path):
    file = tmp_path / "a.csv"
    file.write_bytes(
        b'\xef\xbb\xbfname,text\r\n0,"a ""b"", c\nline 2"\r\n\r\n1,x,y\n2,\xff\n3,last'
    )
    index = result(tables([file]))
    first, wide, not_text, last = rows_of(index)
    assert first == {"name": "0", "text": 'a "b", c\nline 2'} and last["text"] == "last"
    assert "3 values, and the header 2" in wide and "not UTF-8" in not_text
    assert [index.place(number).line for number in range(4)] == [2, 5, 6, 7]
    file.write_bytes("name;text\r\n0;hä\r\n".encode("utf-16"))
    assert rows_of(result(tables([file]))) == [{"name": "0", "text": "hä"}]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", b"a,a\n1,2", "two columns are called 'a'"),
        ("a.csv", b"", "an empty file"),
        ("a.csv", b"<html><body>", "a web page"),
        ("a.parquet", b"PAR1 and no more", "damaged or cut short"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\nsize 10\n", "Git LFS"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, name: str, content: bytes, problem: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem):
        result(tables([tmp_path / name]))


def test_the_copy_of_a_table_is_made_again_when_it_is_damaged_or_stale(tmp_path: Path, kept: None):
    file, cache = tmp_path / "a.parquet", tmp_path / "cache"
    pq.write_table(pa.table({"t": pa.array(["a", "b"]).dictionary_encode()}), file)
    for damage in (lambda copy: copy.write_bytes(copy.read_bytes()[:-9]), lambda copy: None):
        index = result(tables([file], folder=cache))
        assert rows_of(pickle.loads(pickle.dumps(index))) == [{"t": "a"}, {"t": "b"}]
        [copy] = cache.rglob("*.arrow")
        # A dictionary would be written again with each batch.
        assert pa.ipc.open_file(copy).schema.field("t").type == pa.string()
        damage(copy)
    size = file.stat().st_size
    pq.write_table(pa.table({"t": pa.array(["a", "c"]).dictionary_encode()}), file)
    assert file.stat().st_size == size
    os.utime(file, (1, 1))
    assert rows_of(result(tables([file], folder=cache))) == [{"t": "a"}, {"t": "c"}]
    assert [*cache.rglob("*.arrow")] != [copy] and len([*cache.rglob("*.arrow")]) == 1


def opened(path: Path, **options: Any) -> Any:
    return result(open_rows(path, SourceOptions(**options)))


def values(rows: Any, number: int = 0, visit: int = 0) -> list[str]:
    """The texts of a row, and "picture" for its pictures, with the first letter of the role."""
    return [
        f"{each.role[0]}: {each.value if each.type == 'text' else 'picture'}"
        for each in rows.document(number, visit).segments
    ]


def test_columns_say_what_a_row_becomes(tmp_path: Path):
    picture = [{"bytes": png(), "path": None}]
    chat = [{"from": "human", "value": "<image>\nhi"}, {"from": "gpt", "value": "yes"}]
    cases: list[tuple[dict[str, list[Any]], dict[str, str], list[str]]] = [
        ({"IMG": picture, "Text": ["a cat"]}, {}, ["u: a cat", "m: picture"]),
        (
            {"x": picture, "image": [None], "y": ["a cat"], "text": ["a dog"]},
            {"image": "X", "text": "y"},
            ["u: a cat", "m: picture"],
        ),
        (
            {"original_image": picture, "edit_prompt": ["snow"], "edited_image": picture},
            {},
            ["u: picture", "u: snow", "m: picture"],
        ),
        (
            {"input_image": picture, "edit_prompt": ["snow"], "edited_image": picture},
            {},
            ["u: picture", "u: snow", "m: picture"],
        ),
        (
            {"image": picture, "question": ["how many"], "answer": [2]},
            {},
            ["u: picture", "u: how many", "m: 2"],
        ),
        (
            {"image": picture, "conversations": [chat]},
            {},
            ["u: picture", "u: hi", "m: yes"],
        ),
        (
            {"segments": [[{"type": "text", "role": "model", "value": "a", "path": None}]]},
            {},
            ["m: a"],
        ),
    ]
    for table, columns, expected in cases:
        pq.write_table(pa.table(table), tmp_path / "a.parquet")
        assert values(opened(tmp_path / "a.parquet", columns=columns)) == expected
    pq.write_table(
        pa.table({"image": picture * 2, "captions": [["a", "b"], []]}), tmp_path / "a.parquet"
    )
    rows = opened(tmp_path / "a.parquet")
    assert [values(rows, 0, visit)[0] for visit in (0, 1, 2)] == ["u: a", "u: b", "u: a"]
    with pytest.raises(DataError, match="'captions' is empty") as caught:
        rows.document(1)
    assert caught.value.where.endswith("a.parquet, row 2")


def test_columns_of_one_name_are_refused(tmp_path: Path, kept: None):
    file = tmp_path / "a.parquet"
    columns = [pa.array([png()]), pa.array(["x"]), pa.array(["y"])]
    pq.write_table(pa.Table.from_arrays(columns, ["image", "text", "text"]), file)
    with pytest.raises(DataError, match="two columns are called 'text'") as raised:
        opened(file, index=tmp_path / "cache")
    assert raised.value.where == str(file)


def test_a_list_of_objects_is_not_called_empty(tmp_path: Path):
    answers = [[{"answer": "yes", "answer_id": 1}], [], [None]]
    columns = {"image": [png()] * 3, "question": ["?"] * 3, "answers": answers}
    pq.write_table(pa.table({**columns, "answers": pa.array(answers)}), tmp_path / "a.parquet")
    problems = [opened_fault(tmp_path / "a.parquet", number).message for number in range(3)]
    empty = "column 'answers' is empty"
    assert problems == ["column 'answers' holds a list of dict, and not of texts", empty, empty]


def test_columns_that_make_no_row_are_named(tmp_path: Path):
    file = tmp_path / "a.parquet"
    cases = [
        ({"a": [1], "b": [2]}, {}, "no row can be made", "columns = {image"),
        ({"URL": ["http://x/1.jpg"], "TEXT": ["a"]}, {}, "addresses", "img2dataset"),
        ({"image": ["http://x/1.jpg"], "text": ["a"]}, {}, "addresses", "img2dataset"),
        ({"image": ["1.png"], "text": ["a"]}, {}, "none of 1 pictures", "images"),
        ({"image": ["1.png"], "text": ["a"]}, {"image": "picture"}, "'picture'", "image, text"),
        ({"image": ["1.png"], "text": ["a"]}, {"imagg": "image"}, "'imagg'", "caption"),
    ]
    for table, columns, problem, hint in cases:
        pq.write_table(pa.table(table), file)
        with pytest.raises(DataError, match=problem) as caught:
            opened(file, columns=columns)
        assert hint in caught.value.hint


def test_what_datasets_saved_is_read_with_its_splits(tmp_path: Path):
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    picture = {"bytes": png(), "path": None}
    parts: Any = {
        name: datasets.Dataset.from_dict(
            {"image": [picture] * count, "text": [name] * count}, features
        )
        for name, count in (("train", 3), ("test", 1))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    parts["test"].to_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
    parts["train"].to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    for folder in ("set", "hub"):
        assert len(opened(tmp_path / folder)) == 3
        assert values(opened(tmp_path / folder, split="test")) == ["u: test", "m: picture"]
        with pytest.raises(DataError, match="no split 'other'"):
            opened(tmp_path / folder, split="other")
    assert len(opened(tmp_path / "set" / "train")) == 3
    next((tmp_path / "set" / "train").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="is missing"):
        opened(tmp_path / "set")


def test_only_what_could_be_on_the_hub_is_asked_for_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert is_hub_id(Path("nlphuji/flickr30k"))
    others = [
        "data/train",
        "data",
        "a/b/c",
        "../sets",
        "/sets/coco",
        "~/coco",
        "a/.hidden",
        "b/a.json",
    ]
    assert not any(is_hub_id(Path(name)) for name in others)


# what is kept


def lines_file(path: Path, count: int = 20) -> Path:
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(count)))
    return path


def test_an_index_is_kept_until_its_file_changes(tmp_path: Path, kept: None):
    file, cache = lines_file(tmp_path / "a.jsonl"), tmp_path / "cache"
    events = list[Event]()
    index = result(json_lines(file, folder=cache), events)
    assert any(isinstance(event, Progress) for event in events)
    events.clear()
    again = result(json_lines(file, folder=cache), events)
    assert not events and rows_of(again) == rows_of(index) and again.identity == index.identity
    # 1. Another content of the same size.
    stat = file.stat()
    file.write_text(file.read_text().replace("7", "8"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = result(json_lines(file, folder=cache), events)
    assert events and {"n": 7} not in rows_of(changed) and changed.identity != index.identity
    # 2. The same content, touched or moved.
    lines_file(file)
    moved = tmp_path / "b.jsonl"
    shutil.copy(file, moved)
    for copy in (file, moved):
        assert result(json_lines(copy, folder=cache)).identity == index.identity


@pytest.mark.parametrize("open_file", [json_lines, json_array])
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path, open_file):
    def write(*numbers: int) -> Path:
        records = [json.dumps({"n": number}) for number in numbers]
        text = "[" + ",\n".join(records) + "]" if open_file is json_array else "\n".join(records)
        (tmp_path / "a.json").write_text(text)
        return tmp_path / "a.json"

    index = result(open_file(write(1, 2, 3)))
    write(1, 9, 3)
    assert rows_of(index) == [{"n": 1}, "the file was changed after it was indexed", {"n": 3}]


def by_epoch(path: Path, cache: Path) -> Mixture:
    """Rows of a data set in the order of a training."""
    rows = result(open_rows(path, SourceOptions(index=cache)))
    return Mixture([ShuffledRows("set", rows, np.arange(len(rows)), 0)])


@pytest.mark.parametrize("change", ["rewritten", "replaced", "cut", "longer", "removed"])
def test_a_tar_that_changes_while_it_is_read_ends_a_training(
    tmp_path: Path, kept: None, change: str
):
    members = [(f"{n}.{kind}", png() if kind == "png" else b"a") for n in "ab" for kind in KINDS]
    file = tar(tmp_path / "a.tar", *members)
    index = result(tar_samples([file], folder=tmp_path / "cache"))
    assert index.record(1)["txt"].read() == b"a"
    pickled = pickle.dumps(index)
    mixture, content = by_epoch(file, tmp_path / "cache"), file.read_bytes()
    if change == "rewritten":
        with file.open("r+b") as opened:
            opened.write(content.replace(b"a.txt", b"b.txt"))
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    elif change == "replaced":
        tar(tmp_path / "new", ("a.txt", b"other"), *members).replace(file)
    elif change == "removed":
        file.unlink()
    else:
        os.truncate(file, len(content) - 9000 if change == "cut" else len(content) + 512)
    for late in (index, pickle.loads(pickled)):
        part = late.record(1)["txt"]
        with pytest.raises(ChangedDataError) as raised:
            part.read()
        assert raised.value.where == str(file) and "start again" in raised.value.hint
        with pytest.raises(ChangedDataError):
            MemberPicture(late.record(1)["png"]).load(8)
    with pytest.raises(ChangedDataError):
        mixture(0)
    assert not mixture.faults


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_check_says_of_data_that_changed_what_to_do(tmp_path: Path, workers: int):
    file = tar(tmp_path / "a.tar", ("a.png", png()), ("a.txt", b"a"))
    rows = result(open_rows(file))
    os.utime(file, (1, 1))
    with pytest.raises(ChangedDataError, match="^the file was changed after") as raised:
        [*FaultsOf(rows, "set", lambda document: None, [0]).all(workers)]
    assert raised.value.where == str(file) and "start again" in raised.value.hint


def test_what_datasets_saved_and_writes_anew_is_noticed(tmp_path: Path, kept: None):
    import datasets

    datasets.disable_progress_bars()

    def save(*texts: str) -> None:
        columns = {"image": ["x.png"] * len(texts), "text": [*texts]}
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "set")

    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    save(*"abc")
    mixture = by_epoch(tmp_path / "set", tmp_path / "cache")
    pickled = pickle.dumps(mixture)
    assert mixture(0).segments[0].value in "abc"
    [file] = (tmp_path / "set").glob("*.arrow")
    stat = file.stat()
    with file.open("r+b") as opened:  # the same table with other words, where the first was
        content = opened.read()
        opened.seek(0)
        opened.write(content.replace(b"abc", b"xyz"))
    os.utime(file, ns=(0, stat.st_mtime_ns + 1))
    for late in (mixture, pickle.loads(pickled)):
        with pytest.raises(ChangedDataError, match="changed after it was indexed"):
            late(1)
    # A file that takes its place leaves those who have opened it the one that was indexed.
    mixture = by_epoch(tmp_path / "set", tmp_path / "cache")
    pickled = pickle.dumps(mixture)
    read = {mixture(number).segments[0].value for number in range(3)}
    shutil.copy(file, tmp_path / "new")
    os.utime(tmp_path / "new", (1, 1))
    (tmp_path / "new").replace(file)
    assert {mixture(number).segments[0].value for number in range(3)} == read == {*"xyz"}
    with pytest.raises(ChangedDataError, match="changed after it was indexed"):
        pickle.loads(pickled)(0)


def test_a_table_whose_copy_was_removed_is_named_with_what_to_do(tmp_path: Path, kept: None):
    file, cache = tmp_path / "a.parquet", tmp_path / "cache"
    pq.write_table(pa.table({"t": ["a", "b"]}), file)
    index = result(tables([file], folder=cache))
    late = pickle.loads(pickle.dumps(index))
    pq.write_table(pa.table({"t": ["c", "d", "e"]}), file)
    result(tables([file], folder=cache))  # of another process, which removes the earlier copy
    assert rows_of(index) == [{"t": "a"}, {"t": "b"}]
    with pytest.raises(ChangedDataError, match="copy is no longer there") as raised:
        late.record(0)
    assert raised.value.where == str(file)


@pytest.mark.parametrize("small", [True, False])
def test_a_file_that_grows_while_it_is_indexed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
):
    if not small:
        monkeypatch.setattr(store, "SMALL_BYTES", 0)
    file = lines_file(tmp_path / "a.jsonl")

    def build() -> Generator[Event, None, store.Built]:
        yield Note("")
        with file.open("a") as out:
            out.write("{}\n")
        return {}, {"key": np.arange(3)}

    with pytest.raises(ChangedDataError, match="while it was indexed"):
        result(store.open_index("test", [file], build, tmp_path / "cache"))
    assert not [*tmp_path.rglob("*.index")]


def test_a_table_that_changes_while_it_is_copied_leaves_no_copy(
    tmp_path: Path, kept: None, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "a.csv"
    file.write_text("t\na\n")
    batch = table_file._batch

    def slow(*arguments: Any) -> Any:
        with file.open("a") as out:
            out.write("b\n")
        return batch(*arguments)

    monkeypatch.setattr(table_file, "_batch", slow)
    with pytest.raises(ChangedDataError, match="while it was indexed"):
        result(tables([file], folder=tmp_path / "cache"))
    assert not [*tmp_path.rglob("*.arrow")] + [*tmp_path.rglob("*.index")]


def test_small_data_needs_no_file(tmp_path: Path):
    events = list[Event]()
    result(json_lines(lines_file(tmp_path / "a.jsonl"), folder=tmp_path / "cache"), events)
    assert not (tmp_path / "cache").exists()
    assert not events, "its progress would be 0 of 0 MB"


@pytest.mark.parametrize("damage", ["cut", "flipped", "of another version", "empty"])
def test_a_damaged_index_is_made_again(tmp_path: Path, kept: None, damage: str):
    file, cache = lines_file(tmp_path / "a.jsonl"), tmp_path / "cache"
    expected = rows_of(result(json_lines(file, folder=cache)))
    [path] = cache.glob("*.index")
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-10],
            "flipped": whole[:-70] + bytes([whole[-70] ^ 1]) + whole[-69:],
            "of another version": whole.replace(b"index 1\n", b"index 9\n", 1),
            "empty": b"",
        }[damage]
    )
    events = list[Event]()
    assert rows_of(result(json_lines(file, folder=cache), events)) == expected
    assert events and path.read_bytes() == whole


def test_an_index_that_cannot_be_written_stays_in_memory(tmp_path: Path, kept: None):
    file = lines_file(tmp_path / "a.jsonl", 3)
    (tmp_path / "cache").write_text("a file")
    events = list[Event]()
    assert len(rows_of(result(json_lines(file, folder=tmp_path / "cache"), events))) == 3
    assert any(isinstance(event, Note) and "not kept" in event.message for event in events)


def test_workers_map_the_index_themselves(tmp_path: Path, kept: None):
    file = lines_file(tmp_path / "a.jsonl", 2000)
    index = result(json_lines(file, folder=tmp_path / "cache"))
    pickled = pickle.dumps(index)
    assert len(pickled) < 2000
    assert rows_of(pickle.loads(pickled)) == rows_of(index)
    late = pickle.loads(pickled)
    lines_file(file, 1000)
    result(json_lines(file, folder=tmp_path / "cache"))
    with pytest.raises(DataError, match="replaced while it was in use"):
        late.record(0)


def _open(file: Path, cache: Path, log: Path) -> None:
    def build() -> Generator[Event, None, store.Built]:
        yield Note("")
        with log.open("a") as out:
            out.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return {"made by": os.getpid()}, {"key": np.arange(3)}

    index = result(store.open_index("test", [file], build, cache))
    with log.open("a") as out:
        out.write(f"read {index.about['made by']} {index['key'].sum()}\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the lock is one of POSIX systems")
def test_one_process_makes_an_index_and_others_wait(tmp_path: Path, kept: None):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    arguments = (lines_file(tmp_path / "a.jsonl"), tmp_path / "cache", log)
    processes = [context.Process(target=_open, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    maker, *readers = log.read_text().splitlines()
    assert readers == [f"read {maker} 3"] * 3


def test_the_cache_is_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ORTHUS_CACHE", raising=False)
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert cache_folder() == tmp_path / "orthus"
    monkeypatch.setenv("ORTHUS_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    assert cache_folder(tmp_path / "own") == tmp_path / "own"
