"""How `orthus eval` has a model answer a benchmark: the questions, the model, and the folder."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orthus_cli.console import Reporter
from orthus_cli.drawing import open_model
from orthus_core.recipe import CaptionRecipe, EditRecipe, GenerateRecipe, load

if TYPE_CHECKING:
    from orthus_core.api.loaded import LoadedModel
    from orthus_core.evaluation.official.prediction import AskedModel
    from orthus_core.evaluation.official.task import AnswerForm, AskedItem, OfficialTask
    from orthus_core.events import Progress

SEED = 42
"""GenEval's own: the noise of each prompt begins anew."""


class Asking(NamedTuple):
    """What a model is to be asked.

    Attributes:
        task: The benchmark.
        data: Its own files.
        folder: Folder of the answers.
        variant: One of the task's variants.
        flags: Keys of the recipe that were given.
        batch_size: Questions or pictures at once.
        longest: Most tokens of an answer; None takes the variant's.
        pictures: Pictures of each prompt.
        seed: Seed of the first of them.
        limit: Number of questions of each part; None is all.
        overwrite: Whether answers that are there may be replaced.
    """

    task: OfficialTask
    data: Path
    folder: Path
    variant: str
    flags: dict[str, Any]
    batch_size: Any = "auto"
    longest: int | None = None
    pictures: int | None = None
    seed: int | None = None
    limit: int | None = None
    overwrite: bool = False


def predict_benchmark(r: Reporter, asking: Asking) -> dict[str, Any] | None:
    """Asks a model, and returns how it was asked; None in all but the first process.

    Raises:
        ArgumentError: When the task has no such variant, or asks no model.
        DataError: When files or pictures are missing or of another layout.
        OutputError: When the folder holds something else, or cannot be written to.
    """
    from orthus_core.train.distributed import ends_together

    run: list[dict[str, Any] | None] = []

    def events() -> Generator[Progress, None, None]:
        run.append((yield from ends_together(_predicting)(r, asking)))

    try:
        for _ in r.track(events()):
            pass
    except KeyboardInterrupt:
        r.say(f"what is done so far is kept in {asking.folder}; the same command goes on with it")
        raise
    return run[0]


def _predicting(r: Reporter, asking: Asking) -> Generator[Progress, None, dict[str, Any] | None]:
    import torch

    from orthus_core.evaluation.official.answer_folder import AnswerFolder, check_answer_folder
    from orthus_core.evaluation.official.prediction import finish_answers, predict
    from orthus_core.evaluation.official.questions_asked import asks_of, check_asked, drawings_of
    from orthus_core.evaluation.official.read_files import check_there
    from orthus_core.evaluation.official.task import first_items
    from orthus_core.evaluation.scorer_variants import check_variant
    from orthus_core.train.distributed import all_reduce_sum, current_rank, device

    # 1. The questions, before a model is opened.
    start = time.perf_counter()
    place = current_rank()
    task, form = asking.task, form_of(asking.task)
    assert task.items is not None
    check_variant(asking.variant, task.variants)
    check_there(asking.data, "; ".join(task.files))
    items = task.items(asking.data, asking.variant)
    if asking.limit is not None:
        items = first_items(items, asking.limit, form.together)
    check_asked(items, asking.data)
    asks = drawings_of(items, seeds_of(asking), form.drawn) if form.drawn else asks_of(items)
    if place.is_first:
        check_answer_folder(asking.folder, overwrite=asking.overwrite)
    read_s = time.perf_counter() - start
    # 2. The model, each process on its own device.
    start = time.perf_counter()
    if place.shards > 1:
        device()
    loaded, work, decoding = _open(r, asking)
    opening_s = time.perf_counter() - start
    piece = _piece(asking)
    identity = _identity(asking, items, loaded, decoding, piece)
    folder = AnswerFolder(asking.folder, identity)

    def meet() -> object:
        return all_reduce_sum(torch.zeros(1))

    if place.is_first:
        folder.begin(overwrite=asking.overwrite)
    meet()
    if not place.is_first:
        folder.join()
    if folder.run is not None:
        if place.is_first:
            r.say(f"{asking.folder} is whole already: nothing is asked")
        return folder.run if place.is_first else None
    # 3. Answers, in pieces; the first process joins them.
    predicted = yield from predict(
        folder,
        asks.asks,
        work,
        piece=piece,
        place=place,
        meet=meet,
        began=time.perf_counter() - read_s,
    )
    if predicted is None:
        return None
    made = _made(asking, loaded, opening_s, place.shards)
    return finish_answers(folder, task, items, asks, predicted, made)


