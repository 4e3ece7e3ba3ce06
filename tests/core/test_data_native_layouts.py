"""Data sets in the layouts that they are published in: what becomes a row, and what is named."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from orthus_core.data.document import Document
from orthus_core.data.formats import picture_root
from orthus_core.data.formats.journey_db import plain_prompt
from orthus_core.data.formats.sniff import open_rows
from orthus_core.data.pictures import FilePicture, MemberPicture
from orthus_core.data.rows import Rows, SourceOptions
from orthus_core.errors import DataError
from orthus_core.events import Event

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5140\n"


def picture(colour: str = "red", kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(content, kind)
    return content.getvalue()


RED = picture()


def files(folder: Path, *names: str, **contents: Any) -> Path:
    """Writes pictures of these names, and files with contents: bytes, text, or a JSON value."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(RED)
    for name, content in contents.items():
        put(folder / name, content)
    return folder


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return path


def lines(*records: Any) -> str:
    return "".join(r + "\n" if isinstance(r, str) else json.dumps(r) + "\n" for r in records)


def tar(path: Path, **members: bytes | str) -> Path:
    """Writes a tar; `a__jpg` is the member `a.jpg`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as made:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return path


def parquet(path: Path, **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


class Opened:
    """A data set: its rows, the events of opening it, and the faults of its rows by place."""

    def __init__(self, path: Path, options: SourceOptions | None = None, name: str | None = None):
        self.events: list[Event] = []
        opening = open_rows(path, options, name)
        while True:
            try:
                self.events.append(next(opening))
            except StopIteration as end:
                self.rows: Rows = end.value
                break
        self.documents: list[Document] = []
        self.faults: dict[str, str] = {}
        for number in range(len(self.rows)):
            try:
                self.documents.append(self.rows.document(number))
            except DataError as error:
                place = self.rows.place(number)
                assert error.where == str(place)
                self.faults[str(place).removeprefix(f"{path}").lstrip(":, /")] = error.message

    @property
    def texts(self) -> dict[str, str]:
        """What each usable row is, by its id."""
        return {document.id: text_of(document) for document in self.documents}


def text_of(document: Document) -> str:
    """The segments: `U` and `M` begin turns, pictures are names in brackets."""
    words, role = [], ""
    for segment in document.segments:
        if segment.role != role:
            role = segment.role
            words.append(role[0].upper())
        value = segment.value
        if isinstance(value, FilePicture):
            value = f"[{value.path.name}]"
        elif isinstance(value, MemberPicture):
            value.load(8)
            value = f"[{value.part.name}]"
        words.append(str(value))
    return " | ".join(words)


def says(human: str, gpt: str = "Yes", *more: tuple[str, str]) -> list[dict]:
    turns = [("human", human), ("gpt", gpt), *more]
    return [{"from": who, "value": words} for who, words in turns]


# 1. Conversations.

CHATS: list[dict] = [
    {"id": "first", "image": "a/1.png", "conversations": says("<image>\nIs it?")},
    {"id": 7, "image": "a/1.png", "conversations": says("Is it?\n<image>")},
    {"id": "between", "image": ["a/1.png", "2.png"],
      "conversations": says("First <image> then <image> ?")},
    {"id": "unplaced", "image": ["a/1.png", "2.png"], "conversations": says("Same?")},
    {"id": "later", "image": ["a/1.png", "2.png"],
      "conversations": says("<image>", "A.", ("human", "And <image>?"), ("gpt", "B."))},
    {"id": "text", "conversations": says("Hi", "Hello", ("human", "Bye"), ("gpt", "So long"))},
    {"id": "tag", "image": None, "conversations": says("What does <image> mean in SVG?")},
    {"id": "model first", "image": "2.png",
      "conversations": [{"from": "gpt", "value": "Hm."}, *says("<image>\nIs it?")]},
    {"id": "no answer", "conversations": [*says("Hi", "Hello"),
      {"from": "human", "value": "Bye"}]},
    {"id": "roles", "conversations": [{"role": "system", "content": "Be kind."},
      {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {"id": "draws", "images": ["2.png"], "messages": [{"role": "user", "content": "Draw it."},
      {"role": "assistant", "content": "Here: <image>"}]},
    {"id": "parts", "images": ["2.png"], "messages": [{"role": "user", "content": [
      {"type": "image"}, {"type": "text", "text": "Is it?"}]},
      {"role": "assistant", "content": "Yes"}]},
]  # fmt: skip
TEXTS = {
    "first": "U | [1.png] | Is it? | M | Yes",
    "7": "U | Is it? | [1.png] | M | Yes",
    "between": "U | First | [1.png] | then | [2.png] | ? | M | Yes",
    "unplaced": "U | [1.png] | [2.png] | Same? | M | Yes",
    "later": "U | [1.png] | M | A. | U | And | [2.png] | ? | M | B.",
    "text": "U | Hi | M | Hello | U | Bye | M | So long",
    "tag": "U | What does <image> mean in SVG? | M | Yes",
    "model first": "U | [2.png] | Is it? | M | Yes",
    "no answer": "U | Hi | M | Hello",
    "roles": "U | Be kind.\n\nHi | M | Hello",
    "draws": "U | Draw it. | M | Here: | [2.png]",
    "parts": "U | [2.png] | Is it? | M | Yes",
}
BAD_CHATS = {
    "there is no picture 'gone.png'": {"image": "gone.png", "conversations": says("<image>")},
    "pointer": {"image": "pointer.png", "conversations": says("<image>")},
    "leads out of": {"image": "../../../etc/passwd", "conversations": says("<image>")},
    "has no turns": {"image": "2.png"},
    "'conversations' is missing or empty": {"conversations": []},
    "no answer": {"conversations": says("Hi")[:1]},
    "turn 2 has no words": {"conversations": says("Hi", " ")},
    "turn 2 is of 'bing'": {"conversations": [*says("Hi")[:1], {"from": "bing", "value": "x"}]},
    "turn 1 is a str": {"conversations": ["Hi"]},
    "2 pictures, and 1 times": {"image": ["2.png", "2.png"], "conversations": says("<image>?")},
    "<image>, and no picture": {"conversations": says("<image>\nWhat is it?")},
    "before the user's first turn": {"image": "2.png", "conversations": [
        {"from": "gpt", "value": "<image>"}, *says("Is it?")]},
    "a video": {"video": "1.mp4", "conversations": says("<video>\nWhat?")},
    "is 3, and must be a text": {"image": [3], "conversations": says("<image>")},
    "a list, not an object": [1],
}  # fmt: skip


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    records = [*CHATS, *BAD_CHATS.values()]
    files(tmp_path / "set", "images/a/1.png", "images/2.png")
    put(tmp_path / "set/images/pointer.png", POINTER)
    put(tmp_path / "set/llava_v1_5_mix665k.json", records)
    put(tmp_path / "lines" / "chat.jsonl", lines(*records))
    return tmp_path


def test_a_json_array_of_conversations_is_read_with_its_faults_by_record(chats: Path):
    file = chats / "set" / "llava_v1_5_mix665k.json"
    opened = Opened(file)
    assert opened.texts == TEXTS
    assert all(document.source == file.stem for document in opened.documents)
    numbers = [f"record {len(CHATS) + n + 1}" for n in range(len(BAD_CHATS))]
    assert list(opened.faults) == numbers
    for problem, message in zip(BAD_CHATS, opened.faults.values(), strict=True):
        assert problem in message
    assert Opened(chats / "set").texts == TEXTS  # the file of the folder


def test_conversations_in_lines_are_read_with_pictures_elsewhere(chats: Path):
    file = chats / "lines" / "chat.jsonl"
    with pytest.raises(DataError, match=r"none of \d+ pictures .* is there \(a/1.png, ...\)") as e:
        Opened(file)
    assert e.value.where == str(file) and "`images`" in e.value.hint
    opened = Opened(file, SourceOptions("mine", images=chats / "set" / "images"))
    assert opened.texts == TEXTS and opened.documents[0].source == "mine"
    assert list(opened.faults) == [str(len(CHATS) + n + 1) for n in range(len(BAD_CHATS))]
    with pytest.raises(DataError, match="folder of the pictures does not exist"):
        Opened(file, SourceOptions(images=chats / "nowhere"))


def test_what_a_system_says_is_kept_wherever_it_stands(tmp_path: Path):
    def system(words: str) -> dict:
        return {"from": "System", "value": words}

    chats = {
        "two": [system("Be kind."), system("Be brief."), *says("Hi")],
        "later": [*says("Hi"), system("Now in French."), *says("Bye", "Oui")],
        "empty": [system(""), *says("Hi")],
    }
    records = [{"id": name, "conversations": turns} for name, turns in chats.items()]
    assert Opened(put(tmp_path / "a.json", records)).texts == {
        "two": "U | Be kind.\n\nBe brief.\n\nHi | M | Yes",
        "later": "U | Hi | M | Yes | U | Now in French. | Bye | M | Oui",
        "empty": "U | Hi | M | Yes",
    }


def asked(*parts: dict, answer: Any = "Yes") -> list[dict]:
    return [{"role": "user", "content": [*parts]}, {"role": "assistant", "content": answer}]


def test_parts_of_turns_name_their_pictures(tmp_path: Path):
    text = {"type": "text", "text": "Is it?"}
    encoded = base64.b64encode(RED).decode()
    inside = f"data:image/png;base64,{encoded}"
    chats = {
        "image": asked({"type": "image", "image": "2.png"}, text),
        "address part": asked(text, {"type": "image_url", "image_url": {"url": "a/1.png"}}),
        "plain": asked({"type": "input_image", "image_url": "2.png"}, {"text": "Is it?"}),
        "path": asked({"type": "image", "path": "2.png"}, text),
        "inside": asked({"type": "image_url", "image_url": {"url": inside, "detail": None}}, text),
        "draws": asked(text, answer=[{"type": "image", "image": "a/1.png"}]),
        "unanswered": [
            *asked({"type": "image", "image": "2.png"}, text),
            {"role": "user", "content": [{"type": "image", "image": "gone.png"}]},
        ],
        "system": [
            {"role": "system", "content": [{"type": "image", "image": "a/1.png"}]},
            *asked({"type": "image", "image": "2.png"}),
        ],
        "a path's object": asked({"type": "image", "image": {"path": "2.png", "bytes": None}}),
        "a file's address": asked({"type": "Image", "image": "file://a%2F1.png"}, "Is it?"),
        "wrapped": asked({"type": "image", "image": inside[:60] + "\n" + inside[60:]}),
        "capitals": asked({"type": "image", "image": inside.replace("data", "DATA")}),
        "base64": asked({"type": "image", "image": encoded}),
        "bytes": asked({"type": "image", "image": {"bytes": encoded}}),
        "held by a source": asked({"type": "image", "source": {"type": "base64", "data": encoded}}),
        "one part": [{"role": "user", "content": text}, *asked()[1:]],
    }
    bad = {
        "there is no picture 'gone.png'": asked({"type": "image", "image": "gone.png"}),
        "neither a picture nor its path": asked(text, {"type": "image"}),
        "is an address, https://x/1.png, and nothing": asked(
            {"type": "image_url", "image_url": {"url": "https://x/1.png"}}
        ),
        "not in base64: 'data:image/png,x'": asked({"type": "image", "url": "data:image/png,x"}),
        "is no base64": asked({"type": "image", "url": "data:image/png;base64,é"}),
        "turn 1 has a part of type 'video'": asked({"type": "video", "video": "1.mp4"}, text),
        "turn 1 has a dict in place of a text": asked({"type": "text", "text": {"value": "x"}}),
        "is an address, s3://x/1.png, and nothing": asked(
            {"type": "image", "image": "s3://x/1.png"}
        ),
    }
    files(tmp_path / "images", "a/1.png", "2.png")
    records = [{"id": name, "messages": turns} for name, turns in [*chats.items(), *bad.items()]]
    opened = Opened(put(tmp_path / "chat.jsonl", lines(*records)))
    assert opened.texts == {
        "image": "U | [2.png] | Is it? | M | Yes",
        "address part": "U | Is it? | [1.png] | M | Yes",
        "plain": "U | [2.png] | Is it? | M | Yes",
        "path": "U | [2.png] | Is it? | M | Yes",
        "inside": "U | BytesPicture() | Is it? | M | Yes",
        "draws": "U | Is it? | M | [1.png]",
        "unanswered": "U | [2.png] | Is it? | M | Yes",
        "system": "U | [1.png] | [2.png] | M | Yes",
        "a path's object": "U | [2.png] | M | Yes",
        "a file's address": "U | [1.png] | Is it? | M | Yes",
        "wrapped": "U | BytesPicture() | M | Yes",
        "capitals": "U | BytesPicture() | M | Yes",
        "base64": "U | BytesPicture() | M | Yes",
        "bytes": "U | BytesPicture() | M | Yes",
        "held by a source": "U | BytesPicture() | M | Yes",
        "one part": "U | Is it? | M | Yes",
    }
    assert all(each.load(8)[0, 0, 0] == 255 for one in opened.documents for each in one.pictures)
    for problem, message in zip(bad, opened.faults.values(), strict=True):
        assert problem in message
    put(tmp_path / "gone.jsonl", lines({"messages": bad["there is no picture 'gone.png'"]}))
    with pytest.raises(DataError, match="none of 1 pictures that were looked for"):
        Opened(tmp_path / "gone.jsonl")


def test_pictures_that_are_named_by_an_object_alone_are_looked_for(tmp_path: Path):
    files(tmp_path, "images/2.png")
    record = {"images": [{"path": "2.png", "bytes": None}], "conversations": says("<image>")}
    opened = Opened(put(tmp_path / "chat.jsonl", lines(record)))
    assert opened.texts == {"": "U | [2.png] | M | Yes"}


def test_a_long_text_in_place_of_a_name_is_shown_in_part(tmp_path: Path):
    files(tmp_path, "2.png")
    records = [{"image": name, "conversations": says("<image>")} for name in ("2.png", "a" * 9000)]
    opened = Opened(put(tmp_path / "chat.jsonl", lines(*records)))
    assert len(opened.faults["2"]) < 300
    with pytest.raises(DataError, match="none of 1 pictures") as caught:
        Opened(put(tmp_path / "gone.jsonl", lines(records[1])))
    assert len(caught.value.message) < 300


def test_turns_whose_keys_are_partly_null_are_read(tmp_path: Path):
    said = {"from": None, "value": None}
    turns = [
        {**said, "role": "user ", "content": "How many?"},
        {**said, "role": "assistant", "content": 2},
    ]
    opened = Opened(
        put(tmp_path / "chat.jsonl", lines({"id": None, "conversations": [], "messages": turns}))
    )
    assert opened.texts == {"": "U | How many? | M | 2"}


def test_pictures_of_a_column_and_of_parts_are_read_from_tables(tmp_path: Path):
    named = asked({"type": "image", "image": "2.png"}, {"type": "text", "text": "Is it?"})
    placed = asked({"type": "image"}, {"type": "text", "text": "Is it?"})
    files(tmp_path, "2.png")
    parquet(tmp_path / "named.parquet", messages=[json.dumps(named)], id=["a"])
    parquet(tmp_path / "placed.parquet", messages=[json.dumps(placed)], images=[[RED]], id=["a"])
    for name, shown in [("named", "[2.png]"), ("placed", "BytesPicture()")]:
        texts = Opened(tmp_path / f"{name}.parquet").texts
        assert texts == {"a": f"U | {shown} | Is it? | M | Yes"}, name


def test_pictures_of_a_tables_conversations_are_looked_for(tmp_path: Path):
    files(tmp_path, "images/2.png")
    said = asked({"type": "image", "image": "2.png"}, {"type": "text", "text": "Is it?"})
    parquet(tmp_path / "texts.parquet", messages=[json.dumps(said)], id=["a"])
    both = [{"type": "text", "text": "Is it?", "image": None},
            {"type": "image", "text": None, "image": "2.png"}]  # fmt: skip
    said = asked(*both, answer=[{"type": "text", "text": "Yes", "image": None}])
    parquet(tmp_path / "arrow.parquet", messages=[said], id=["a"])
    assert Opened(tmp_path / "texts.parquet").texts == {"a": "U | [2.png] | Is it? | M | Yes"}
    assert Opened(tmp_path / "arrow.parquet").texts == {"a": "U | Is it? | [2.png] | M | Yes"}


def test_files_of_a_table_may_differ_in_their_columns_case_alone(tmp_path: Path):
    parquet(tmp_path / "a.parquet", image=[RED], text=["a"])
    parquet(tmp_path / "b.parquet", Text=["b"], Image=[RED])
    parquet(tmp_path / "c.parquet", img=[RED], text=["c"])
    opened = Opened(tmp_path)
    assert [one.segments[0].value for one in opened.documents] == ["a", "b"]
    assert [*opened.faults.values()] == ["there is no column 'image' in this file, only img, text"]
    both = parquet(tmp_path / "two/d.parquet", Image=[None], image=[RED], TEXT=["X"], text=["d"])
    assert Opened(both).documents[0].segments[0].value == "d"


def test_files_of_a_table_that_others_say_there_are_are_missed(tmp_path: Path):
    for number in (0, 3):
        parquet(tmp_path / f"data/train-{number:05}-of-00004.parquet", image=[RED], text=["a"])
    parquet(tmp_path / "data/test-00000-of-00002.parquet", image=[RED], text=["a"])
    opened = Opened(tmp_path)
    assert len(opened.documents) == 2
    assert any(
        "2 files of this set are not there: data/train-00001-of-00004.parquet, "
        "data/train-00002-of-00004.parquet" in str(event)
        for event in opened.events
    )


README = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/part-*
  - split: test
    path: ["held/**/*.parquet"]
- config_name: other
  data_dir: other
  data_files: "*.parquet"
---
# A data set
"""


