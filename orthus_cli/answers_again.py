"""A file of answers, asked again: `orthus replay captions.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orthus_cli.console import Reporter
from orthus_cli.stored import elsewhere
from orthus_core.errors import DataError

if TYPE_CHECKING:
    from orthus_core.results.answer_file import StoredAnswer
    from orthus_core.results.record import Difference, Record


def ask_again(
    r: Reporter,
    path: Path,
    images: Sequence[Path] = (),
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> bool:
    """Asks each question of the file again, says whether the answers are identical, and returns it.

    Args:
        images: Where pictures lie that are no longer where they were.
        model, device, dtype: Others than the answers were made with.

    Raises:
        DataError: When a picture is missing or is another, or the file asks for a model that is
            not on this machine.
    """
    from orthus_core.results.answer_file import read_answers
    from orthus_core.results.record import asked_of, record_of_answer
    from orthus_core.results.trusted import check_harmless

    told = read_answers(path)
    again: dict[int, str] = {}
    differences: dict[Difference, None] = {}
    files = [_found(path, each, images) for each in told]
    for numbers in _alike(told):
        record = record_of_answer(path, told[numbers[0]])
        then = elsewhere(record, model, device, dtype)
        check_harmless(path, asked_of(then), named=(model,))
        asked = [(number, files[number], told[number].seed) for number in numbers]
        texts, found = _ask(r, then, asked)
        again |= texts
        differences |= dict.fromkeys(found)
    changed = [number for number in range(len(told)) if again[number] != told[number].text]
    lines = ["not identical" if changed else "identical"]
    lines += [f"{what}: {before} then, {now} now" for what, before, now in differences]
    if changed:
        one = told[changed[0]]
        lines.append(f"{len(changed)} of {len(told)} answers differ, the first of {one.image}:")
        lines += [f"then: {one.text}", f"now: {again[changed[0]]}"]
    r.result(
        {
            "path": str(path),
            "identical": not changed,
            "answers": len(told),
            "differences": [each._asdict() for each in differences],
            "changed": [
                {"image": told[n].image, "then": told[n].text, "now": again[n]} for n in changed
            ],
        },
        text="\n".join(lines),
        quiet=["different" if changed else "identical"],
    )
    return not changed


def _alike(told: Sequence[StoredAnswer]) -> Iterable[list[int]]:
    """The numbers of the answers that one question to one model gave."""
    groups: dict[str, list[int]] = {}
    for number, each in enumerate(told):
        groups.setdefault(repr((each.question, sorted(each.made.items()))), []).append(number)
    return groups.values()


def _found(path: Path, told: StoredAnswer, images: Sequence[Path]) -> Path:
    """The picture of an answer: among those given, where it lay, or beside the answers."""
    from orthus_core.api.caption_files import content_hash

    lay = Path(told.image)
    for place in (*images, lay, path.parent / lay.name):
        try:
            if content_hash(place) == told.content:
                return place
        except DataError:
            continue
    raise DataError(
        f"the picture is gone or is another now: {told.image}",
        where=str(path),
        hint="name the file with --image; it is known by its content",
    )


def _ask(
    r: Reporter, record: Record, asked: Sequence[tuple[int, Path, int]]
) -> tuple[dict[int, str], list[Difference]]:
    """The new answers by number, and what was different about making them."""
    from orthus_cli.drawing import open_model
    from orthus_core.api.caption_files import Answered, Broken, read_files
    from orthus_core.recipe import CaptionRecipe, shape
    from orthus_core.results.record import asked_of, circumstances
    from orthus_core.samplers.params import SamplingParams
    from orthus_core.version import __version__

    table = asked_of(record) | {name: record.info.model[name] for name in ("device", "dtype")}
    recipe = shape(CaptionRecipe, table)
    loaded = open_model(r, recipe)
    now = record._replace(version=__version__, info=record.info._replace(model=loaded.about))
    texts: dict[int, str] = {}
    events = read_files(
        loaded.builder,
        [file for _, file, _ in asked],
        recipe.question,
        SamplingParams.from_recipe(loaded.model.config, recipe),
        seeds=[seed for _, _, seed in asked],
        batch_size=recipe.batch_size,
    )
    for event in r.track(events):
        if isinstance(event, Broken):
            raise event.error
        if isinstance(event, Answered):
            texts[asked[event.number][0]] = event.text
    return texts, circumstances(record, now)
