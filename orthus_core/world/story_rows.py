"""Short stories: an opening with a hero, then sentences, each with the picture that it describes.

user   [a fox in a meadow] once upon a time there was a fox in a meadow by day. Please continue
       this story.
model  the fox meets a penguin. [both] night falls. [both, at night]

Every sentence about the hero names it: "the fox", never "it".
"""

from __future__ import annotations

import random
from typing import NamedTuple

from orthus_core.data.document import Segment, turn
from orthus_core.errors import DataError
from orthus_core.world.arrange import arrange
from orthus_core.world.backdrops import OUTDOORS, SKYLESS, is_place, place_of
from orthus_core.world.cast import ACTORS, CAST
from orthus_core.world.english import with_article
from orthus_core.world.scene import Scene
from orthus_core.world.single_sprites import SKYLESS_CHANCE, open_ground
from orthus_core.world.splits import scene_held_out, story_held_out
from orthus_core.world.story_events import EVENTS, StoryState, scene_of_state
from orthus_core.world.wording import place_phrase
from orthus_core.world.world import World

# Last words of the user's turn when there is a picture, as in the command `orthus story`.
CONTINUE = "Please continue this story."
REQUESTS = (
    "a story about {}",
    "tell a story about {}",
    "tell me a story about {}",
    "write a story about {}",
)
OPENINGS = (
    "once upon a time there was {hero} {place}",
    "there once was {hero} {place}",
    "this is the story of {hero} {place}",
)

# Weights of the number of panels in the model's turn, each about a dozen tokens and a picture.
PANEL_COUNTS = {1: 0.04, 2: 0.12, 3: 0.42, 4: 0.26, 5: 0.10, 6: 0.03, 7: 0.03}
FROM_PICTURE_CHANCE = 0.6
# Share of stories from a picture whose opening has no text.
WORDLESS_CHANCE = 0.4
# Share of stories without a picture that start from an opening sentence; the rest are requests.
OPENING_CHANCE = 0.3
# Share of openings that show the hero on white, like a picture from `orthus generate`.
ON_WHITE_CHANCE = 0.4
# Tries until a story contains something that is held out; about one in seven does.
MOST_TRIES = 2_000
# Tries for the next event before a story is abandoned.
MOST_DRAWS = 50


class WorldPanel(NamedTuple):
    """One sentence and its picture.

    Attributes:
        text: Sentence.
        scene: Scene that the picture shows.
        event: Event, a name of `EVENTS`; "" in the opening.
        actor: Noun of the event's actor.
        state: State of the story that the picture shows.
    """

    text: str
    scene: Scene
    event: str
    actor: str
    state: StoryState


class WorldStory(NamedTuple):
    """A story.

    Attributes:
        panels: Panels in order; the first one is the opening, which has no event.
    """

    panels: tuple[WorldPanel, ...]

    @property
    def cells(self) -> list[tuple[str, str]]:
        """All pairs of actor and event."""
        return [(panel.actor, panel.event) for panel in self.panels if panel.event]

    @property
    def held_out(self) -> bool:
        """Whether it contains a pair of actor and event that is held out."""
        return any(story_held_out(*cell) for cell in self.cells)


