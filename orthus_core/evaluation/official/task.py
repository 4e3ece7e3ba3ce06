"""Records of `orthus eval`: a benchmark, its questions, and the result of scoring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.evaluation.intervals import Interval
from orthus_core.evaluation.official.hub_tables import TablePicture

# Most tokens of an answer, as LLaVA's programs have it and lmms-eval for most of its tasks.
LONGEST_ANSWER = 128
LONGEST_ANSWER_OF_LMMS = 16
# What models of LLaVA's kind are asked after a question.
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."


class AskedItem(NamedTuple):
    """One question of a benchmark.

    Attributes:
        key: Its id, unique in the set.
        prompt: What the model is asked.
        picture: Its picture: a path, or a `TablePicture`; None where it has none, or several.
        gold: The right answer, or what decides about it.
        part: The split, task or subject that it belongs to.
        parts: Texts and pictures that the model reads, where they are not one picture and then the
            prompt.
        record: What the official file of answers repeats of the question.
    """

    key: str
    prompt: str
    picture: Path | TablePicture | None
    gold: Any
    part: str = ""
    parts: tuple[Any, ...] = ()
    record: Mapping[str, Any] | None = None

    @property
    def read(self) -> tuple[Any, ...]:
        """Texts and pictures that the model reads, in order."""
        if self.parts:
            return self.parts
        return (self.prompt,) if self.picture is None else (self.picture, self.prompt)


class AnswerForm(NamedTuple):
    """How a model is asked, and the official files of its answers.

    Attributes:
        files: The files that hold the questions.
        write: The official files, by their path in the folder, from the questions and the answer to
            each by its key.
        longest: Most tokens of an answer, where a variant has its own; 128 as in LLaVA elsewhere.
        drawn: Of pictures that are drawn, the path of one in the folder, by the key of its prompt
            and its number; `write` then writes what lies beside them. None where words are asked.
        pictures: Pictures of each prompt.
        edits: Whether the drawn picture is the question's own, changed by its prompt.
        together: Consecutive questions that are only scored together.
    """

    files: Callable[[Path], list[Path]]
    write: Callable[[Sequence[AskedItem], Mapping[str, str]], dict[str, bytes]]
    longest: Mapping[str, int] = {}
    drawn: Callable[[str, int], str] | None = None
    pictures: int = 1
    edits: bool = False
    together: int = 1

    @property
    def draws(self) -> bool:
        """Whether pictures are drawn."""
        return self.drawn is not None


@dataclass(frozen=True)
class OfficialScores:
    """The result of scoring.

    Attributes:
        n: Number of questions or pictures scored.
        n_missing: Questions without a prediction, which are scored as wrong.
        n_unparsed: Predictions in which the scorer found no answer.
        metrics: The benchmark's numbers.
        per_category: Numbers of its parts.
        intervals: 95% intervals, by the name of a metric, or part and metric.
        samples: A record for each question: id, prompt, answer, parsed, gold, right.
        files: Files of the benchmark's data that were read, for their hash; no predictions.
        notes: What a reader of the numbers has to know.
        extra_files: Further files of the report, by name.
    """

    n: int
    n_missing: int
    n_unparsed: int
    metrics: Mapping[str, Any]
    per_category: Mapping[str, Any]
    intervals: Mapping[str, Interval]
    samples: Sequence[Mapping[str, Any]]
    files: Sequence[Path]
    notes: Sequence[str] = ()
    extra_files: Mapping[str, bytes] = field(default_factory=dict)


class ScoringRequest(NamedTuple):
    """What is to be scored.

    Attributes:
        predictions: File or folder of predictions.
        data: The benchmark's own files; None where the predictions are enough.
        variant: One of the task's variants.
        allow_missing: Whether questions without a prediction are scored as wrong, instead of being
            an error.
        detections: Of GenEval: what was found in the pictures, where no file holds it.
        keys: The questions that were asked, where not all were; None for all.
    """

    predictions: Path
    data: Path | None
    variant: str
    allow_missing: bool = False
    detections: Sequence[Mapping[str, Any]] | None = None
    keys: frozenset[str] | None = None

    def asks(self, key: str) -> bool:
        """Whether a question is among those that were asked."""
        return self.keys is None or key in self.keys


class OfficialTask(NamedTuple):
    """A benchmark, as `orthus eval describe` prints it.

    Attributes:
        name: Its name on the command line.
        measures: What it measures, in a line.
        files: The files it needs.
        source: Where they come from.
        predictions: The form of its predictions.
        prompt: What a model is asked.
        metric: How it is scored.
        variants: Programs that score differently, and how; the first is the default.
        paper: What 2412.00127 reports.
        score: Scores predictions; None while they cannot be scored from files alone.
        items: Reads the questions; None for benchmarks without.
        form: How a model is asked; None where `orthus eval predict` does not ask.
        command: The command that measures, where it is not that of a set of questions.
    """

    name: str
    measures: str
    files: Sequence[str]
    source: str
    predictions: str
    prompt: str
    metric: str
    variants: Mapping[str, str]
    paper: str
    score: Callable[[ScoringRequest], OfficialScores] | None = None
    items: Callable[[Path, str], list[AskedItem]] | None = None
    form: AnswerForm | None = None
    command: str = ""


def first_items(items: Sequence[AskedItem], limit: int, together: int = 1) -> list[AskedItem]:
    """The first questions of each part: a split, task, subject or type.

    Args:
        items: Questions.
        limit: Number of items of each part.
        together: It is rounded up to a multiple of this.
    """
    limit = -(-limit // together) * together
    seen: Counter[str] = Counter()
    kept = []
    for item in items:
        seen[item.part] += 1
        if seen[item.part] <= limit:
            kept.append(item)
    return kept