def hub(folder: Path, readme: str = README) -> Path:
    put(folder / "README.md", readme)
    parquet(folder / "data/part-0.parquet", image=[RED], text=["train"])
    parquet(folder / "held/x/part-0.parquet", image=[RED], text=["test"])
    parquet(folder / "other/part-0.parquet", image=[RED], question=["q"], answer=["other"])
    parquet(folder / "spare/part-0.parquet", image=[RED], text=["in no configuration"])
    return folder


def test_a_folder_of_the_hub_is_read_by_the_configurations_of_its_readme(tmp_path: Path):
    def words(path: Path, split: str = "") -> list[object]:
        opened = Opened(path, SourceOptions(split=split))
        assert not opened.faults
        return [one.segments[0].value for one in opened.documents]

    folder = hub(tmp_path / "org" / "name")
    assert words(folder) == words(folder, "train") == ["train"]
    assert words(folder, "test") == ["test"]
    assert len(Opened(folder / "other").documents) == 1
    assert any("other configurations: other" in str(each) for each in Opened(folder).events)
    no_default = hub(tmp_path / "second", README.replace("default", "first"))
    with pytest.raises(DataError, match="several configurations: first, other") as caught:
        Opened(no_default)
    assert str(tmp_path / "second" / "data") in caught.value.hint
    for readme in ("", "# Text", "---\n[\n---\n", "---\nconfigs: 3\n---\n", "---\n- 1\n---\n"):
        assert len(Opened(hub(tmp_path / "third", readme)).rows) == 4, readme
    one = "---\nconfigs:\n- config_name: x\n  data_files: data/*\n---\n"
    assert words(hub(tmp_path / "fourth", one)) == ["train"]


