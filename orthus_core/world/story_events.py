"""Events of stories: each one adds a sentence and changes what the picture shows.

An event is a function of the story's state (`StoryState`). It returns None where it makes no sense,
such as eating without food. The picture is a function of the state alone (`scene_of_state`), so a
sentence has one right picture. An event has several sentences, which mean the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from orthus_core.world.backdrops import GROUND_WORDS, GROUNDS, SKYLESS, is_outdoors, place_of
from orthus_core.world.cast import ACTORS, FOOD, KEEPSAKES, WITHOUT_HUNGER
from orthus_core.world.english import the, with_article
from orthus_core.world.scene import LARGE, SMALL, STEP, UNITS, Scene, Thing
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
        last_sky: Sky that was seen last, for places without one.
    """

    hero: str
    backdrop: str = "white"
    friend: str = ""
    thing: str = ""
    holder: str = ""
    last_sky: str = "day"

    @property
    def ground(self) -> str:
        """The ground of the place; "" before the story has reached one."""
        return place_of(self.backdrop)[0] if self.backdrop != "white" else ""

    @property
    def sky(self) -> str:
        """The sky of the place, or the one seen last."""
        return place_of(self.backdrop)[1] if is_outdoors(self.backdrop) else self.last_sky

    @property
    def entities(self) -> tuple[str, ...]:
        """The nouns of all visible things: hero, friend, thing."""
        return tuple(noun for noun in (self.hero, self.friend, self.thing) if noun)

    def without_thing(self) -> StoryState:
        """The state in which nobody has a thing."""
        return replace(self, thing="", holder="")

    def with_thing(self, thing: str, holder: str) -> StoryState:
        """The state in which someone has a thing."""
        return replace(self, thing=thing, holder=holder)

    def at(self, ground: str) -> StoryState:
        """The state at another place, under the same sky."""
        backdrop = ground if ground in SKYLESS else f"{ground} {self.sky}"
        return replace(self, backdrop=backdrop, last_sky=self.sky)

    def under(self, sky: str) -> StoryState:
        """The state at the same place under another sky."""
        return replace(self, backdrop=f"{self.ground} {sky}", last_sky=sky)


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

    The hero stands at the lower left, at the same place in all pictures; on white it is large. The
    friend stands at the lower right. A thing is above its holder, or in the friend's place if there
    is no friend.
    """

    def thing(noun: str, x: int, y: int) -> Thing:
        return Thing(world.cast[noun].key, x, y, SMALL)

    right = low = UNITS - SMALL
    hero = thing(state.hero, 0, low)
    if not state.ground:
        return Scene(state.backdrop, (replace(hero, x=STEP, y=STEP, side=LARGE),))
    things = [hero]
    if state.friend:
        things.append(thing(state.friend, right, low))
    if state.thing and state.friend:
        things.append(thing(state.thing, 0 if state.holder == state.hero else right, 0))
    elif state.thing:
        things.append(thing(state.thing, right, low))
    return Scene(state.backdrop, tuple(things))


# Sentences about going to a place; {who} goes alone, {both} go together.
WALKS = (
    "{who} walks to {place}.",
    "{who} goes to {place}.",
    "{who} travels to {place}.",
)
WALKS_TOGETHER = (
    "{both} walk to {place}.",
    "{both} go to {place}.",
    "{both} travel to {place}.",
)
# Grounds that nobody walks to: sentences for one, then for two.
ARRIVALS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "room": (
        ("{who} goes inside a room.", "{who} goes into a room."),
        ("{both} go inside a room.", "{both} go into a room."),
    ),
    "sea": (
        ("{who} dives under the sea.", "{who} swims under the sea."),
        ("{both} dive under the sea.", "{both} swim under the sea."),
    ),
    "space": (
        ("{who} flies into space.", "{who} travels to space."),
        ("{both} fly into space.", "{both} travel to space."),
    ),
}
# Chances of grounds; nobody dives or flies all the time.
GROUND_WEIGHTS: Mapping[str, float] = {"room": 0.6, "sea": 0.3, "space": 0.3}
MEETS = (
    "{who} meets {a_friend}.",
    "then {a_friend} comes along.",
    "{who} makes a new friend, {a_friend}.",
    "{who} sees {a_friend} and says hello.",
)
FINDS = ("{who} finds {a_thing}.", "{who} discovers {a_thing}.", "{who} picks up {a_thing}.")
PICKS = ("{who} picks {a_thing}.", "{who} finds {a_thing} on the ground.")
EATS = (
    "{who} eats {the_thing}.",
    "{who} is hungry and eats {the_thing}.",
    "{who} eats up {the_thing}.",
)
GIVES = (
    "{who} gives {the_thing} to {other}.",
    "{who} gives {other} {the_thing}.",
    "{who} hands {the_thing} to {other}.",
)
LOSES = ("{who} loses {the_thing}.", "{who} drops {the_thing} and it is gone.")
LEAVES = ("{who} goes home.", "{who} says goodbye and goes home.", "{who} has to leave.")
BECOMES = ("by magic, {who} turns into {a_hero}.", "suddenly {who} turns into {a_hero}.")
BUILDS_SNOWMAN = ("{who} builds a snowman.", "{who} makes a snowman.")
BIRTHDAY = (
    "it is the birthday of {who}, and {other} brings {a_thing}.",
    "{other} has {a_thing} for {who}.",
)
# What grows on a ground and can be picked.
GROWS: Mapping[str, tuple[str, ...]] = {
    "meadow": ("flower", "tulip", "sunflower", "rose"),
    "autumn": ("apple", "mushroom"),
}
PRESENTS = ("cake", "gift", "balloon", "cupcake", "rose", "teddy bear")


def _walks(rng: random.Random, world: World, state: StoryState) -> EventOutcome:
    grounds = [ground for ground in GROUNDS if ground != state.ground]
    ground = rng.choices(grounds, [GROUND_WEIGHTS.get(g, 1.0) for g in grounds])[0]
    alone, together = ARRIVALS.get(ground, (WALKS, WALKS_TOGETHER))
    _, place = GROUND_WORDS[ground].split(maxsplit=1)
    company = " and ".join(the(noun) for noun in (state.hero, state.friend) if noun)
    sentence = rng.choice(together if state.friend else alone)
    said = sentence.format(who=company, both=company, place=place)
    return EventOutcome(said, state.hero, state.at(ground))


def _meets(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if state.friend:
        return None
    friend = _one_of(ACTORS, rng, world, but=state.hero)
    said = rng.choice(MEETS).format(who=the(state.hero), a_friend=with_article(friend))
    return EventOutcome(said, state.hero, replace(state, friend=friend))


def _finds(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if state.thing:
        return None
    thing = _one_of(rng.choice((KEEPSAKES, FOOD)), rng, world)
    said = rng.choice(FINDS).format(who=the(state.hero), a_thing=with_article(thing))
    return EventOutcome(said, state.hero, state.with_thing(thing, state.hero))


def _picks(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if state.thing or state.ground not in GROWS:
        return None
    thing = _one_of(GROWS[state.ground], rng, world)
    said = rng.choice(PICKS).format(who=the(state.hero), a_thing=with_article(thing))
    return EventOutcome(said, state.hero, state.with_thing(thing, state.hero))


def _eats(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if state.thing not in FOOD or state.holder in WITHOUT_HUNGER:
        return None
    said = rng.choice(EATS).format(who=the(state.holder), the_thing=the(state.thing))
    return EventOutcome(said, state.holder, state.without_thing())


def _gives(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if not (state.friend and state.thing):
        return None
    other = state.friend if state.holder == state.hero else state.hero
    said = rng.choice(GIVES).format(
        who=the(state.holder), the_thing=the(state.thing), other=the(other)
    )
    return EventOutcome(said, state.holder, replace(state, holder=other))


def _is_given(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    """The friend has a present for the hero."""
    if state.thing or not state.friend:
        return None
    thing = _one_of(PRESENTS, rng, world)
    said = rng.choice(BIRTHDAY).format(
        who=the(state.hero), other=the(state.friend), a_thing=with_article(thing)
    )
    return EventOutcome(said, state.friend, state.with_thing(thing, state.hero))


def _loses(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if not state.thing:
        return None
    said = rng.choice(LOSES).format(who=the(state.holder), the_thing=the(state.thing))
    return EventOutcome(said, state.holder, state.without_thing())


def _builds(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    """A snowman, which is company."""
    if state.ground != "snow" or state.friend or state.hero == "snowman":
        return None
    said = rng.choice(BUILDS_SNOWMAN).format(who=the(state.hero))
    return EventOutcome(said, state.hero, replace(state, friend="snowman"))


def _goes_home(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
    if not state.friend:
        return None
    # A thing that the friend has goes with it.
    left = state.without_thing() if state.holder == state.friend else state
    said = rng.choice(LEAVES).format(who=the(state.friend))
    return EventOutcome(said, state.friend, replace(left, friend=""))


def _becomes(rng: random.Random, world: World, state: StoryState) -> EventOutcome:
    other = _one_of([actor for actor in ACTORS if actor != state.friend], rng, world, state.hero)
    holder = other if state.holder == state.hero else state.holder
    said = rng.choice(BECOMES).format(who=the(state.hero), a_hero=with_article(other))
    return EventOutcome(said, state.hero, replace(state, hero=other, holder=holder))


def _sky(sentences: tuple[str, ...], before: Iterable[str], after: str) -> StoryEvent:
    """An event that changes the sky; its actor is the hero."""

    def event(rng: random.Random, world: World, state: StoryState) -> EventOutcome | None:
        if not is_outdoors(state.backdrop) or state.sky not in before:
            return None
        return EventOutcome(rng.choice(sentences), state.hero, state.under(after))

    return event


def _one_of(nouns: Iterable[str], rng: random.Random, world: World, but: str = "") -> str:
    return rng.choice([noun for noun in nouns if noun in world.cast and noun != but])


# Events, with their weights where they are possible. Consequences have high weights, so that they
# follow soon.
EVENTS: Mapping[str, tuple[StoryEvent, float]] = {
    "walk": (_walks, 1.8),
    "meet": (_meets, 4.0),
    "find": (_finds, 2.5),
    "pick": (_picks, 2.0),
    "build": (_builds, 3.0),
    "eat": (_eats, 10.0),
    "give": (_gives, 5.0),
    "present": (_is_given, 1.0),
    "lose": (_loses, 0.6),
    "go home": (_goes_home, 1.2),
    "become": (_becomes, 0.3),
    "sunset": (
        _sky(("the sun goes down.", "the sun sets.", "evening comes."), ("day",), "sunset"),
        0.8,
    ),
    "night": (
        _sky(("night falls.", "it gets dark.", "soon it is night."), ("sunset",), "night"),
        1.5,
    ),
    "morning": (
        _sky(("morning comes.", "the sun rises.", "the next morning comes."), ("night",), "day"),
        1.5,
    ),
    "rain": (_sky(("it starts to rain.", "rain begins to fall."), ("day",), "rain"), 0.7),
    "dry": (_sky(("the rain stops.", "it stops raining."), ("rain",), "day"), 1.5),
}