def _open(r: Reporter, asking: Asking) -> tuple[LoadedModel, AskedModel, dict[str, Any]]:
    """The open model, the work that it does, and how it decodes."""
    from orthus_core.api.asked_models import AnsweringModel, DrawingModel, EditingModel
    from orthus_core.evaluation.official.task import LONGEST_ANSWER

    form = form_of(asking.task)
    given = {name: value for name, value in asking.flags.items() if value is not None}
    if form.draws:
        own = {"batch_size": asking.batch_size, "seeds": [seeds_of(asking)[0]]}
        if form.edits:
            recipe = load(EditRecipe, None, [], {**given, **own})
            loaded = open_model(r, recipe)
            editing = EditingModel(loaded, recipe, asking.folder)
            return loaded, editing, editing.params.to_dict()
        recipe = load(GenerateRecipe, None, [], {**given, **own})
        loaded = open_model(r, recipe)
        drawing = DrawingModel(loaded, recipe, asking.folder)
        return loaded, drawing, drawing.params.to_dict()
    recipe = load(CaptionRecipe, None, [], {**given, "batch_size": asking.batch_size})
    longest = asking.longest or form.longest.get(asking.variant, LONGEST_ANSWER)
    loaded = open_model(r, recipe)
    decoding = {"greedy": True, "temperature": 0.0, "max_new_tokens": longest}
    return loaded, AnsweringModel(loaded, longest, asking.batch_size), decoding


def _identity(
    asking: Asking,
    items: list[AskedItem],
    loaded: LoadedModel,
    decoding: dict[str, Any],
    piece: int,
) -> dict[str, Any]:
    """What decides about the answers: a run of anything else does not go on with them."""
    from orthus_core.evaluation.official.read_files import data_hash

    form = form_of(asking.task)
    return {
        "task": asking.task.name,
        "variant": asking.variant,
        "draws": form.draws,
        "n": len(items),
        "limit": asking.limit,
        "data_hash": data_hash(form.files(asking.data)),
        "prompt": asking.task.prompt,
        "model": loaded.about["hash"],
        "dtype": loaded.about["dtype"],
        "quantize": asking.flags.get("quantize"),
        "decoding": decoding,
        "seeds": seeds_of(asking) if form.draws else [],
        "batch": piece,
    }


def _made(asking: Asking, loaded: LoadedModel, opening_s: float, shards: int) -> dict[str, Any]:
    """What else a reader needs to repeat the answers."""
    import platform

    import torch
    import transformers

    from orthus_core.version import __version__

    return {
        "data": str(asking.data),
        "model": loaded.about,
        "opening_s": round(opening_s, 3),
        "processes": shards,
        "batch_size": asking.batch_size,
        "versions": {
            "orthus": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def form_of(task: OfficialTask) -> AnswerForm:
    """How a model is asked. Raises: ArgumentError for a benchmark that asks none."""
    from orthus_core.errors import ArgumentError

    if task.form is None or task.items is None:
        raise ArgumentError(
            f"no model can be asked {task.name} by this command",
            hint=f"`orthus eval describe {task.name}` says what it needs",
        )
    return task.form


def seeds_of(asking: Asking) -> list[int]:
    """Seeds of a prompt's pictures."""
    first = SEED if asking.seed is None else asking.seed
    count = asking.pictures or form_of(asking.task).pictures
    return [first + number for number in range(count)]


def _piece(asking: Asking) -> int:
    """Questions or pictures that are kept together; of pictures as many as are drawn together, so
    that a run that is stopped loses no more.
    """
    from orthus_core.evaluation.official.prediction import TOGETHER

    size = asking.batch_size
    return size if form_of(asking.task).draws and isinstance(size, int) else TOGETHER