def test_the_name_of_a_split_may_be_followed_by_a_number(tmp_path: Path):
    parquet(tmp_path / "t/train2017.parquet", image=[RED], text=["train"])
    parquet(tmp_path / "t/val2017.parquet", image=[RED], text=["val"])
    assert [one.segments[0].value for one in Opened(tmp_path / "t").documents] == ["train"]
    files(tmp_path / "f", "train2017/a.png", "val2017/b.png")
    put(tmp_path / "f/train2017/a.txt", "train")
    put(tmp_path / "f/val2017/b.txt", "val")
    assert Opened(tmp_path / "f").texts == {"a.png": "U | train | M | [a.png]"}
    for name in ("train1", "test1"):
        put(tmp_path / f"c/{name}.json", [{"id": name, "conversations": says("Hi", "Hello")}])
    assert [*Opened(tmp_path / "c").texts] == ["train1"]
    assert [*Opened(tmp_path / "c", SourceOptions(split="test")).texts] == ["test1"]


def test_a_table_of_text_may_hold_pictures_and_long_values(tmp_path: Path):
    noise = io.BytesIO()
    Image.effect_noise((400, 400), 90).save(noise, "PNG")
    encoded = [base64.b64encode(content).decode() for content in (noise.getvalue(), RED)]
    assert len(encoded[0]) > 131_072, "the csv module's own limit"
    rows = "".join(f"{number}\t{each}\tIs it?\tA\n" for number, each in enumerate(encoded))
    put(tmp_path / "bench.tsv", f"index\timage\tquestion\tanswer\n{rows}")
    opened = Opened(tmp_path / "bench.tsv")
    assert not opened.faults
    assert opened.documents[1].pictures[0].load(8)[0, 0].tolist() == [255, 0, 0]


def test_a_quotation_mark_that_is_not_closed_does_not_join_rows(tmp_path: Path):
    files(tmp_path, "a.png")
    put(tmp_path / "t.csv", 'image,caption\na.png,"two\nlines"\na.png,"open\na.png,b\na.png,c\n')
    opened = Opened(tmp_path / "t.csv")
    assert opened.texts == {"2": "U | two\nlines | M | [a.png]"}
    (problem,) = opened.faults.values()
    assert "quotation mark" in problem and "not closed" in problem


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_one_under_any_suffix(tmp_path: Path, indent: int | None):
    records = [{"id": name, "conversations": says("Hi")} for name in "ab"]
    for name in ("a.jsonl", "a.JSON", "a.JSONL"):
        file = put(tmp_path / name, json.dumps(records, indent=indent))
        assert list(Opened(file).texts) == ["a", "b"], name
    file = put(tmp_path / "lines.jsonl", lines([records[0]], *records))
    opened = Opened(file)
    assert list(opened.texts) == ["a", "b"] and list(opened.faults) == ["1"]


