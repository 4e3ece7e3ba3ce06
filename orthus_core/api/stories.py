"""A story being told: from its opening, or from a panel of an earlier telling."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from orthus_core.api.inputs import PictureLike, files_of, hashes_of, input_images
from orthus_core.data.pictures import BytesPicture, Picture
from orthus_core.data.pixels import to_image
from orthus_core.errors import PromptError
from orthus_core.events import Event
from orthus_core.recipe import StoryRecipe, as_table
from orthus_core.results.metadata import GenerationInfo
from orthus_core.results.story_folder import Panel, read_story, write_story
from orthus_core.results.trusted import check_harmless
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.story import PanelDone, StoryPlan, remembered, tell

# What story data ends the user's part with (StoryStream, and the bundled model's own stories).
CONTINUE = "Please continue this story."


class Opening(NamedTuple):
    """What a story goes on from, before there is a model.

    prompt: The user's words.
    pictures: The user's pictures, in order.
    panels: Both as panels.
    earlier: Panels of an earlier telling that stay as they are.
    inputs, files: Hashes and places of the user's pictures.
    """

    prompt: str
    pictures: list[Picture]
    panels: list[Panel]
    earlier: list[Panel]
    inputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Story(NamedTuple):
    """A story as it was told.

    panels: What the user gave, then what the model told.
    making: How.
    """

    panels: list[Panel]
    info: GenerationInfo

    @property
    def images(self) -> list[Image.Image]:
        """The pictures that were drawn."""
        return [panel.image for panel in self.panels if panel.image and not panel.given]

    @property
    def texts(self) -> list[str]:
        """The words of each panel that was told."""
        return [panel.text for panel in self.panels if not panel.given]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> dict[str, Any]:
        """Writes the folder, and returns what its `story.json` says.

        Raises: OutputError when the folder is taken or cannot be written to.
        """
        return write_story(Path(folder), self.panels, self.info, overwrite=overwrite)


def open_story(
    recipe: StoryRecipe, prompt: str, images: PictureLike | Sequence[PictureLike] = ()
) -> Opening:
    """What a story begins with: new words and pictures, or an earlier telling.

    Raises:
        PromptError: When there is nothing to go on from, or both is given.
        DataError: When a picture or the earlier story does not read.
    """
    if recipe.from_story is not None:
        return _reopened(recipe, prompt, images)
    if recipe.from_panel is not None:
        raise PromptError(
            "a panel to tell on from, but no story that has it",
            where="from_panel",
            hint="name the earlier story's folder with --from-story",
        )
    prompt, given = prompt.strip(), input_images(images)
    if not given and not prompt:
        raise PromptError(
            "a story needs something to go on from",
            where="story",
            hint='give a picture with --image, words such as "Once upon a time", or both',
        )
    panels = [Panel("", each.image, given=True) for each in given] or [Panel("", None, given=True)]
    panels[-1] = panels[-1]._replace(text=prompt)
    pictures: list[Picture] = [each.picture for each in given]
    return Opening(prompt, pictures, panels, [], hashes_of(given), files_of(given))


def as_before(folder: str | Path, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a recipe that tells on from an earlier story: its own where none is given.

    The seed is not carried over: the same would tell the same again.

    Raises:
        DataError: When the folder holds no story, or one that asks for code or for a model from
            elsewhere which are not among the flags.
    """
    before = dict(read_story(Path(folder)).record["recipe"])
    for name in ("command", "seed", "from_story", "from_panel"):
        before.pop(name, None)
    text = {f"text.{name}": value for name, value in dict(before.pop("text", {})).items()}
    given = {name: value for name, value in flags.items() if value is not None}
    named = (given.get("scheduler"), given.get("model"))
    check_harmless(folder, {**before, **given}, named)
    return {**before, **text, **given, "from_story": str(Path(folder).expanduser().absolute())}


class Telling:
    """One story on its way; `panels` grows as it is told.

    Args:
        asking: Whose model tells.
        about: Name and hash of the model, device and precision.
        recipe: How.
        opening: From `open_story`.
        seed: Of the story.

    Raises:
        PromptError: When something is asked for that this kind of model does not do.
    """

    def __init__(
        self,
        builder: PromptBuilder,
        about: dict[str, str],
        recipe: StoryRecipe,
        opening: Opening,
        seed: int,
    ) -> None:
        self._builder, self._recipe, self._opening, self._seed = builder, recipe, opening, seed
        self.params = SamplingParams.from_recipe(builder.model.config, recipe)
        table = as_table(dataclasses.replace(recipe, seed=seed))
        self.info = GenerationInfo(
            table,
            opening.prompt,
            seed,
            self.params.to_dict(),
            about,
            inputs=opening.inputs,
            files=opening.files,
        )
        self.panels: list[Panel] = []

    @property
    def story(self) -> Story:
        """The story as far as it is told."""
        opening = self._opening
        return Story([*opening.panels, *opening.earlier, *self.panels], self.info)

    @property
    def drawn(self) -> int:
        """Pictures drawn so far."""
        return sum(panel.image is not None for panel in self.panels)

    @property
    def to_draw(self) -> int:
        """Pictures there will be at most, those of an earlier telling not counted."""
        earlier = sum(panel.image is not None for panel in self._opening.earlier)
        return max(0, self._recipe.panels - earlier)

    def events(self) -> Iterator[Event | PanelDone]:
        """Tells. Yields and raises as `tell`."""
        recipe, opening = self._recipe, self._opening
        before = [
            remembered(self._builder, panel.text, _picture(panel)) for panel in opening.earlier
        ]
        events = tell(
            self._builder,
            _request(opening.prompt, opening.pictures),
            self.params,
            StoryPlan(
                panels=recipe.panels,
                free=recipe.free,
                longest_text=recipe.text.max_new_tokens,
                keep_panels=recipe.keep_panels,
            ),
            seed=self._seed,
            before=before,
            first=len(opening.panels) + 1,
        )
        for event in events:
            if isinstance(event, PanelDone):
                self.panels.append(_panel(event))
            yield event


def _request(prompt: str, pictures: Sequence[Picture]) -> list[str | Picture]:
    """What the model is given: after a picture, words that ask it to go on."""
    asks = prompt.rstrip(" .").endswith(CONTINUE.rstrip("."))
    words = " ".join([*prompt.split(), *([] if asks else [CONTINUE])]) if pictures else prompt
    return [*pictures, words]


def _reopened(
    recipe: StoryRecipe, prompt: str, images: PictureLike | Sequence[PictureLike]
) -> Opening:
    before = read_story(Path(recipe.from_story or ""))
    words = str(before.record.get("prompt", ""))
    if input_images(images) or prompt.strip() not in ("", words):
        raise PromptError(
            "a story that is told on keeps its own words and pictures",
            where="from_story",
            hint="leave out the prompt and --image, or tell a new story",
        )
    first = len(before.opening) + 1
    after_last = first + len(before.panels)
    panel = recipe.from_panel or after_last
    if not first <= panel <= after_last:
        raise PromptError(
            f"there is no panel {panel} to tell anew: the story has panels {first} to "
            f"{after_last - 1}",
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
        picture for each in before.opening if (picture := _picture(each)) is not None
    ]
    return Opening(words, pictures, before.opening, earlier)


def _picture(panel: Panel) -> Picture | None:
    return None if panel.png is None else BytesPicture(panel.png)


def _panel(done: PanelDone) -> Panel:
    return Panel(
        done.text,
        None if done.pixels_3HW is None else to_image(done.pixels_3HW),
        forced=done.forced,
        went_on=done.went_on,
        kept=done.kept,
    )
