"""Events of stories: each one adds a sentence and changes what the picture shows.

An event is a function of the story's state (`StoryState`). It returns None where it makes no sense,
such as eating without food. The picture is a function of the state alone (`scene_of_state`), so a
sentence has one right picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from orthus_core.world.backdrops import GROUND_WORDS, GROUNDS, is_outdoors, place_of
from orthus_core.world.cast import ACTORS, COLOURED, FOOD, THINGS
from orthus_core.world.english import the, with_article
from orthus_core.world.scene import LARGE, SMALL, STEP, WHOLE, Scene, Thing
from orthus_core.world.world import World


@dataclass(frozen=True)
class StoryState:
    """State of a story.

    Attributes:
        hero: Main character, a noun of `ACTORS`.
        backdrop: Place and time; "white" before the story has reached a place.
        friend: Noun of the hero's companion, or "".
        thing: Noun of the thing that one of them has, or "".
        holder: Noun of the actor who has it: the hero or the friend.
    """

    hero: str
    backdrop: str = "white"
    friend: str = ""
    thing: str = ""
    holder: str = ""

    @property
    def sky(self) -> str:
        """The sky of the backdrop; "day" before the story has reached a place."""
        return place_of(self.backdrop)[1] if is_outdoors(self.backdrop) else "day"

    @property
    def entities(self) -> tuple[str, ...]:
        """The nouns of all visible things: hero, friend, thing."""
        return tuple(noun for noun in (self.hero, self.friend, self.thing) if noun)

    def without_thing(self) -> StoryState:
        """The state in which nobody has a thing."""
        return replace(self, thing="", holder="")

    def under(self, sky: str) -> StoryState:
        """The state with the same place under another sky."""
        return replace(self, backdrop=f"{place_of(self.backdrop)[0]} {sky}")


class EventOutcome(NamedTuple):
    """Result of an event.

    Attributes:
        sentence: Sentence of the event.
        actor: Noun of the actor who causes it or sees it.
        state: State of the story afterwards.
    """

    sentence: str
    actor: str
    state: StoryState


StoryEvent = Callable[[random.Random, World, StoryState], "EventOutcome | None"]


def scene_of_state(world: World, state: StoryState) -> Scene:
    """The scene that shows a state.

    A hero without company is large and to the left; on white it fills the picture. Otherwise all
    things are small: the hero is at the lower left, the friend at the lower right, and the thing
    above its holder, or in the friend's place if there is no friend.
    """

    def thing(noun: str, x: int, y: int, side: int = SMALL) -> Thing:
        return Thing(world.cast[noun].key, x, y, side)

    if not is_outdoors(state.backdrop):
        return Scene(state.backdrop, (thing(state.hero, 0, 0, WHOLE),))
    if len(state.entities) == 1:
        return Scene(state.backdrop, (thing(state.hero, 0, STEP, LARGE),))
    things = [thing(state.hero, 0, SMALL)]
    if state.friend:
        things.append(thing(state.friend, SMALL, SMALL))
    if state.thing and state.friend:
        things.append(thing(state.thing, 0 if state.holder == state.hero else SMALL, 0))
    elif state.thing:
        things.append(thing(state.thing, SMALL, SMALL))
    return Scene(state.backdrop, tuple(things))


def _walks(rng: random.Random, world: World, state: StoryState) -> EventOutcome:
    here = place_of(state.backdrop)[0] if is_outdoors(state.backdrop) else ""
    ground = rng.choice([ground for ground in GROUNDS if ground != here])
    _, place = GROUND_WORDS[ground].split(maxsplit=1)
    company = [the(noun) for noun in (state.hero, state.friend) if noun]
    sentence = f"{' and '.join(company)} {'walk' if state.friend else 'walks'} to {place}."
    return EventOutcome(sentence, state.hero, replace(state, backdrop=f"{ground} {state.sky}"))


def _meets(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if state.friend:
        return None
    friend = _one_of(ACTORS, rng, world, but=state.hero)
    sentence = f"{the(state.hero)} meets {with_article(friend)}."
    return EventOutcome(sentence, state.hero, replace(state, friend=friend))


def _finds(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if state.thing:
        return None
    thing = _one_of(rng.choice((COLOURED, FOOD, THINGS)), rng, world)
    sentence = f"{the(state.hero)} finds {with_article(thing)}."
    return EventOutcome(sentence, state.hero, replace(state, thing=thing, holder=state.hero))


def _eats(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if state.thing not in FOOD:
        return None
    sentence = f"{the(state.holder)} eats {the(state.thing)}."
    return EventOutcome(sentence, state.holder, state.without_thing())


def _gives(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if not (state.friend and state.thing):
        return None
    other = state.friend if state.holder == state.hero else state.hero
    sentence = f"{the(state.holder)} gives {the(state.thing)} to {the(other)}."
    return EventOutcome(sentence, state.holder, replace(state, holder=other))


def _loses(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if not state.thing:
        return None
    sentence = f"{the(state.holder)} loses {the(state.thing)}."
    return EventOutcome(sentence, state.holder, state.without_thing())


def _goes_home(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if not state.friend:
        return None
    # A thing that the friend has goes with it.
    left = state.without_thing() if state.holder == state.friend else state
    return EventOutcome(f"{the(state.friend)} goes home.", state.friend, replace(left, friend=""))


def _becomes(rng: random.Random, world: World, state: StoryState) -> EventOutcome:
    other = _one_of([actor for actor in ACTORS if actor != state.friend], rng, world, state.hero)
    holder = other if state.holder == state.hero else state.holder
    sentence = f"{the(state.hero)} turns into {with_article(other)}."
    return EventOutcome(sentence, state.hero, replace(state, hero=other, holder=holder))


def _sky(sentence: str, before: Iterable[str], after: str) -> StoryEvent:
    """An event that changes the sky; its actor is the hero."""

    def event(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
        return (
            EventOutcome(sentence, state.hero, state.under(after)) if state.sky in before else None
        )

    return event


def _one_of(nouns: Iterable[str], rng: random.Random, world: World, but: str = "") -> str:
    return rng.choice([noun for noun in nouns if noun in world.cast and noun != but])


# Events, with their weights where they are possible. Consequences have high weights, so that they
# follow soon.
EVENTS: Mapping[str, tuple[StoryEvent, float]] = {
    "walk": (_walks, 1.5),
    "meet": (_meets, 4.0),
    "find": (_finds, 3.5),
    "eat": (_eats, 12.0),
    "give": (_gives, 8.0),
    "lose": (_loses, 0.7),
    "go home": (_goes_home, 1.5),
    "become": (_becomes, 0.5),
    "sunset": (_sky("the sun goes down.", ("day",), "sunset"), 0.7),
    "night": (_sky("night falls.", ("day", "sunset", "rain"), "night"), 0.7),
    "morning": (_sky("morning comes.", ("night",), "day"), 1.5),
    "rain": (_sky("it starts to rain.", ("day", "sunset"), "rain"), 0.7),
    "dry": (_sky("the rain stops.", ("rain",), "day"), 1.5),
}