def test_a_list_of_another_layout_is_described(tmp_path: Path):
    for content, said in [
        ([{"image": "a.png", "caption": "a cat"}], "its first record has 'image', 'caption'"),
        ([], "the list holds no record"),
        ([[1]], "its first record is a list, not an object"),
        ({"id": 1, "conversations": says("Hi")}, "it is one object, and not a list of records"),
    ]:
        with pytest.raises(DataError, match=f"this is no known data set: {said}"):
            Opened(put(tmp_path / "a.json", content))
    opened = Opened(put(tmp_path / "a.jsonl", lines({"image": "a.png", "caption": "a cat"})))
    assert opened.faults == {"1": "a record needs a list of 'segments', and has 'image', 'caption'"}


@pytest.mark.parametrize("place", ["", "images", "data"])
def test_the_pictures_of_conversations_are_found_beside_the_file(tmp_path: Path, place: str):
    files(tmp_path / place, "coco/train2017/1.png")
    record = {"id": 1, "image": "coco/train2017/1.png", "conversations": says("<image>\nWhat?")}
    put(tmp_path / "sharegpt4v.json", [record])
    assert Opened(tmp_path / "sharegpt4v.json").texts == {"1": "U | [1.png] | What? | M | Yes"}


def test_of_several_files_of_conversations_the_split_is_read_or_a_name_asked_for(tmp_path: Path):
    for name in ("chat_train", "chat_test"):
        put(tmp_path / f"{name}.json", [{"id": name, "conversations": says("Hi")}])
    assert list(Opened(tmp_path).texts) == ["chat_train"]
    assert list(Opened(tmp_path, SourceOptions(split="test")).texts) == ["chat_test"]
    (tmp_path / "chat_train.json").rename(tmp_path / "other.json")
    with pytest.raises(DataError, match="none of 2 files of records is called 'train'"):
        Opened(tmp_path)


def test_a_split_that_is_not_there_is_never_read_as_another(tmp_path: Path):
    files(tmp_path / "pairs", "a.png")
    put(tmp_path / "pairs/a.txt", "a cat")
    files(tmp_path / "meta", "a.png")
    put(tmp_path / "meta/metadata.jsonl", lines({"file_name": "a.png", "text": "a cat"}))
    segment = {"type": "text", "role": "model", "value": "a"}
    sets = [
        put(tmp_path / "chat/train.json", [{"conversations": says("Hi")}]),
        tmp_path / "chat",
        put(tmp_path / "own/records.jsonl", lines({"segments": [segment]})).parent,
        tar(tmp_path / "train-0.tar", a__jpg=RED, a__txt="x"),
        parquet(tmp_path / "a.parquet", image=[RED], text=["x"]),
        tmp_path / "pairs",
        tmp_path / "meta",
        tmp_path / "meta/metadata.jsonl",
    ]
    for path in sets:
        assert len(Opened(path, SourceOptions(split="train")).documents) == 1, path
        with pytest.raises(DataError, match="there is no split 'test' here") as caught:
            Opened(path, SourceOptions(split="test"))
        assert caught.value.hint == "leave the split out", path


def test_a_field_that_a_layout_does_not_have_is_refused(tmp_path: Path):
    files(tmp_path / "pairs", "a.png")
    put(tmp_path / "pairs/a.txt", "a cat")
    sets = [
        put(tmp_path / "a.json", [{"conversations": says("Hi")}]),
        tar(tmp_path / "a.tar", a__jpg=RED, a__txt="x"),
        tmp_path / "pairs",
        parquet(tmp_path / "a.parquet", image=[RED], text=["x"]),
    ]
    for path in sets:
        with pytest.raises(DataError, match="`columns` has 'capton', which is no field"):
            Opened(path, SourceOptions(columns={"capton": "text"}))


# 2. InstructPix2Pix.


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    folder, listed = tmp_path / "ip2p", []
    for number in range(20):
        name, seeds = f"{number:07d}", ["31", "7", 5]
        files(folder / name, *(f"{seed}_{half}.jpg" for seed in seeds for half in (0, 1)))
        put(folder / name / "prompt.json", {"caption": "a", "edit": f"do {number}", "output": "b"})
        listed.insert(0, [name, seeds])
    put(folder / "seeds.json", listed)
    return folder


def test_an_edit_is_read_with_one_of_its_pairs_and_each_comes_once_in_three_visits(edits: Path):
    rows = Opened(edits).rows
    assert len(rows) == 20
    visits = [rows.document(3, visit) for visit in range(6)]
    assert [text_of(d)[-len("M | [5_1.jpg]") :] for d in visits[:3]] != ["M | [5_1.jpg]"] * 3
    assert {d.id for d in visits[:3]} == {f"0000003/{seed}" for seed in (31, 7, 5)}
    assert visits[:3] == visits[3:]
    seed = visits[0].id.partition("/")[2]
    assert text_of(visits[0]) == f"U | [{seed}_0.jpg] | do 3 | M | [{seed}_1.jpg]"
    # Not all edits begin with the pair that is listed first.
    assert len({rows.document(number).id.partition("/")[2] for number in range(20)}) == 3


def test_the_last_twentieth_of_the_sorted_edits_is_the_test_split(edits: Path):
    names = {
        split: [*Opened(edits, SourceOptions(split=split)).texts] for split in ("train", "test")
    }
    assert [name[:7] for name in names["train"]] == [f"{number:07d}" for number in range(19)]
    assert [name[:7] for name in names["test"]] == ["0000019"]
    with pytest.raises(DataError, match="no split 'validation'"):
        Opened(edits, SourceOptions(split="validation"))


def test_edits_that_lack_something_are_named_by_their_folder(edits: Path):
    (edits / "0000001" / "prompt.json").unlink()
    put(edits / "0000002" / "prompt.json", {"input": "a", "output": "b"})
    put(edits / "0000003" / "prompt.json", "{")
    for half in (0, 1):
        for seed in (31, 7, 5):
            (edits / "0000004" / f"{seed}_{half}.jpg").unlink(missing_ok=half == 1)
    listed = json.loads((edits / "seeds.json").read_text())
    put(edits / "seeds.json", [*listed, ["0000020"], "x", ["../0000001", ["1"]]])
    opened = Opened(edits / "seeds.json")
    assert len(opened.documents) == 16 and len(opened.rows) == 23
    found = {place.removeprefix("../ip2p/"): problem for place, problem in opened.faults.items()}
    named = {Path(place).name: problem for place, problem in found.items()}
    assert "there is no prompt.json" in named["0000001"] or "leads out" in named["0000001"]
    assert "no 'edit'" in named["0000002"] and "cannot read prompt.json" in named["0000003"]
    assert "there is no picture" in named["0000004"]
    assert sum("is not of the form" in problem for problem in opened.faults.values()) == 2
    assert any("leads out of" in problem for problem in opened.faults.values())


# 3. StoryStream.


