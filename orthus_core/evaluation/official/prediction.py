"""A model's answers to a benchmark, or its pictures, in the official files.

    for event in predict(folder, asks, work, place=(0, 1)): ...     # Progress
    finish_answers(folder, task, items, asks, pieces, made)

The questions are cut into pieces, and every n-th piece is of one of n processes. While the model
answers a piece, the pictures of the next one are opened.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, Protocol

from orthus_core.errors import DataError
from orthus_core.evaluation.official.answer_folder import AnswerFolder, Piece
from orthus_core.evaluation.official.questions_asked import Ask, Asks
from orthus_core.evaluation.official.task import AskedItem, OfficialTask
from orthus_core.events import Progress

TOGETHER = 64
"""Questions of a piece: as many as the engine answers side by side."""


class AskedModel(Protocol):
    """A model that answers or draws."""

    stage: str
    unit: str

    def load(self, asks: Sequence[Ask]) -> Any:
        """Opens the pictures that are asked about, beside the model's work.

        Raises:
            DataError: When one cannot be read.
        """
        ...

    def run(self, asks: Sequence[Ask], loaded: Any) -> Iterator[tuple[int, Any]]:
        """Yields the number and the answer of each ask; None for what the model cannot read."""
        ...

    def keep(self, ask: Ask, answer: Any) -> str | None:
        """The answer as text, or where it was written."""
        ...


class Predicted(NamedTuple):
    """All answers.

    Attributes:
        answers: By the key of the ask; None for what did not fit the model's context.
        model_s: Seconds in the model, summed over processes and runs.
        all_s: All seconds but those in which models were opened.
    """

    answers: dict[str, str | None]
    model_s: float
    all_s: float


def predict(
    folder: AnswerFolder,
    asks: Sequence[Ask],
    work: AskedModel,
    *,
    piece: int = TOGETHER,
    place: tuple[int, int] = (0, 1),
    meet: Callable[[], object] = lambda: None,
    began: float | None = None,
) -> Generator[Progress, None, Predicted | None]:
    """Asks everything that has no answer yet, and keeps the answers of each piece.

    Args:
        folder: Where the answers are kept; it has begun.
        asks: All asks, in the same order in every process and run.
        work: The model.
        piece: Asks of a piece.
        place: Number of this process, and of all.
        meet: Waits until every process has come here.
        began: The time, of `time.perf_counter`, from which this run counts; now if None.

    Returns: All answers in the first process, None in others.

    Raises:
        DataError: When a picture cannot be read; earlier pieces are kept.
        OutputError: When answers cannot be written.
    """
    shard, shards = place
    pieces = [asks[first : first + piece] for first in range(0, len(asks), piece)]
    own = [*range(shard, len(pieces), shards)]
    waiting = [number for number in own if folder.piece(number, pieces[number]) is None]
    total = sum(len(pieces[number]) for number in own)
    done = total - sum(len(pieces[number]) for number in waiting)
    last = time.perf_counter() if began is None else began
    for number, loaded in _loaded_ahead(work, [(n, pieces[n]) for n in waiting]):
        answers: dict[str, str | None] = {ask.key: None for ask in pieces[number]}
        model_s = 0.0
        events = work.run(pieces[number], loaded)
        while True:
            start = time.perf_counter()
            at, answer = next(events, (None, None))
            model_s += time.perf_counter() - start
            if at is None:
                break
            ask = pieces[number][at]
            answers[ask.key] = work.keep(ask, answer)
            done += 1
            yield Progress(work.stage, done, total, work.unit)
        now = time.perf_counter()
        folder.write_piece(number, Piece(answers, model_s, now - last))
        last = now
    meet()
    return _joined(folder, pieces) if shard == 0 else None


def finish_answers(
    folder: AnswerFolder,
    task: OfficialTask,
    items: Sequence[AskedItem],
    asks: Asks,
    predicted: Predicted,
    made: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the official files and `run.json`, and returns the latter's content.

    Args:
        folder: Where the answers are kept.
        task: The benchmark.
        items: Its questions, in the official order.
        asks: What was asked.
        predicted: The answers.
        made: Further entries: the model, decoding, versions.

    Raises:
        OutputError: When a file cannot be written.
    """
    assert task.form is not None, "only what has a form is asked"
    start = time.perf_counter()
    if task.form.draws:
        said, unasked = {}, list[str]()
    else:
        found = {item.key: predicted.answers[asks.key_of[item.key]] for item in items}
        unasked = [key for key, text in found.items() if text is None]
        said = {key: text or "" for key, text in found.items()}
    files = task.form.write(items, said)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if task.form.draws:
        drawn = (folder.path / name for name in predicted.answers.values() if name)
        hashes |= {
            path.relative_to(folder.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in drawn
        }
    all_s = predicted.all_s + time.perf_counter() - start
    table = {
        "n": len(items),
        "n_asked": len(asks.asks) - sum(text is None for text in predicted.answers.values()),
        "n_not_asked": len(unasked),
        "not_asked": unasked,
        "files": hashes,
        "time": {
            "model_s": round(predicted.model_s, 3),
            "all_s": round(all_s, 3),
            "share_in_model": round(predicted.model_s / all_s, 4) if all_s else None,
        },
        **made,
    }
    folder.finish(files, table)
    return {"asked": folder.identity, **table}


def _joined(folder: AnswerFolder, pieces: Sequence[Sequence[Ask]]) -> Predicted:
    answers: dict[str, str | None] = {}
    model_s = all_s = 0.0
    for number, asks in enumerate(pieces):
        piece = folder.piece(number, asks)
        if piece is None:
            raise DataError(
                f"piece {number} of {len(pieces)} has no answers",
                where=str(folder.path),
                hint="another process has not written it here; the same command goes on",
            )
        answers |= piece.answers
        model_s, all_s = model_s + piece.model_s, all_s + piece.all_s
    return Predicted(answers, model_s, all_s)


def _loaded_ahead(
    work: AskedModel, pieces: Iterable[tuple[int, Sequence[Ask]]]
) -> Iterator[tuple[int, Any]]:
    """The number of each piece and what it loads, the next piece while one is worked on."""
    left = iter(pieces)
    with ThreadPoolExecutor(1) as pool:
        ahead = [(number, pool.submit(work.load, asks)) for number, asks in islice(left, 1)]
        while ahead:
            number, loading = ahead.pop()
            loaded = loading.result()
            ahead = [(number, pool.submit(work.load, asks)) for number, asks in islice(left, 1)]
            yield number, loaded
