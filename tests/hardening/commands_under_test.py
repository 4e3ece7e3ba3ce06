"""The commands whose outputs have to survive, each with what it reads, what it makes, and how to
see that something there is half or gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from orthus_core.data.latent_shards import HEADER_BYTES, KEY, checksum, record_bytes
from orthus_core.results.metadata import pixel_hash
from orthus_core.train.state import files_of, saved_steps, state_path, training_folder
from tests.conftest import lines_of_metrics
from tests.core.toy_data import SHORT, interleaved, pictures_with_words
from tests.discrete import write_tiny_chameleon

Run = Callable[[list[str]], Any]

LEFT_BY_A_KILL = (".partial-", ".orthus-partial-", ".orthus-former-", ".orthus-moving-")
LAST_CHUNK = b"\0\0\0\0IEND\xaeB`\x82"
UNFINISHED = (".partial-", ".orthus-partial-", ".orthus-probe-")
"""What never held anything whole, and is cleared by the next process."""

NOTES = "a file of the user's, which no command may touch"


class Sources(NamedTuple):
    """What the commands read, and none of them writes to."""

    model: Path
    chameleon: Path
    pictures: Path
    records: Path

    @classmethod
    def make(cls, folder: Path, model: Path) -> Sources:
        return cls(
            model,
            write_tiny_chameleon(folder / "chameleon", model),
            pictures_with_words(folder / "pictures", 12),
            interleaved(folder / "rows", 10),
        )


class CommandUnderTest:
    """A command that writes into a place, and goes on by the same words after any end.

    Attributes:
        kind: Its name in the table.
    """

    kind = ""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    def words(self, place: Path, seed: int = 1) -> list[str]:
        """What is typed; two seeds lead to two results, where the command has a seed."""
        raise NotImplementedError

    def earlier(self, place: Path, run: Run) -> None:
        """Write what an earlier run would have left, other than the result."""

    def result(self, place: Path) -> Any:
        """What was made, in a form in which equal results are equal."""
        raise NotImplementedError

    def lost(self, before: Path, place: Path, whole: Any) -> list[str]:
        """What of an earlier result is gone from a place where the command was stopped; what the
        whole new result has replaced is not.
        """
        raise NotImplementedError

    def half(self, place: Path) -> list[str]:
        """What of a place looks finished and is not."""
        return [str(path.relative_to(place)) for path in finished(place) if not reads(path)]


class Story(CommandUnderTest):
    kind = "story"

    def words(self, place: Path, seed: int = 1) -> list[str]:
        how = ["--panels", "2", "--steps", "1", "--max-new-tokens", "4", "--seed", str(seed)]
        model = ["-m", str(self.sources.model), "--device", "cpu"]
        return ["story", "a red fox", "-o", str(place / "told"), "--overwrite", *how, *model]

    def earlier(self, place: Path, run: Run) -> None:
        assert run(self.words(place, seed=9)).exit_code == 0
        (place / "told" / "notes.txt").write_text(NOTES)

    def result(self, place: Path) -> Any:
        told = json.loads((place / "told" / "story.json").read_text())
        panels = [(panel["text"], panel.get("pixels")) for panel in told["panels"]]
        files = [place / "told" / each["image"] for each in told["panels"] if "image" in each]
        return panels, [pixels_of(path) for path in files]

    def half(self, place: Path) -> list[str]:
        found = super().half(place)
        if (place / "told" / "story.json").exists() and not found:
            named = json.loads((place / "told" / "story.json").read_text())["panels"]
            names = [each["image"] for each in named if "image" in each]
            if missing := [name for name in names if not (place / "told" / name).exists()]:
                return missing
            panels, pixels = self.result(place)
            found += ["story.json"] * ([each[1] for each in panels if each[1]] != pixels)
        return found

    def lost(self, before: Path, place: Path, whole: Any) -> list[str]:
        return lost_files(before, place, self._is_whole(place, whole))

    def _is_whole(self, place: Path, whole: Any) -> bool:
        return (place / "told" / "story.json").exists() and self.result(place) == whole


class Conversion(CommandUnderTest):
    kind = "conversion"

    def words(self, place: Path, seed: int = 1) -> list[str]:
        how = ["--head-width", str(16 + 16 * seed), "--set", "check.codes=8", "--overwrite"]
        return ["convert", str(self.sources.chameleon), "-o", str(place / "model"), *how]

    def earlier(self, place: Path, run: Run) -> None:
        assert run(self.words(place, seed=2)).exit_code == 0
        (place / "model" / "notes.txt").write_text(NOTES)

    def result(self, place: Path) -> Any:
        return weights_of(place / "model")

    def half(self, place: Path) -> list[str]:
        found, model = super().half(place), place / "model"
        if (model / "config.json").exists() and not (model / "model.safetensors").exists():
            found.append("model.safetensors")
        return found

    def lost(self, before: Path, place: Path, whole: Any) -> list[str]:
        is_whole = (place / "model" / "config.json").exists() and self.result(place) == whole
        return lost_files(before, place, is_whole)


class Captions(CommandUnderTest):
    kind = "caption folders"

    def words(self, place: Path, seed: int = 1, question: str = "what is this?") -> list[str]:
        model = ["-m", str(self.sources.model), "--device", "cpu", "--batch-size", "1"]
        how = ["--max-new-tokens", "2", "--question", question]
        asked = ["caption", str(self.sources.pictures), "-o", str(place / "answers.jsonl")]
        return [*asked, *how, *model]

    def earlier(self, place: Path, run: Run) -> None:
        assert run(self.words(place, question="a square?")).exit_code == 0

    def result(self, place: Path) -> Any:
        """Each answer to the question of the run, once."""
        found = [
            (entry["image"], entry["text"])
            for entry in self._entries(place)
            if entry["question"] == "what is this?"
        ]
        return sorted(found)

    def lost(self, before: Path, place: Path, whole: Any) -> list[str]:
        there, lines = (
            (each / "answers.jsonl").read_bytes().splitlines()
            if (each / "answers.jsonl").exists()
            else []
            for each in (place, before)
        )
        return [f"an earlier answer: {line!r}" for line in lines if line not in there]

    def _entries(self, place: Path) -> list[dict[str, Any]]:
        lines = (place / "answers.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


class Encoding(CommandUnderTest):
    kind = "encoding"

    def words(self, place: Path, seed: int = 1, source: Path | None = None) -> list[str]:
        of = ["-m", str(self.sources.model), "-o", str(place / "cache")]
        return ["data", "encode", str(source or self.sources.pictures), *of]

    def earlier(self, place: Path, run: Run) -> None:
        few = pictures_with_words(place.with_name("few"), 4)
        assert run(self.words(place, source=few)).exit_code == 0

    def result(self, place: Path) -> Any:
        """The features by the digest of their picture; those of damaged records are None."""
        found: dict[bytes, bytes | None] = {}
        for data in (place / "cache").glob("features-*/shard-*.bin"):
            content = data.read_bytes()
            if len(content) < HEADER_BYTES:  # a killed process began the shard
                continue
            about = json.loads(content[:HEADER_BYTES])
            size = record_bytes(about["shape"], np.dtype(about["dtype"]))
            records, keys = content[HEADER_BYTES:], data.with_suffix(".keys").read_bytes()
            count = min(len(records) // size, len(keys) // KEY.itemsize)
            for at in range(count):
                key = keys[at * KEY.itemsize : (at + 1) * KEY.itemsize]
                record = records[at * size : (at + 1) * size]
                is_right = checksum(record, key[:16]) == int.from_bytes(key[16:], "little")
                found[key[:16]] = record if is_right else None
        return found

    def half(self, place: Path) -> list[str]:
        return [f"record {key.hex()}" for key, each in self.result(place).items() if each is None]

    def lost(self, before: Path, place: Path, whole: Any) -> list[str]:
        now = self.result(place)
        then = self.result(before)
        return [f"features of {key.hex()}" for key in then if now.get(key) != then[key]]


class Training(CommandUnderTest):
    kind = "training"

    def words(self, place: Path, seed: int = 1) -> list[str]:
        sets = (*SHORT, "log.save_every=1", f"data.source={json.dumps(str(self.sources.records))}")
        start = ["--init-from", str(self.sources.model), "--resume", "auto"]
        how = [word for each in (*sets, f"seed={seed}") for word in ("--set", each)]
        return ["posttrain", "-o", str(place / "model"), *start, *how]

    def earlier(self, place: Path, run: Run) -> None:
        """Nothing: what a kill has left is what the next one finds."""

    def result(self, place: Path) -> Any:
        figures = training_folder(place / "model") / "metrics.jsonl"
        return weights_of(place / "model"), lines_of_metrics(figures)

    def half(self, place: Path) -> list[str]:
        found = super().half(place)
        folder = training_folder(place / "model")
        for step in saved_steps(folder) if folder.is_dir() else []:
            state = state_path(folder, step)
            for file in files_of(state) or []:
                path = state / file.name
                if not path.exists() or path.stat().st_size != file.bytes:
                    found.append(f"{state.name}/{file.name}")
        return found

    def lost(self, before: Path, place: Path, whole: Any) -> list[str]:
        then, now = (saved_steps(training_folder(each / "model")) for each in (before, place))
        return [f"the states after {then}"] if then and max(now, default=0) < max(then) else []


KINDS: dict[str, type[CommandUnderTest]] = {
    each.kind: each for each in (Training, Conversion, Captions, Encoding, Story)
}


def finished(place: Path) -> list[Path]:
    """The files of a place that are not marked as unfinished."""
    return [
        path
        for path in sorted(place.rglob("*"))
        if path.is_file()
        and not any(mark in str(path.relative_to(place)) for mark in LEFT_BY_A_KILL)
    ]


def left_behind(place: Path) -> list[str]:
    """What a command that has ended should have cleared away."""
    names = [str(path.relative_to(place)) for path in sorted(place.rglob("*"))]
    marks = (*LEFT_BY_A_KILL, *UNFINISHED, "run.lock")
    return [name for name in names if any(mark in name for mark in marks)]


def reads(path: Path) -> bool:
    """Whether a file is whole, by what its name says that it is."""
    try:
        if path.suffix == ".png":
            pixels_of(path)
            return path.read_bytes().endswith(LAST_CHUNK)  # which Pillow does without
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            text = path.read_text()
            [json.loads(line) for line in text.splitlines()]
            return not text or text.endswith("\n")
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".html":
            return path.read_text().rstrip().endswith("</html>")
    except Exception:
        return False
    return True


def pixels_of(path: Path) -> str:
    with Image.open(path) as image:
        image.load()
        return pixel_hash(image)


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def lost_files(before: Path, place: Path, is_replaced: bool) -> list[str]:
    """Files of an earlier result that are nowhere any more, and files of the user's that are not
    where they were.
    """
    found = [
        str(path.relative_to(before))
        for path in before.rglob("notes.txt")
        if not (place / path.relative_to(before)).exists()
    ]
    if is_replaced:
        return found
    there = {path.read_bytes() for path in place.rglob("*") if path.is_file()}
    earlier = (
        path
        for path in before.rglob("*")
        if path.is_file() and not any(mark in str(path) for mark in UNFINISHED)
    )
    gone = [str(path.relative_to(before)) for path in earlier if path.read_bytes() not in there]
    return found + gone