def story(count: int, name: Any = 102, **more: Any) -> dict:
    images = [f"0/{number}.png" for number in range(count)]
    return {"id": name, "images": images, "captions": [f"c{n}" for n in range(count)], **more}


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    files(tmp_path, *(f"0/{number}.png" for number in range(30)))
    put(
        tmp_path / "train.jsonl",
        lines(
            story(3, orders=[2, 0, 1]),
            story(30, 103, orders=[*range(30)]),
            story(21, 104),
            story(2, 105, captions=["a"]),
            story(2, 106, captions=["a", " "]),
            story(1, 107),
            story(2, 108, images=["0/1.png", "0/40.png"]),
            story(2, 109, orders=[0]),
            "not json",
        ),
    )
    return tmp_path


def test_stories_are_told_in_chunks_of_ten_and_each_has_one_key(stories: Path):
    opened = Opened(stories)
    assert opened.texts["102"] == (
        "U | [1.png] | c1 | Please continue this story. | M | c2 | [2.png] | c0 | [0.png]"
    )
    assert list(opened.texts) == ["102", "103", "103/1", "103/2", "104", "104/1"]
    assert len(opened.documents[1].segments) == 3 + 2 * 9
    assert text_of(opened.documents[3]).startswith("U | [20.png] | c20 | Please")
    keys = opened.rows.keys().tolist()
    assert len(keys) == len(opened.rows) == 12
    assert keys[1] == keys[2] == keys[3] != keys[4] == keys[5]
    assert str(opened.rows.place(2)).endswith("train.jsonl:2, chunk 2")
    problems = [*opened.faults.values()]
    assert problems == [
        "the story has pictures: 2, captions: 1",
        "caption 2 of the story is empty",
        "the story has less than two pictures: nothing follows the first",
        "there is no picture '0/40.png'",
        "the story has pictures: 2, and 'orders' is [0]",
        "the line is no JSON: Expecting value: line 1 column 1 (char 0)",
    ]


# 4. JourneyDB.


def test_the_stories_of_several_files_are_read_together(stories: Path):
    (stories / "train.jsonl").unlink()
    for name, number in (("a", 1), ("b", 2), ("c", 3)):
        put(stories / f"{name}.jsonl", lines(story(3, number)))
    opened = Opened(stories)
    assert list(opened.texts) == ["1", "2", "3"] and len(opened.rows.keys()) == 3
    assert "the stories of 3 files are read together" in str(opened.events)
    put(stories / "val.jsonl", lines(story(3, 4)))
    with pytest.raises(DataError, match="none of 4 files of records is called 'train'"):
        Opened(stories)
    assert list(Opened(stories, SourceOptions(split="val")).texts) == ["4"]


def test_words_of_journeydb_are_the_caption_or_the_prompt_without_parameters(tmp_path: Path):
    files(tmp_path, "imgs/000/a.jpg")
    record = {"img_path": "./000/a.jpg", "prompt": "a cat --ar 3:2 --v 4"}
    put(
        tmp_path / "train_anno_realease_repath.jsonl",
        lines(
            {**record, "Task2": {"Caption": "A cat sits."}},
            {**record, "Task2": None},
            {**record, "prompt": None, "Task2": {"Caption": ""}},
            {**record, "img_path": None},
            {**record, "img_path": "./000/b.jpg"},
            "not json",
        ),
    )
    opened = Opened(tmp_path)
    assert [text_of(d) for d in opened.documents] == [
        "U | A cat sits. | M | [a.jpg]",
        "U | a cat | M | [a.jpg]",
    ]
    assert [d.id for d in opened.documents] == ["000/a.jpg"] * 2
    name = "train_anno_realease_repath.jsonl"
    assert list(opened.faults) == [f"{name}:{line}" for line in (3, 4, 5, 6)]
    assert "there are no words" in opened.faults[f"{name}:3"]
    assert "None, and must be a text" in opened.faults[f"{name}:4"]
    assert Opened(tmp_path / name).texts == opened.texts
    moved = put(tmp_path / "elsewhere" / "x.jsonl", (tmp_path / name).read_text())
    assert Opened(moved, SourceOptions(images=tmp_path / "imgs")).texts == opened.texts


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a cat --ar 3:2 --v 4", "a cat"),
        ("https://a.b/1 <https://a.b/c.png> a cat, up --no dogs, hats --q 2", "a cat, up"),
        ("a cat --v 5.1 --style raw --s 750 --niji", "a cat"),
        ("--ar 3:2 a cat", "a cat"),
        ("a cat::2 hat::-0.5 --testp", "a cat hat"),
        ("a cat —ar 16:9", "a cat"),
        ("a well-known cat -- and a dog", "a well-known cat -- and a dog"),
        ("--v 4", ""),
    ],
)  # fmt: skip
def test_what_steers_midjourney_is_taken_from_a_prompt(prompt: str, words: str):
    assert plain_prompt(prompt) == words


# 5. Tars.


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    words = json.dumps({"caption": "of json", "url": "http://x/2.jpg"})
    tar(
        tmp_path / "wds" / "00000.tar",
        a__jpg=RED, a__txt="a cat\n", a__json=words,
        b__png=RED, b__json=words,
        c__jpg=RED, c__json=json.dumps({"caption": None, "KEY": "c"}),
        d__txt="alone",
        e__jpg=RED, e__txt=b"caf\xe9",
        f__jpg=RED, f__json="{",
    )  # fmt: skip
    tar(
        tmp_path / "wds" / "00001.tar",
        g__input__png=RED, g__output__png=RED, g__instruction__txt="make it red",
        h__one__png=RED, h__two__png=RED, h__txt="two",
        i__webp=picture(kind="WEBP"), i__caption="of caption",
    )  # fmt: skip
    put(tmp_path / "wds" / "00000_stats.json", {"count": 9, "successes": 6})
    return tmp_path / "wds"


TARRED = {
    "a": "U | a cat | M | [a.jpg]",
    "b": "U | of json | M | [b.png]",
    "g": "U | [g.input.png] | make it red | M | [g.output.png]",
    "i": "U | of caption | M | [i.webp]",
}


def test_samples_of_tars_are_read_with_their_faults_by_member(tars: Path):
    opened = Opened(tars)
    assert opened.texts == TARRED
    assert opened.faults == {
        "00000.tar, c.jpg": "there are no words for the picture, only jpg, json",
        "00000.tar, d.txt": "the sample has no picture, only txt",
        "00000.tar, e.jpg": "cannot read the words in e.txt: it is not UTF-8 text, from byte 3 on "
        "(line 1); save it as UTF-8",
        "00000.tar, f.jpg": "cannot read f.json: Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1)",
        "00001.tar, h.one.png": "the sample has 2 pictures: one.png, two.png",
    }
    assert list(Opened(tars / "00001.tar").texts) == ["g", "i"]
    columns = {"caption": "Caption", "image": "two"}
    named = Opened(tars, SourceOptions(columns=columns)).texts
    assert named["a"] == "U | of json | M | [a.jpg]"


def test_a_tar_that_is_cut_short_gives_what_is_whole(tars: Path):
    content = (tars / "00000.tar").read_bytes()
    at = content.index(b"b.json")
    (tars / "00000.tar").write_bytes(content[:at])
    opened = Opened(tars / "00000.tar")
    assert list(opened.texts) == ["a"]
    assert any("cut short" in problem for problem in opened.faults.values())


