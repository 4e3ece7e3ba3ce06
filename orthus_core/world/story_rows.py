"""Short stories in pictures: a hero is given, then each sentence brings what its picture shows.

user   [a fox in a meadow] once upon a time there was a fox in a meadow by day. Please continue
       this story.
model  the fox meets a penguin. [both] night falls. [both, at night]

The hero is named in every sentence that it has a part in: "the fox", never "it".
"""

from __future__ import annotations

import random
from typing import NamedTuple

from orthus_core.data.document import Segment, turn
from orthus_core.errors import DataError
from orthus_core.world.backdrops import OUTDOORS, is_outdoors
from orthus_core.world.cast import ACTORS, CAST
from orthus_core.world.english import with_article
from orthus_core.world.scene import STEP, Scene
from orthus_core.world.splits import scene_held_out, story_held_out
from orthus_core.world.story_events import EVENTS, StoryState, scene_of_state
from orthus_core.world.wording import place_phrase
from orthus_core.world.world import World

# What the command `orthus story` ends the user's part with when there is a picture.
CONTINUE = "Please continue this story."
REQUESTS = ("a story about {}", "tell a story about {}")

# How many panels the model tells, and how often: each is about 28 tokens long, so most rows stay
# within 150 positions.
PANEL_COUNTS = {1: 0.05, 2: 0.35, 3: 0.35, 4: 0.17, 5: 0.04, 6: 0.02, 7: 0.02}
FROM_PICTURE_CHANCE = 0.6
# Of stories from a picture, how many say nothing about it.
WORDLESS_CHANCE = 0.4
# Of stories from words alone, how many begin as a story does; the rest ask for one.
OPENING_CHANCE = 0.3
# Of openings, how many show the hero on white: a picture as `orthus generate` makes it.
ON_WHITE_CHANCE = 0.4
# How often to begin anew until something is held out; about one story in seven has it.
MOST_TRIES = 2_000
# How often to draw a next event before a story is given up and begun anew.
MOST_DRAWS = 50


class WorldPanel(NamedTuple):
    """One sentence and its picture.

    event: A name of `EVENTS`; "" in the opening.
    actor: Who does it.
    state: What the picture has to show.
    """

    text: str
    scene: Scene
    event: str
    actor: str
    state: StoryState


class WorldStory(NamedTuple):
    """Panels in order; the first one is the opening, in which nothing happens yet."""

    panels: tuple[WorldPanel, ...]

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Each pair of actor and event."""
        return [(panel.actor, panel.event) for panel in self.panels if panel.event]

    @property
    def held_out(self) -> bool:
        """Whether it tells what no training story does."""
        return any(story_held_out(*cell) for cell in self.cells)


def story(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A story from its opening picture, with words or without, or from words alone."""
    panel_count = rng.choices(list(PANEL_COUNTS), list(PANEL_COUNTS.values()))[0]
    if rng.random() < FROM_PICTURE_CHANCE:
        opening, *panels = make_story(rng, world, panel_count + 1).panels
        words = [] if rng.random() < WORDLESS_CHANCE else [opening.text]
        user = turn(
            "user", world.scene_image(_vary_opening(rng, opening)), " ".join([*words, CONTINUE])
        )
    elif rng.random() < OPENING_CHANCE:
        opening, *panels = make_story(rng, world, panel_count + 1).panels
        user = turn("user", opening.text)
    else:
        panels = make_story(rng, world, max(panel_count, 2), backdrop=rng.choice(OUTDOORS)).panels
        user = turn("user", rng.choice(REQUESTS).format(_characters(panels[0], panels)))
    for panel in panels:
        user += turn("model", panel.text, world.scene_image(panel.scene))
    return user


def make_story(rng: random.Random, world: World, panels: int, *, backdrop: str = "") -> WorldStory:
    """A story that this world may tell: without anything held out, or when testing with an event
    that is.

    Args:
        panels: How many, the opening among them; at least 2.
        backdrop: Where it opens; drawn when empty.

    Raises:
        DataError: if the pack has none of those who play in scenes.
    """
    heroes = [actor for actor in ACTORS if actor in world.cast]
    for _ in range(MOST_TRIES if len(world.cast) == len(CAST) else 0):
        on_white = rng.random() < ON_WHITE_CHANCE
        opens = backdrop or ("white" if on_white else rng.choice(OUTDOORS))
        candidate = _continue(
            rng, world, _opening(world, StoryState(rng.choice(heroes), opens)), panels
        )
        if candidate and candidate.held_out == world.testing:
            return candidate
    raise DataError(
        "the sprite pack has not all that stories tell of",
        where=str(world.pack.path),
        hint="leave the task 'story' out, or use the bundled pack",
    )


def _opening(world: World, state: StoryState) -> WorldPanel:
    place = place_phrase(state.backdrop)
    words = f"once upon a time there was {with_article(state.hero)} {place}".strip()
    return WorldPanel(f"{words}.", scene_of_state(world, state), "", state.hero, state)


def _vary_opening(rng: random.Random, opening: WorldPanel) -> Scene:
    """The opening as somebody may bring it: out of doors its hero may stand farther right."""
    outdoors = is_outdoors(opening.scene.backdrop)
    return opening.scene.with_thing(0, x=rng.choice((0, STEP))) if outdoors else opening.scene


def _continue(
    rng: random.Random, world: World, opening: WorldPanel, panels: int
) -> WorldStory | None:
    """The opening and what happens then, no scene of it held out; None if it came to a dead end."""
    story_panels = [opening]
    while len(story_panels) < panels:
        panel = _next(rng, world, story_panels[-1])
        if panel is None:
            return None
        story_panels.append(panel)
    return WorldStory(tuple(story_panels))


def _next(rng: random.Random, world: World, last: WorldPanel) -> WorldPanel | None:
    """Something that can happen now, if it was drawn soon enough."""
    # A hero on white has yet to come to a place, and nobody gives back what was just given.
    placed = is_outdoors(last.state.backdrop)
    possible = [event for event in EVENTS if event != last.event] if placed else ["walk"]
    weights = [EVENTS[event][1] for event in possible]
    for _ in range(MOST_DRAWS):
        event = rng.choices(possible, weights)[0]
        happening = EVENTS[event][0](rng, world, last.state)
        if happening is None or not world.testing and story_held_out(happening.actor, event):
            continue
        sentence, actor, state = happening
        scene = scene_of_state(world, state)
        if not scene_held_out(scene, world.nouns(scene)):
            return WorldPanel(sentence, scene, event, actor, state)
    return None


def _characters(first: WorldPanel, panels: tuple[WorldPanel, ...] | list[WorldPanel]) -> str:
    """Whom a story is about: the hero, and the friend it meets first."""
    met = [panel.state.friend for panel in panels if panel.event == "meet"][:1]
    return " and ".join(with_article(noun) for noun in [first.state.hero, *met])
