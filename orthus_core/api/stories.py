"""Stories: the opening, the request, and the story gathered from its events."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from orthus_core.api.inputs import PictureLike, files_of, hashes_of, input_images
from orthus_core.api.loaded import LoadedModel
from orthus_core.data.pictures import BytesPicture, Picture
from orthus_core.data.pixels import to_image
from orthus_core.errors import PromptError
from orthus_core.events import Event
from orthus_core.recipe import StoryRecipe, as_table
from orthus_core.results.metadata import GenerationInfo
from orthus_core.results.story_folder import Panel, first_number, read_story, write_story
from orthus_core.results.trusted import check_harmless
from orthus_core.samplers.params import STORY_TEXT, SamplingParams
from orthus_core.samplers.seeds import choose_seeds
from orthus_core.samplers.story import (
    PanelContinuer,
    PanelDone,
    StoryPlan,
    panel_context,
    tell,
)
from orthus_core.user_files import user_path

# The words that end the user's part in story data (StoryStream, and the bundled model's stories).
CONTINUE = "Please continue this story."


class Opening(NamedTuple):
    """What a story continues, before a model is loaded.

    Attributes:
        prompt: Words of the user.
        pictures: Pictures of the user, in order.
        panels: Both as panels.
        earlier: Panels of an earlier story that are kept.
        inputs, files: Hashes and files of the user's pictures.
    """

    prompt: str
    pictures: list[Picture]
    panels: list[Panel]
    earlier: list[Panel]
    inputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Story(NamedTuple):
    """A finished story.

    Attributes:
        panels: Panels of the user, then those of the model.
        info: How it was made.
    """

    panels: list[Panel]
    info: GenerationInfo

    @property
    def images(self) -> list[Image.Image]:
        """The drawn pictures."""
        return [panel.image for panel in self.panels if panel.image and not panel.given]

    @property
    def texts(self) -> list[str]:
        """The words of each panel that the model told."""
        return [panel.text for panel in self.panels if not panel.given]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> dict[str, Any]:
        """Writes the folder, and returns the contents of its `story.json`.

        Raises:
            OutputError: When the folder is taken or cannot be written to.
        """
        return write_story(user_path(folder), self.panels, self.info, overwrite=overwrite)


def open_story(
    recipe: StoryRecipe, prompt: str, images: PictureLike | Sequence[PictureLike] = ()
) -> Opening:
    """Opens a story: new words and pictures, or an earlier story.

    Raises:
        PromptError: When neither is given, or both are.
        DataError: When a picture or the earlier story cannot be read.
    """
    if recipe.from_story is not None:
        return _earlier_opening(recipe, prompt, images)
    if recipe.from_panel is not None:
        raise PromptError(
            "a panel to tell on from, but no story that has it",
            where="from_panel",
            hint="name the earlier story's folder with --from-story",
        )
    prompt, inputs = prompt.strip(), input_images(images)
    if not inputs and not prompt:
        raise PromptError(
            "a story needs something to go on from",
            where="story",
            hint='give a picture with --image, words such as "Once upon a time", or both',
        )
    panels = [Panel("", each.image, given=True) for each in inputs] or [Panel("", None, given=True)]
    panels[-1] = panels[-1]._replace(text=prompt)
    pictures: list[Picture] = [each.picture for each in inputs]
    return Opening(prompt, pictures, panels, [], hashes_of(inputs), files_of(inputs))


def earlier_values(folder: str | Path, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe values for continuing an earlier story: that story's values where none is given.

    The seed is not carried over, because it would tell the same story again. Stories of earlier
    versions name temperature 0, which was the default then: they are told on with today's.

    Raises:
        DataError: When the folder holds no story, or one that names code or a remote model that is
            not among the flags.
    """
    record = read_story(user_path(folder)).record
    before, sampling = dict(record["recipe"]), dict(record.get("sampling") or {})
    for name in ("command", "seed", "from_story", "from_panel"):
        before.pop(name, None)
    words = dict(before.pop("text", {}))
    if not words.get("temperature") and not {*STORY_TEXT} & set(sampling):
        words = {name: value for name, value in words.items() if name not in STORY_TEXT}
    text = {f"text.{name}": value for name, value in words.items()}
    asked = {name: value for name, value in flags.items() if value is not None}
    named = (asked.get("scheduler"), asked.get("model"))
    check_harmless(folder, {**before, **asked}, named)
    return {**before, **text, **asked, "from_story": str(user_path(folder).absolute())}