def test_names_in_tars_may_have_dots(tmp_path: Path):
    file = tar(
        tmp_path / "a.tar",
        **{
            **{"photo.2021.jpg": RED, "photo.2021.txt": "of text"},
            **{"image.v1.5.jpg": RED, "image.v1.5.json": json.dumps({"caption": "of json"})},
            **{"two.1.jpg": RED, "two.1.txt": "one", "two.2.jpg": RED, "two.2.txt": "two"},
        },
    )
    opened = Opened(file)
    assert [text_of(each) for each in opened.documents] == [
        "U | of text | M | [photo.2021.jpg]",
        "U | of json | M | [image.v1.5.jpg]",
    ]
    assert opened.faults == {"two.1.jpg": "the sample has 2 pictures: 1.jpg, 2.jpg"}


def test_tars_may_be_given_by_a_pattern(tmp_path: Path):
    for number in range(12):
        tar(tmp_path / f"t-{number:02}.tar", **{f"{number}__png": RED, f"{number}__txt": "a"})
    counts = {"t-{00..11}.tar": 12, "t-{08..10}.tar": 3, "t-{00,11}.tar": 2, "t-0{3..4}.tar": 2,
              "t-{0,1}{0..1}.tar": 4}  # fmt: skip
    for pattern, count in counts.items():
        assert len(Opened(tmp_path / pattern).documents) == count, pattern
    for pattern in ("t-{8..10}.tar", "t-{10..2000000000}.tar"):
        with pytest.raises(DataError, match=r"the tar t-(8|12).tar of this pattern is not there"):
            Opened(tmp_path / pattern)
    with pytest.raises(DataError, match="there is no tar"):
        Opened(tmp_path / "t-{5..3}.tar")
    tar(tmp_path / "{1,2}.tar", a__png=RED, a__txt="of this name")
    assert len(Opened(tmp_path / "{1,2}.tar").documents) == 1


def test_samples_of_tars_may_be_conversations_or_have_lists_of_captions(tmp_path: Path):
    path = tar(
        tmp_path / "a.tar",
        a__png=RED,
        a__json=json.dumps({"id": 1, "image": "x/a.png", "conversations": says("<image>Is it?")}),
        b__json=json.dumps({"messages": [{"role": "user", "content": "Hi"},
                                         {"role": "assistant", "content": "Hello"}]}),
        c__png=RED,
        c__json=json.dumps({"caption": [None, "one", "two"]}),
        d__png=RED,
        d__txt="the words",
        d__json=json.dumps({"conversations": says("<image>Is it?")}),
        e__png=RED,
        e__json=json.dumps({"conversations": says("<image><image>Is it?")}),
    )  # fmt: skip
    opened = Opened(path)
    assert opened.texts == {
        "a": "U | [a.png] | Is it? | M | Yes",
        "b": "U | Hi | M | Hello",
        "c": "U | one | M | [c.png]",
        "d": "U | the words | M | [d.png]",
    }
    assert text_of(opened.rows.document(2, 1)) == "U | two | M | [c.png]"
    assert opened.faults == {"e.png": "the record has 1 picture, and 2 times <image>"}


def test_what_img2dataset_wrote_as_files_is_read_though_its_table_lies_beside(tmp_path: Path):
    files(tmp_path, "00000/000000000.jpg")
    put(tmp_path / "00000/000000000.txt", "a cat")
    parquet(tmp_path / "00000.parquet", url=["http://x/1.jpg"], key=["000000000"], caption=["x"])
    assert [text_of(each) for each in Opened(tmp_path).documents] == [
        "U | a cat | M | [000000000.jpg]"
    ]


def test_the_split_of_tars_is_in_their_names(tmp_path: Path):
    for name in ("train-0000", "train-0001", "val-0000"):
        tar(tmp_path / "data" / f"{name}.tar", **{f"{name}__jpg": RED, f"{name}__txt": "x"})
    opened = Opened(tmp_path)
    assert list(opened.texts) == ["train-0000", "train-0001"]
    assert "`train` is read; `split` names others: validation" in str(opened.events)
    assert list(Opened(tmp_path, SourceOptions(split="validation")).texts) == ["val-0000"]
    with pytest.raises(DataError, match="no split 'test'") as caught:
        Opened(tmp_path, SourceOptions(split="test"))
    assert caught.value.hint == "there are train, validation"


def test_captions_of_laions_parquet_file_are_joined_by_key_or_address(tars: Path):
    parquet(
        tars / "part-00000.parquet",
        URL=["http://x/1.jpg", "http://x/2.jpg", None],
        KEY=["c", "none", "f"],
        TEXT=["alt one", "alt two", "alt three"],
        top_caption=["of the table", "two", ""],
    )
    text_of = Opened(tars).texts
    assert text_of == {
        **TARRED, "c": "U | of the table | M | [c.jpg]", "f": "U | alt three | M | [f.jpg]"
    }  # fmt: skip
    columns = {"caption": "TEXT"}
    alts = Opened(tars, SourceOptions(columns=columns)).texts
    assert alts["b"] == "U | alt two | M | [b.png]" and alts["c"] == "U | alt one | M | [c.jpg]"


# 6. Folders of pictures.


def test_metadata_may_be_csv_or_parquet(tmp_path: Path):
    files(tmp_path / "csv", "cup.png", "b.png")
    text = '\ufefffile_name,text\r\ncup.png,"a red cup, empty"\r\nb.png,\r\nnone.png,x\r\n'
    put(tmp_path / "csv" / "metadata.csv", text)
    opened = Opened(tmp_path / "csv")
    assert opened.texts == {"cup.png": "U | a red cup, empty | M | [cup.png]"}
    assert opened.faults == {
        "metadata.csv:3": "there are no words for the picture",
        "metadata.csv:4": "there is no picture 'none.png'",
    }
    files(tmp_path / "table", "cup.png")
    parquet(tmp_path / "table/metadata.parquet", file_name=["cup.png"], text=[None], caption=["x"])
    assert Opened(tmp_path / "table").texts == {"cup.png": "U | x | M | [cup.png]"}


def test_each_split_may_have_its_own_metadata(tmp_path: Path):
    for split in ("train", "test"):
        files(tmp_path / split, "cup.png")
        row = {"file_name": "cup.png", "text": f"of {split}"}
        put(tmp_path / split / "metadata.jsonl", lines(row))
    opened = Opened(tmp_path)
    assert [text_of(d) for d in opened.documents] == ["U | of train | M | [cup.png]"]
    assert "`split` names others: test" in str(opened.events)
    tested = Opened(tmp_path, SourceOptions(split="test"))
    assert [text_of(d) for d in tested.documents] == ["U | of test | M | [cup.png]"]
    with pytest.raises(DataError, match="no split 'validation'") as caught:
        Opened(tmp_path, SourceOptions(split="validation"))
    assert caught.value.hint == "there are test, train"
    (tmp_path / "train").rename(tmp_path / "cats")
    (tmp_path / "test").rename(tmp_path / "dogs")
    both = Opened(tmp_path)
    assert [text_of(d) for d in both.documents] == [
        "U | of train | M | [cup.png]", "U | of test | M | [cup.png]"
    ]  # fmt: skip
    assert [str(both.rows.place(n).file.parent.name) for n in (0, 1)] == ["cats", "dogs"]


def test_captioned_pictures_may_lie_in_folders_of_splits(tmp_path: Path):
    for split in ("train", "val"):
        files(tmp_path / split, "cup.png")
        put(tmp_path / split / "cup.txt", f"of {split}")
    opened = Opened(tmp_path)
    assert [text_of(each) for each in opened.documents] == ["U | of train | M | [cup.png]"]
    assert "`split` names others: validation" in str(opened.events)
    (held_out,) = Opened(tmp_path, SourceOptions(split="validation")).documents
    assert text_of(held_out) == "U | of val | M | [cup.png]" and held_out.source == tmp_path.name
    with pytest.raises(DataError, match="no split 'test'") as caught:
        Opened(tmp_path, SourceOptions(split="test"))
    assert caught.value.hint == "there are train, validation"
    files(tmp_path, "loose.png")
    put(tmp_path / "loose.txt", "beside them")
    assert len(Opened(tmp_path).documents) == 3


