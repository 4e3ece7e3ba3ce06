"""Asks the questions of a captions file again: `orthus replay captions.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orthus_cli.console import Reporter
from orthus_cli.drawing import open_model

if TYPE_CHECKING:
    from orthus_core.results.record import Difference, Record


def ask_again(
    r: Reporter,
    path: Path,
    images: Sequence[Path] = (),
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    lora: Sequence[str] | None = None,
) -> bool:
    """Asks each question of the file again; reports and returns whether the answers are identical.

    Args:
        images: Pictures that are no longer where they were.
        model, device, dtype, lora: Replacements for those that the answers were made with.

    Raises:
        DataError: When a picture is missing or has changed, or the file names a model that is not
            on this machine.
    """
    from orthus_core.api.replay import answers_alike, elsewhere, find_image
    from orthus_core.results.answer_file import read_answers
    from orthus_core.results.record import asked_of, record_of_answer
    from orthus_core.results.trusted import check_harmless

    answers = read_answers(path)
    again: dict[int, str] = {}
    differences: dict[Difference, None] = {}
    files = [find_image(path, answer, images) for answer in answers]
    for numbers in answers_alike(answers):
        then = elsewhere(record_of_answer(path, answers[numbers[0]]), model, device, dtype, lora)
        check_harmless(path, asked_of(then), named=(model,))
        seeds = [answers[number].seed for number in numbers]
        texts, found = _ask(r, then, [files[number] for number in numbers], seeds)
        again |= dict(zip(numbers, texts, strict=True))
        differences |= dict.fromkeys(found)
    changed = [n for n, answer in enumerate(answers) if again[n] != answer.text]
    lines = ["not identical" if changed else "identical"]
    lines += [f"{what}: {before} then, {now} now" for what, before, now in differences]
    if changed:
        first = answers[changed[0]]
        lines.append(
            f"{len(changed)} of {len(answers)} answers differ, the first of {first.image}:"
        )
        lines += [f"then: {first.text}", f"now: {again[changed[0]]}"]
    r.result(
        {
            "path": str(path),
            "identical": not changed,
            "answers": len(answers),
            "differences": [each._asdict() for each in differences],
            "changed": [
                {"image": answers[n].image, "then": answers[n].text, "now": again[n]}
                for n in changed
            ],
        },
        text="\n".join(lines),
        quiet=["different" if changed else "identical"],
    )
    return not changed


def _ask(
    r: Reporter, record: Record, files: Sequence[Path], seeds: Sequence[int]
) -> tuple[list[str], list[Difference]]:
    """The new answers, and the differences in how they were made."""
    from orthus_core.api.captions import CaptionCollector, CaptionFailed, prepare_caption
    from orthus_core.api.replay import check_adapters, differences_from, recipe_again
    from orthus_core.api.requests import run
    from orthus_core.recipe import CaptionRecipe

    recipe = recipe_again(record)
    assert isinstance(recipe, CaptionRecipe), "answers are made by caption"
    loaded = open_model(r, recipe)
    check_adapters(record, loaded)
    request = prepare_caption(loaded, recipe, files, seeds)
    collector = CaptionCollector(request)
    for event in r.track(run(request)):
        if isinstance(event, CaptionFailed):
            raise event.error
        collector.add(event)
    return collector.captions.texts, differences_from(record, loaded)
