"""Short stories: a hero is given, then each panel's words bring in what its picture shows.

user   [cat] Once upon a time there was a cat. Please continue this story.
model  One day the cat met an owl. [owl] They found a kite. [kite] Night fell and the moon
       came up. [moon on dark blue] They fell asleep. The end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from orthus_core.data.document import Segment, says
from orthus_core.data.sprites import Sprite
from orthus_core.data.world.english import with_article
from orthus_core.data.world.world import World, stable_share
from orthus_core.errors import DataError

HEROES = """
    cat, dog, rabbit, fox, bear, panda, koala, tiger, lion, wolf, mouse, hamster, pig, cow,
    horse, sheep, goat, monkey, gorilla, elephant, giraffe, zebra, kangaroo, hedgehog, raccoon,
    otter, sloth, beaver, deer, moose, camel, llama, unicorn, owl, duck, penguin, parrot, swan,
    flamingo, eagle, rooster, chick, turtle, frog, crocodile, dragon, dinosaur, octopus,
    dolphin, whale, crab, snail, bee, butterfly, ladybird, robot, ghost, alien, snowman, wizard,
    fairy, mermaid, elf, vampire, ninja, superhero, astronaut, farmer, firefighter, cook,
    artist, singer, scientist, detective, prince, princess, boy, girl
"""
FOODS = """
    apple, banana, pear, peach, strawberry, watermelon, pineapple, mango, carrot, pizza,
    sandwich, hamburger, taco, hot dog, pie, cupcake, doughnut, cookie, birthday cake, ice cream
    cone, lollipop, waffle, croissant, pretzel, egg, sushi, honey, cheese, bread, popcorn
"""
PLACES = """
    castle, mountain, volcano, desert, beach, island, park, house, hut, school, factory,
    hospital, stadium, circus tent, fountain, campsite, tent, ferris wheel, church, bridge at
    night, playground slide, skyscraper
"""
THINGS = """
    balloon, kite, basketball, key, crown, ring, gift, teddy bear, guitar, drum, trumpet,
    violin, umbrella, lantern, candle, telescope, camera, book, world map, coin, bell, magnet,
    mirror, hat, scarf, clock, flower, sunflower, tulip, feather, mushroom, diamond, magic wand,
    crystal ball, football, bicycle
"""
VEHICLES = """
    car, bus, train, tractor, truck, taxi, rocket, helicopter, airplane, sailboat, canoe, ship,
    tram, fire truck, police car, ufo
"""

CONTINUE = "Please continue this story."
MOST_PANELS = 4
FEWEST_PANELS = 3


class Thing(NamedTuple):
    """A sprite by the name the story calls it."""

    sprite: Sprite
    name: str

    @property
    def phrase(self) -> str:
        return with_article(self.name)


@dataclass
class Plot:
    """Where a story stands.

    Attributes:
        who: Who acts: "the cat", from the second panel on "they" or "it".
        seen: Keys of the sprites that were shown.
        company: Whether there is more than one by now.
        ground: What the panels stand on: "white" by day, "night" after dark.
        ending: How it will end, as far as the last event says.
    """

    who: str
    seen: list[str]
    company: bool = False
    ground: str = "white"
    ending: str = ""

    @property
    def them(self) -> str:
        return "they" if self.company else "it"

    @property
    def were(self) -> str:
        return "were" if self.company else "was"


def story(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """The hero's panel and its sentence, then two or three panels by the model and an end."""
    # 1. A hero, and what happens to it. Some pairs of the two are kept for testing.
    hero = _one_of(HEROES, rng, world)
    while not (events := _events_of(hero.sprite, rng, world)):
        hero = _one_of(HEROES, rng, world)
    opening = f"Once upon a time there was {hero.phrase}. {CONTINUE}"
    told = says("user", world.picture(hero.sprite), opening)

    # 2. Each event says something and shows what it brings in.
    plot = Plot(who=f"the {hero.name}", seen=[hero.sprite.key])
    for event in events:
        sentence, thing = event(rng, world, plot)
        plot.seen.append(thing.sprite.key)
        told += says("model", _capital(sentence), world.picture(thing.sprite, plot.ground))
        plot.who = plot.them

    # 3. The last event decides how it ends.
    return told + says("model", f"{_capital(plot.ending)} The end.")