def test_accents_of_names_are_those_of_any_system(tmp_path: Path):
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        folder = files(tmp_path / form, unicodedata.normalize(form, "café.png"))
        row = {"file_name": unicodedata.normalize(other, "café.png"), "text": "x"}
        put(folder / "metadata.jsonl", lines(row))
        assert len(Opened(folder).documents) == 1


def test_a_suffix_may_be_in_capitals_where_no_file_has_the_name_itself(tmp_path: Path):
    files(tmp_path, "a.PNG", "b.png", "c.png")
    (tmp_path / "c.png").rename(tmp_path / "c.Png")
    names = {"a": "a.png", "b": "b.PNG", "c": "c.png"}
    rows = ({"file_name": name, "text": stem} for stem, name in names.items())
    put(tmp_path / "metadata.jsonl", lines(*rows))
    opened = Opened(tmp_path)
    assert [text_of(each) for each in opened.documents] == [
        "U | a | M | [a.PNG]",
        "U | b | M | [b.png]",
    ]
    named = "there is no picture 'c.png' (did you mean 'c.Png'?)"
    assert opened.faults == {"metadata.jsonl:3": named}
    files(tmp_path, "a.png")
    assert text_of(Opened(tmp_path).documents[0]) == "U | a | M | [a.png]"


@pytest.mark.skipif(
    Path(__file__.upper()).exists(), reason="names are equal here if they differ in case alone"
)
def test_a_name_that_differs_in_case_is_a_fault_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files(tmp_path, "Images/a.png", "Images/B.png", "Images/b.png", "Images/É.png", "x.png")
    there = lines({"file_name": "x.png", "text": "x"})
    for name, near in {
        "images/A.png": "Images/a.png",
        "images\\A.PNG": "Images/a.png",
        "images/e\N{COMBINING ACUTE ACCENT}.png": "Images/É.png",
        "Images/../IMAGES/a.png": "Images/a.png",
        "images/B.png": "Images/B.png",
        "IMAGES/B.PNg": "",  # which of two is not known
        "images/c.png": "",
        "other/A.png": "",
        "images": "",
    }.items():
        put(tmp_path / "metadata.jsonl", there + lines({"file_name": name, "text": "y"}))
        meant = f" (did you mean {near!r}?)" if near else ""
        problem = f"there is no picture {name!r}{meant}"
        assert Opened(tmp_path).faults == {"metadata.jsonl:2": problem}
    # None of them is there, and nothing is known of folders too large to be listed for a hint.
    put(tmp_path / "chats.json", [{"image": "images/A.png", "conversations": says("<image>")}])
    with pytest.raises(DataError, match=r"\(images/A.png \(did you mean 'Images/a.png'\?\)\)"):
        Opened(tmp_path / "chats.json")
    monkeypatch.setattr(picture_root, "_MOST_NAMES", 2)
    picture_root._by_folded_name.cache_clear()
    with pytest.raises(DataError, match=r"\(images/A.png\)"):
        Opened(tmp_path / "chats.json")
    picture_root._by_folded_name.cache_clear()


def test_a_path_elsewhere_is_named_with_the_folder_and_how_to_set_another(tmp_path: Path):
    files(tmp_path, "pictures/a.png", "set/b.png")
    path = str(tmp_path / "pictures" / "a.png")
    put(tmp_path / "set" / "metadata.jsonl", lines({"file_name": path, "text": "x"}))
    [problem] = Opened(tmp_path / "set").faults.values()
    assert problem.endswith(
        f"leads out of the data folder {tmp_path / 'set'} (`images` sets another)"
    )
    opened = Opened(tmp_path / "set", SourceOptions(images=tmp_path / "pictures"))
    assert opened.texts == {"a.png": "U | x | M | [a.png]"}


def test_words_whose_name_differs_in_case_are_named(tmp_path: Path):
    files(tmp_path, "a.png", "B.png", **{"a.txt": "a cup", "b.txt": "a cat"})
    assert Opened(tmp_path).faults == {
        "B.png": "there is no B.txt beside it (did you mean 'b.txt'?)"
    }


def test_lists_of_pictures_that_are_not_read_are_named(tmp_path: Path):
    files(tmp_path, "a.png", "b.png")
    put(tmp_path / "captions.csv", "name,words\na.png,a cat\n")
    with pytest.raises(DataError, match="none of 2 pictures has words") as caught:
        Opened(tmp_path)
    assert "(captions.csv is not read)" in caught.value.hint
    put(tmp_path / "metadata.csv", "file_name,words\na.png,a cat\nb.png,a dog\n")
    put(tmp_path / "metadata.jsonl", lines({"file_name": "a.png", "text": "a cat"}))
    assert "1 beside metadata.jsonl (metadata.csv)" in map(str, Opened(tmp_path).rows.passed_over)
    opened = Opened(tmp_path, SourceOptions(columns={"caption": "wrods"}))
    assert opened.faults == {"metadata.jsonl:1": "there are no words for the picture in 'wrods'"}


def test_metadata_has_pairs_backslashes_lists_and_empty_captions(tmp_path: Path):
    files(tmp_path, "images/a.png", "b.png", "c.png")
    pair = {"original_image_file_name": "b.png", "edited_image_file_name": "c.png"}
    put(
        tmp_path / "metadata.jsonl",
        lines(
            {"file_name": "images\\a.png", "text": None, "caption": " ", "prompt": "a cup"},
            {**pair, "edit_prompt": "make it green"},
            {"original_image": "b.png", "edited_image": "c.png", "text": "make it red"},
            {**pair, "edit_prompt": ""},
            {"file_name": "b.png", "caption": ["one", None, "two"]},
            {"file_name": "..\\b.png", "text": "x"},
            {"file_name": None, "text": "x"},
        ).encode("utf-8-sig"),
    )
    opened = Opened(tmp_path)
    assert [text_of(d) for d in opened.documents] == [
        "U | a cup | M | [a.png]",
        "U | [b.png] | make it green | M | [c.png]",
        "U | [b.png] | make it red | M | [c.png]",
        "U | one | M | [b.png]",
    ]
    assert text_of(opened.rows.document(4, visit=1)) == "U | two | M | [b.png]"
    assert list(opened.faults) == [f"metadata.jsonl:{line}" for line in (4, 6, 7)]
    assert "leads out of" in opened.faults["metadata.jsonl:6"]


def test_byte_order_marks_in_fields_are_no_words_and_numbers_are(tmp_path: Path):
    files(tmp_path / "set", "a.png")
    words = ["\ufeffa cup", "\ufeff", 7, True]
    records = [{"file_name": "a.png", "text": each} for each in words]
    put(tmp_path / "set" / "metadata.jsonl", lines(*records))
    opened = Opened(tmp_path / "set")
    assert [one.segments[0].value for one in opened.documents] == ["a cup", "7"]
    assert len(opened.faults) == 2