def story(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A story that starts from an opening picture, with or without its text, or from text alone."""
    panel_count = rng.choices(list(PANEL_COUNTS), list(PANEL_COUNTS.values()))[0]
    if rng.random() < FROM_PICTURE_CHANCE:
        opening, *panels = make_story(rng, world, panel_count + 1).panels
        words = [] if rng.random() < WORDLESS_CHANCE else [opening.text]
        user = turn(
            "user",
            world.scene_image(_vary_opening(rng, world, opening)),
            " ".join([*words, CONTINUE]),
        )
    elif rng.random() < OPENING_CHANCE:
        opening, *panels = make_story(rng, world, panel_count + 1).panels
        user = turn("user", opening.text)
    else:
        panels = make_story(rng, world, max(panel_count, 2), backdrop=_place(rng)).panels
        user = turn("user", rng.choice(REQUESTS).format(_characters(panels[0], panels)))
    for panel in panels:
        user += turn("model", panel.text, world.scene_image(panel.scene))
    return user


def make_story(rng: random.Random, world: World, panels: int, *, backdrop: str = "") -> WorldStory:
    """Samples a story that this world may show.

    In a training world, nothing in it is held out; in a testing world, an event is.

    Args:
        rng: Random numbers.
        world: World of the story.
        panels: Number of panels, including the opening; at least 2.
        backdrop: Backdrop of the opening; sampled when empty.

    Raises:
        DataError: if the pack does not contain the whole cast.
    """
    heroes = [actor for actor in ACTORS if actor in world.cast]
    for _ in range(MOST_TRIES if len(world.cast) == len(CAST) else 0):
        on_white = rng.random() < ON_WHITE_CHANCE
        opens = backdrop or ("white" if on_white else _place(rng))
        hero = rng.choice(heroes)
        state = StoryState(hero, opens, last_sky=place_of(opens)[1] or "day")
        first = _opening(rng, world, state)
        if scene_held_out(first.scene, world.nouns(first.scene)):
            continue
        candidate = _continue(rng, world, first, panels)
        if candidate and candidate.held_out == world.testing:
            return candidate
    raise DataError(
        "the sprite pack lacks sprites that stories need",
        where=str(world.pack.path),
        hint="leave out the task 'story', or use the bundled pack",
    )


def _place(rng: random.Random) -> str:
    return rng.choice(SKYLESS if rng.random() < SKYLESS_CHANCE else OUTDOORS)


def _opening(rng: random.Random, world: World, state: StoryState) -> WorldPanel:
    hero, place = with_article(state.hero), place_phrase(state.backdrop)
    words = rng.choice(OPENINGS).format(hero=hero, place=place).strip()
    return WorldPanel(f"{words}.", scene_of_state(world, state), "", state.hero, state)


def _vary_opening(rng: random.Random, world: World, opening: WorldPanel) -> Scene:
    """The opening scene as a user may draw it: the hero at any place, and on any plain ground
    before the story has reached a place.
    """
    while True:
        backdrop = opening.scene.backdrop if opening.state.ground else open_ground(rng)
        scene = arrange(rng, opening.scene.things, backdrop)
        if is_place(backdrop) == bool(opening.state.ground) and not world.holds_out(scene):
            return scene


def _continue(
    rng: random.Random, world: World, opening: WorldPanel, panels: int
) -> WorldStory | None:
    """A story from an opening, without held-out scenes; None if no further event was found."""
    story_panels = [opening]
    while len(story_panels) < panels:
        panel = _next(rng, world, story_panels[-1])
        if panel is None:
            return None
        story_panels.append(panel)
    return WorldStory(tuple(story_panels))


def _next(rng: random.Random, world: World, last: WorldPanel) -> WorldPanel | None:
    """A panel with a possible event; None if none was found in `MOST_DRAWS` tries."""
    # A hero on white must first walk to a place. An event does not directly follow itself, so
    # nobody gives back a thing at once.
    placed = bool(last.state.ground)
    possible = [event for event in EVENTS if event != last.event] if placed else ["walk"]
    weights = [EVENTS[event][1] for event in possible]
    for _ in range(MOST_DRAWS):
        event = rng.choices(possible, weights)[0]
        happening = EVENTS[event][0](rng, world, last.state)
        if happening is None or not world.testing and story_held_out(happening.actor, event):
            continue
        sentence, actor, state = happening
        scene = scene_of_state(world, state)
        if world.stands_out(scene) and not scene_held_out(scene, world.nouns(scene)):
            return WorldPanel(sentence, scene, event, actor, state)
    return None


def _characters(first: WorldPanel, panels: tuple[WorldPanel, ...] | list[WorldPanel]) -> str:
    """The characters that a request names: the hero, and the first friend that it meets."""
    met = [panel.state.friend for panel in panels if panel.event == "meet"][:1]
    return " and ".join(with_article(noun) for noun in [first.state.hero, *met])
