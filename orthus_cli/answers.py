"""How `orthus caption` writes and reports answers about pictures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthus_cli.console import Reporter
from orthus_core.errors import DataError, OutputError
from orthus_core.recipe import CaptionRecipe
from orthus_core.results.answer_file import AnswerFile, Question
from orthus_core.shell_words import shell_quoted
from orthus_core.user_files import user_path
from orthus_core.version import __version__

if TYPE_CHECKING:
    from orthus_core.api.captions import CaptionCollector, CaptionRequest


def answers_path(typed: str | None) -> Path | None:
    """The file that `-o` names.

    Raises:
        OutputError: When it ends in a slash, as a folder's name does.
    """
    if typed is None:
        return None
    if typed.endswith(("/", os.sep)):
        raise OutputError(
            "this names a folder, and the answers go to one file",
            where=typed,
            hint=f"-o {shell_quoted([typed + 'captions.jsonl'])}",
        )
    return user_path(typed)


def open_answers(
    path: Path, recipe: CaptionRecipe, about: Mapping[str, Any], *, overwrite: bool
) -> AnswerFile:
    """The file that the answers go to, with its earlier answers to this question.

    Raises:
        OutputError: When it is another kind of file, or cannot be written to.
    """
    question = Question(recipe.question, about["hash"], dataclasses.asdict(recipe.text))
    bits = {"quantize": recipe.quantize} if recipe.quantize else {}
    made = {name: value for name, value in about.items() if name != "hash"}
    return AnswerFile(path, question, {"version": __version__, **made, **bits}, anew=overwrite)


def check_pictures(files: Sequence[Path], *, strict: bool) -> None:
    """Opens pictures before a model is loaded: one that reads is enough, with `strict` all are.

    Raises:
        DataError: When none reads, or one does not and `strict` is set.
    """
    from orthus_core.data.pixels import open_image

    errors: list[DataError] = []
    for file in files:
        try:
            open_image(file)
        except DataError as error:
            errors.append(error)
            if strict:
                break
        else:
            if not strict:
                return
    if errors:
        raise errors[0] if strict else _none_reads(errors)


def ask_each(
    r: Reporter, request: CaptionRequest, store: AnswerFile | None, *, strict: bool
) -> CaptionCollector:
    """Runs a request and writes each answer as soon as it is complete.

    Args:
        strict: Whether to stop at a picture that does not read.

    Raises:
        DataError: When no picture reads, or one does not and `strict` is set.
    """
    from orthus_core.api.captions import CaptionCollector, CaptionDone, CaptionFailed
    from orthus_core.api.requests import run

    collector = CaptionCollector(request)
    try:
        for event in r.track(run(request)):
            collector.add(event)
            if isinstance(event, CaptionDone) and store:
                store.add(str(event.file), event.content, event.text, event.seed)
            elif isinstance(event, CaptionFailed):
                if strict:
                    raise event.error
                if len(request.images) > 1:
                    r.warn(f"{event.file} is left out: {event.error.message}")
    except KeyboardInterrupt:
        if store:
            r.say(f"the answers so far are in {store.path}; the same command goes on with it")
        raise
    if not collector.answers:
        raise _none_reads([failed.error for failed in collector.failures])
    return collector


def report_answers(
    r: Reporter,
    request: CaptionRequest,
    collector: CaptionCollector,
    store: AnswerFile | None,
    passed_over: Sequence[str],
) -> None:
    """Reports the answers, or where they are.

    Args:
        passed_over: Lines about what was not read in each folder.
    """
    answers = sorted(collector.answers, key=lambda answer: answer.row)
    failures = collector.failures
    lines = [f"{answer.file}: {answer.text}" for answer in answers]
    if len(answers) == 1 and not failures:
        lines = [answers[0].text]
    new = sum(not answer.known for answer in answers)
    left_out = f", {len(failures)} left out" if failures else ""
    if store:
        lines = [f"{store.path}: {len(answers)} pictures, {new} of them new{left_out}"]
    elif failures:
        r.say(f"{len(answers)} pictures read{left_out}")
    r.result(
        {
            "question": request.question,
            **({"output": str(store.path)} if store else {}),
            "answers": [
                {"image": str(answer.file), "text": answer.text, "known": answer.known}
                for answer in answers
            ],
            "left_out": [
                {"image": str(failed.file), "error": failed.error.message} for failed in failures
            ],
            "passed_over": list(passed_over),
            "model": request.loaded.about,
        },
        text="\n".join(lines),
        quiet=[store.path] if store else [answer.text for answer in answers],
    )


def _none_reads(errors: Sequence[DataError]) -> DataError:
    first = errors[0]
    if len(errors) == 1:
        return first
    return DataError(
        f"none of {len(errors)} pictures reads; the first: {first.message}", where=first.where
    )