@pytest.mark.parametrize("layout", ["metadata", "records", "chat", "tar"])
def test_a_folder_of_pictures_that_does_not_exist_is_named(tmp_path: Path, layout: str):
    files(tmp_path, "a.png")
    path = {
        "metadata": lambda: put(
            tmp_path / "metadata.jsonl", lines({"file_name": "a.png", "text": "a"})
        ),
        "records": lambda: put(tmp_path / "r.jsonl", lines({"segments": []})),
        "chat": lambda: put(tmp_path / "c.jsonl", lines({"conversations": says("Hi")})),
        "tar": lambda: tar(tmp_path / "a.tar", a__png=RED, a__txt="a"),
    }[layout]()
    with pytest.raises(DataError, match="folder of the pictures does not exist"):
        Opened(path, SourceOptions(images=tmp_path / "gone"))


def test_columns_may_have_names_of_their_own(tmp_path: Path):
    files(tmp_path, "a.png", "b.png")
    row = {"img": "a.png", "before": "b.png", "alt": "a cup", "text": "not this"}
    put(tmp_path / "metadata.jsonl", lines(row))
    columns = {"image": "img", "caption": "alt"}
    assert list(Opened(tmp_path, SourceOptions(columns=columns)).texts.values()) == [
        "U | a cup | M | [a.png]"
    ]
    columns = {"source": "before", "target": "img", "instruction": "alt"}
    assert list(Opened(tmp_path, SourceOptions(columns=columns)).texts.values()) == [
        "U | [b.png] | a cup | M | [a.png]"
    ]


def test_our_records_may_be_an_array_and_a_missing_picture_is_named(tmp_path: Path):
    files(tmp_path, "a.png")

    def record(name: str) -> dict:
        image = {"type": "image", "role": "model", "path": name}
        return {"id": name, "segments": [{"type": "text", "role": "user", "value": "x"}, image]}

    put(tmp_path / "all.json", [record("a.png"), record("b.png"), record("A.png")])
    opened = Opened(tmp_path / "all.json")
    assert opened.texts == {"a.png": "U | x | M | [a.png]"}
    assert opened.faults == {
        "record 2": "there is no picture 'b.png'",
        "record 3": "there is no picture 'A.png' (did you mean 'a.png'?)",
    }


# 7. What cannot be used.


def coco(folder: Path) -> Path:
    files(folder, "train2017/1.png")
    annotations = [{"image_id": 1, "caption": "a cat"}]
    put(folder / "annotations" / "captions.json", {"images": [], "annotations": annotations})
    return folder


def of_addresses(folder: Path) -> Path:
    parquet(folder / "part-0.parquet", URL=["http://x/1.jpg"], TEXT=["a"], top_caption=["aa"])
    return folder


def without_successes(folder: Path) -> Path:
    tar(folder / "00000.tar")
    put(folder / "00000_stats.json", {"count": 4, "successes": 0, "status_dict": {"404": 4}})
    return folder


def without_seeds(folder: Path) -> Path:
    files(folder / "0000000", "1_0.jpg", "1_1.jpg")
    put(folder / "0000000" / "prompt.json", {"edit": "x"})
    return folder


def packed(folder: Path) -> Path:
    put(folder / "000.tgz", b"\x1f\x8b" + bytes(50))
    return folder


def downloading(folder: Path) -> Path:
    put(folder / "train.parquet.incomplete", b"PAR1")
    return folder


def pointer_beside(folder: Path) -> Path:
    files(folder, "images/a.png")
    put(folder / "train.json", POINTER)
    return folder


BAD: dict[str, tuple[Any, str, str]] = {
    "coco": (coco, "COCO annotations", "metadata.jsonl"),
    "coco's file": (lambda f: coco(f) / "annotations" / "captions.json", "COCO", "file_name"),
    "addresses": (
        of_addresses,
        "addresses, without pictures: URL, TEXT",
        "--url_col URL --caption_col top_caption",
    ),
    "addresses' file": (
        lambda f: of_addresses(f) / "part-0.parquet",
        "table of addresses",
        "img2dataset",
    ),
    "no successes": (without_successes, "downloaded none of 4 pictures", "status_dict"),
    "an empty tar": (lambda f: tar(f / "a.tar"), "the tar holds no files", "again"),
    "no seeds": (without_seeds, r"InstructPix2Pix \(0000000/prompt.json\)", "seeds.json"),
    "seeds cut short": (
        lambda f: put(f / "seeds.json", '[["0000000", ["1"'),
        "cannot read the list of edits",
        "",
    ),
    "seeds of another form": (
        lambda f: put(f / "seeds.json", {"0000000": ["1"]}),
        "empty, or no list",
        "3101454402",
    ),
    "seeds that are a pointer": (
        lambda f: put(f / "seeds.json", POINTER),
        "Git LFS pointer",
        "git lfs pull",
    ),
    "packed": (packed, "data here is packed: 000.tgz", "unpack"),
    "a packed tar": (lambda f: packed(f) / "000.tgz", "compressed", "unpack"),
    "a page for a tar": (
        lambda f: put(f / "a.tar", "<!doctype html><title>Log in</title>"),
        "a web page",
        "",
    ),
    "a pointer for a tar": (lambda f: put(f / "a.tar", POINTER), "Git LFS pointer", "git lfs pull"),
    "a pointer for records": (
        lambda f: put(f / "a.jsonl", POINTER),
        "Git LFS pointer",
        "git lfs pull",
    ),
    "a pointer for a json file": (
        lambda f: put(f / "a.json", POINTER),
        "Git LFS pointer",
        "git lfs pull",
    ),
    "a pointer beside pictures": (pointer_beside, "Git LFS pointer", "git lfs pull"),
    "a download that goes on": (downloading, "1 downloads in this folder have not ended", "wait"),
    "pictures alone": (
        lambda f: files(f, "a.png", "b.png"),
        "none of 2 pictures has words: there is no a.txt",
        "metadata.jsonl",
    ),
    "metadata of another set": (
        lambda f: put(f / "metadata.csv", "id,url\n1,x\n").parent,
        "no column 'file_name' with names of pictures, only id, url",
        "columns",
    ),
    "metadata without a header": (
        lambda f: put(f / "metadata.csv", "").parent,
        "empty file, of 0 bytes",
        "",
    ),
    "questions": (
        lambda f: put(f / "q.json", {"questions": [], "license": {}}),
        "VQA questions",
        "LLaVA",
    ),
    "a database": (
        lambda f: put(f / "set" / "data.mdb", b"\0").parent,
        "an LMDB database",
        "convert",
    ),
    "records further down": (
        lambda f: (
            files(f, "data/train/imgs/000/a.jpg"),
            put(f / "data/train/anno.jsonl", lines({"img_path": "./000/a.jpg", "prompt": "p"})),
            f,
        )[-1],
        r"records of this folder lie further down \(data/train\)",
        "data/train",
    ),
    "addresses in CSV": (
        lambda f: put(f / "cc.tsv", "caption\turl\na cat\thttp://x/1.jpg\n"),
        "table of addresses, without pictures: caption, url",
        "--input_format tsv",
    ),
    "an object": (lambda f: put(f / "a.json", {"a": 1}), "no known data set", "LLaVA"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_layout_that_cannot_be_used_is_named_with_what_to_do(tmp_path: Path, name: str):
    make, problem, hint = BAD[name]
    (tmp_path / "set").mkdir()
    path = make(tmp_path / "set")
    with pytest.raises(DataError, match=problem) as caught:
        Opened(path)
    assert hint in caught.value.hint and str(tmp_path) in caught.value.where