@dataclass(frozen=True)
class StoryRequest:
    """A story to tell.

    Attributes:
        loaded: Open model.
        params: How images and text are sampled.
        opening: Opening that the story continues.
        plan: Number of panels, and their length.
        info: How the story will be made, including its seed.
    """

    loaded: LoadedModel
    params: SamplingParams
    opening: Opening
    plan: StoryPlan
    info: GenerationInfo

    @property
    def images_to_draw(self) -> int:
        """The largest number of images it may draw, without those of an earlier story."""
        earlier = sum(panel.image is not None for panel in self.opening.earlier)
        return max(0, self.plan.panels - earlier)

    def events(self, continue_panel: PanelContinuer | None = None) -> Iterator[Event | PanelDone]:
        """Tells. Yields as `tell`, which takes the argument."""
        builder, opening = self.loaded.builder, self.opening
        return tell(
            builder,
            _words_and_pictures(opening.prompt, opening.pictures),
            self.params,
            self.plan,
            seed=self.info.seed,
            before=[panel_context(builder, p.text, _picture_of(p)) for p in opening.earlier],
            first=first_number(opening.panels) + len(opening.panels),
            continue_panel=continue_panel,
        )


def prepare_story(loaded: LoadedModel, recipe: StoryRecipe, opening: Opening) -> StoryRequest:
    """A story that continues its opening.

    Args:
        loaded: Open model.
        recipe: Recipe of the command `story`; without a seed, one is chosen at random.
        opening: Opening from `open_story`.

    Raises:
        PromptError: When a requested value is not supported by this kind of model.
        CheckpointError: As `prepare_generate`.
    """
    (seed,) = choose_seeds(() if recipe.seed is None else (recipe.seed,), 1)
    params = SamplingParams.from_recipe(loaded.model.config, recipe)
    plan = StoryPlan(
        panels=recipe.panels,
        free=recipe.free,
        longest_text=recipe.text.max_new_tokens,
        keep_panels=recipe.keep_panels,
    )
    info = GenerationInfo(
        as_table(dataclasses.replace(recipe, seed=seed)),
        opening.prompt,
        seed,
        {**params.to_dict(), **{name: getattr(params, name) for name in STORY_TEXT}},
        loaded.about,
        inputs=opening.inputs,
        files=opening.files,
    )
    return StoryRequest(loaded, params, opening, plan, info)


class StoryCollector:
    """Gathers a story from its events.

    Attributes:
        panels: Panels that were told so far.
    """

    def __init__(self, request: StoryRequest) -> None:
        self._opening, self._info = request.opening, request.info
        self.panels: list[Panel] = []

    def add(self, event: Any) -> Panel | None:
        """Takes an event and returns the panel that it completes, if any."""
        if not isinstance(event, PanelDone):
            return None
        self.panels.append(_panel_of(event))
        return self.panels[-1]

    @property
    def number(self) -> int:
        """Number of the latest panel."""
        panels = self.story.panels
        return first_number(panels) + len(panels) - 1

    @property
    def story(self) -> Story:
        """The story so far."""
        opening = self._opening
        return Story([*opening.panels, *opening.earlier, *self.panels], self._info)


def _words_and_pictures(prompt: str, pictures: Sequence[Picture]) -> list[str | Picture]:
    """The opening as the model reads it: a picture is followed by words that ask for a
    continuation.
    """
    asks = prompt.rstrip(" .").endswith(CONTINUE.rstrip("."))
    words = " ".join([*prompt.split(), *([] if asks else [CONTINUE])]) if pictures else prompt
    return [*pictures, words]


def _earlier_opening(
    recipe: StoryRecipe, prompt: str, images: PictureLike | Sequence[PictureLike]
) -> Opening:
    before = read_story(user_path(recipe.from_story or ""))
    words = str(before.record.get("prompt", ""))
    if input_images(images) or prompt.strip() not in ("", words):
        raise PromptError(
            "a story that is told on keeps its own words and pictures",
            where="from_story",
            hint="leave out the prompt and --image, or tell a new story",
        )
    first = first_number(before.opening) + len(before.opening)
    after_last = first + len(before.panels)
    panel = recipe.from_panel or after_last
    if not first <= panel <= after_last:
        has = f"panels {first} to {after_last - 1}" if before.panels else "none yet"
        raise PromptError(
            f"there is no panel {panel} to tell anew: the story has {has}",
            where="from_panel",
            hint=f"give a number from {first} to {after_last}, which is one more",
        )
    kept = before.panels[: panel - first]
    if sum(each.image is not None for each in kept) >= recipe.panels:
        raise PromptError(
            f"the earlier panels have all of {recipe.panels} pictures already",
            where="panels",
            hint="ask for more with --panels, or go on from an earlier one with --from-panel",
        )
    earlier = [each._replace(given=True, earlier=True) for each in kept]
    pictures: list[Picture] = [
        picture for each in before.opening if (picture := _picture_of(each)) is not None
    ]
    return Opening(words, pictures, before.opening, earlier)


def _picture_of(panel: Panel) -> Picture | None:
    """A panel's image as a `Picture` for prompts."""
    return None if panel.png is None else BytesPicture(panel.png)


def _panel_of(done: PanelDone) -> Panel:
    """A finished panel as a `Panel` of the results."""
    return Panel(
        done.text,
        None if done.pixels_3HW is None else to_image(done.pixels_3HW),
        forced=done.forced,
        went_on=done.went_on,
        kept=done.kept,
    )