def is_held_out(world: World, hero: Sprite, event: Event) -> bool:
    """Whether training never tells of this hero in this event."""
    return stable_share(hero.key, event.__name__) < world.held_out


def _events_of(hero: Sprite, rng: random.Random, world: World) -> list[Event]:
    """Two or three events. When testing, one of them is held out; none if the hero has no such."""
    held_out = [event for event in EVENTS if is_held_out(world, hero, event)]
    others = [event for event in EVENTS if event not in held_out]
    first = rng.sample(held_out, min(1, len(held_out))) if world.testing else []
    if world.testing and not first:
        return []
    panels = rng.randint(FEWEST_PANELS, MOST_PANELS) - 1
    events = first + rng.sample(others, panels - len(first))
    rng.shuffle(events)
    return sorted(events, key=lambda event: event is _night_falls)  # nothing follows the night


def _meets(rng: random.Random, world: World, plot: Plot) -> tuple[str, Thing]:
    friend = _one_of(HEROES, rng, world, plot)
    plot.company = True
    plot.ending = "they were friends for ever after."
    return f"one day {plot.who} met {friend.phrase}.", friend


def _finds(rng: random.Random, world: World, plot: Plot) -> tuple[str, Thing]:
    thing = _one_of(THINGS, rng, world, plot)
    plot.ending = f"{plot.them} took the {thing.name} home."
    return f"{plot.who} found {thing.phrase}.", thing


def _gets_hungry(rng: random.Random, world: World, plot: Plot) -> tuple[str, Thing]:
    food = _one_of(FOODS, rng, world, plot)
    plot.ending = f"{plot.them} ate the {food.name}. It was very good."
    return f"soon {plot.who} {plot.were} hungry and saw {food.phrase}.", food


def _goes_to(rng: random.Random, world: World, plot: Plot) -> tuple[str, Thing]:
    place = _one_of(PLACES, rng, world, plot)
    plot.ending = f"{plot.them} stayed there and {plot.were} happy."
    return f"then {plot.who} came to {place.phrase}.", place


def _rides(rng: random.Random, world: World, plot: Plot) -> tuple[str, Thing]:
    vehicle = _one_of(VEHICLES, rng, world, plot)
    plot.ending = f"{plot.them} went far away in the {vehicle.name}."
    return f"{plot.who} climbed into {vehicle.phrase}.", vehicle


def _gets_wet(rng: random.Random, world: World, plot: Plot) -> tuple[str, Thing]:
    plot.ending = f"{plot.them} ran home through the rain."
    return "then it began to rain.", _one_of("cloud with rain", rng, world)


def _sees_a_rainbow(rng: random.Random, world: World, plot: Plot) -> tuple[str, Thing]:
    plot.ending = f"{plot.them} looked at it for a long time."
    return f"{plot.who} saw a rainbow.", _one_of("rainbow", rng, world)


def _night_falls(rng: random.Random, world: World, plot: Plot) -> tuple[str, Thing]:
    plot.ground = "night"
    plot.ending = f"{plot.them} fell asleep."
    return "night fell and the moon came up.", _one_of("crescent moon", rng, world)


Event = Callable[[random.Random, World, Plot], tuple[str, Thing]]
"""What happens in a panel: its sentence, and the sprite that its picture shows."""

EVENTS: tuple[Event, ...] = (
    _meets,
    _finds,
    _gets_hungry,
    _goes_to,
    _rides,
    _gets_wet,
    _sees_a_rainbow,
    _night_falls,
)


def _one_of(names: str, rng: random.Random, world: World, plot: Plot | None = None) -> Thing:
    """One of a list of names, if possible of a thing that was not shown yet."""
    seen = plot.seen if plot else []
    found = [(world.find(name), name.strip()) for name in names.split(",")]
    things = [Thing(sprite, name) for sprite, name in found if sprite is not None]
    if not things:
        raise DataError(
            "the sprite pack has nothing to tell stories about",
            where=str(world.pack.path),
            hint="leave the task 'story' out, or use the bundled pack",
        )
    return rng.choice([thing for thing in things if thing.sprite.key not in seen] or things)


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
