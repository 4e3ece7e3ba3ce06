"""All stages of the bundled models, one after the other in one folder, each from its predecessor.

A run that was stopped goes on where it was: a finished stage is passed over, and the one that was
under way continues from its newest state.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orthus_core.atomic_folder import TRAINING_SUFFIX
from orthus_core.checkpoint.headers import CONFIG
from orthus_core.errors import OutputError
from orthus_core.events import Event, Note, StepDone
from orthus_core.recipe import Recipe
from orthus_core.recipe.conversion import ConvertRecipe
from orthus_core.recipe.starter import StarterStage
from orthus_core.recipe.training import (
    BuildBaseRecipe,
    FinetuneVaeRecipe,
    PosttrainRecipe,
    PretrainRecipe,
)
from orthus_core.train.loop import Stop
from orthus_core.user_files import user_path


@dataclass(frozen=True)
class StageDone:
    """A stage has made its model.

    Attributes:
        name: Name of the stage.
        output: Folder of the model.
        seconds: Duration in this run.
        steps: Optimiser steps in this run.
        figures: What the last of them measured.
    """

    name: str
    output: Path
    seconds: float
    steps: int
    figures: Mapping[str, float]


def run_starter(
    stages: Sequence[StarterStage],
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    should_stop: Stop = lambda: False,
) -> Iterator[Event | StageDone]:
    """Run the stages in order; the models are folders in `folder`, their states beside them.

    Args:
        resume: Whether stages that are there are kept, and one that was begun goes on.
        overwrite: Whether what is there is replaced, where nothing is resumed.
        should_stop: Called after each step; a stopped training has saved its state.

    Raises:
        OutputError: When something is there that is neither continued nor replaced.
        TrainingError: As for the stages.
    """
    folder = user_path(folder)
    if not (resume or overwrite):
        check_untouched(stages, folder)
    for number, stage in enumerate(stages, start=1):
        about = f". {stage.about}" if stage.about else ""
        yield Note(f"stage {number} of {len(stages)}: {stage.name}{about}")
        began, steps, figures = time.monotonic(), 0, dict[str, float]()
        for event in run_stage(
            stage, folder, resume=resume, overwrite=overwrite, should_stop=should_stop
        ):
            if isinstance(event, StepDone):
                steps, figures = steps + 1, dict(event.metrics)
            yield event
        if should_stop():
            return
        seconds = time.monotonic() - began
        yield StageDone(stage.name, folder / stage.model.output, seconds, steps, figures)


def run_stage(
    stage: StarterStage, folder: Path, *, resume: bool, overwrite: bool, should_stop: Stop
) -> Iterator[Event]:
    """Run one stage; its command does the same."""
    # Imported here, because each training has libraries that the others do without.
    from orthus_core.train import pretrain, trainings

    recipe, output = _sharing_features(stage.recipe, folder), folder / stage.model.output
    start = folder / stage.model.start if stage.model.start else None
    how = {"resume": resume, "overwrite": overwrite and not resume, "should_stop": should_stop}
    if isinstance(recipe, PretrainRecipe):
        yield from pretrain.pretrain(recipe, output, init_from=start, **how)
        return
    assert start is not None, "only a pretrain begins with nothing"
    if isinstance(recipe, ConvertRecipe):
        yield from _convert(recipe, start, output, overwrite=resume or overwrite)
    elif isinstance(recipe, FinetuneVaeRecipe):
        yield from trainings.finetune_vae(recipe, start, output, **how)
    elif isinstance(recipe, BuildBaseRecipe):
        yield from trainings.build_base(recipe, start, output, **how)
    else:
        assert isinstance(recipe, PosttrainRecipe)
        yield from trainings.posttrain(recipe, start, output, **how)


def _sharing_features(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe, with one place for the features of all stages unless it names one itself."""
    data = getattr(recipe, "data", None)
    if data is None or data.cache:
        return recipe
    return replace(recipe, data=replace(data, cache=str(folder / "features")))


def _convert(
    recipe: ConvertRecipe, start: Path, output: Path, *, overwrite: bool
) -> Iterator[Event]:
    """Convert again rather than ask whether it is still the same: it takes seconds, and equal
    weights have an equal fingerprint, so that later stages go on from it.
    """
    from orthus_core.checkpoint.convert import Converted, convert

    if overwrite and (output / CONFIG).is_file() and not _is_converted(output):
        raise OutputError(
            "there is a model that this stage did not make",
            where=str(output),
            hint="move it away, or choose another folder with -o",
        )
    for event in convert(start, output, recipe, overwrite=overwrite):
        if isinstance(event, Converted):
            yield Note(f"wrote {event.folder}")
        else:
            yield event


def _is_converted(folder: Path) -> bool:
    try:
        made_by = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["origin"]["made_by"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return str(made_by).startswith("orthus convert ")


def check_untouched(stages: Sequence[StarterStage], folder: Path) -> None:
    """Check that no stage has left anything in the folder.

    Raises:
        OutputError: Names the first thing there is.
    """
    for stage in stages:
        model = folder / stage.model.output
        for path in (model, model.with_name(model.name + TRAINING_SUFFIX)):
            if path.exists():
                raise OutputError(
                    f"the stage {stage.name} was begun here already",
                    where=str(path),
                    hint="--resume auto goes on with it; --overwrite begins anew and removes "
                    "states, figures and samples; or choose another folder with -o",
                )
