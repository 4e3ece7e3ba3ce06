"""The small world: names, English, and the rows of each task."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from orthus_core.data.document import Document
from orthus_core.data.pictures import SpriteImage
from orthus_core.data.sprites import WHITE, Sprite, SpritePack
from orthus_core.data.world.edits import DARKER, LIGHTER
from orthus_core.data.world.english import listed, with_article
from orthus_core.data.world.everyday import EVERYDAY_NAMES, PLAIN_NAMES
from orthus_core.data.world.kinds import KIND_OF_SUBGROUP
from orthus_core.data.world.names import name_sprites, plain_name
from orthus_core.data.world.questions import caption
from orthus_core.data.world.records import MAKERS, record, records
from orthus_core.data.world.stories import EVENTS, HEROES, is_held_out
from orthus_core.data.world.world import COLOURS, GROUNDS, World, stable_share
from orthus_core.errors import DataError

ALL_TASKS = dict.fromkeys(MAKERS, 1.0)


@pytest.fixture(scope="module")
def world() -> World:
    return World(SpritePack.open())


@pytest.fixture(scope="module")
def testing_world(world: World) -> World:
    return World(world.pack, testing=True)


def rows(world: World, task: str, count: int = 200) -> list[Document]:
    return list(itertools.islice(records(world, {task: 1.0}, seed=3), count))


def texts(document: Document, role: str) -> list[str]:
    return [s.value for s in document.segments if s.role == role and isinstance(s.value, str)]


def pictures(document: Document, role: str) -> list[SpriteImage]:
    return [
        s.value for s in document.segments if s.role == role and isinstance(s.value, SpriteImage)
    ]


def ground_of(picture: SpriteImage) -> str:
    return next(name for name, colour in GROUNDS.items() if colour == picture.background)


@pytest.mark.parametrize(
    "name, phrase",
    [
        ("cat", "a cat"),
        ("apple", "an apple"),
        ("french fries", "french fries"),
        ("ear of corn", "an ear of corn"),
        ("hourglass", "an hourglass"),
        ("unicorn", "a unicorn"),
        ("ufo", "a ufo"),
        ("ewe", "a ewe"),
        ("x-ray", "an x-ray"),
        ("SOS button", "an SOS button"),
        ("NEW button", "a NEW button"),
        ("bus", "a bus"),
        ("octopus", "an octopus"),
        ("compass", "a compass"),
        ("skis", "skis"),
        ("person lifting weights", "a person lifting weights"),
        ("people wrestling", "people wrestling"),
        ("wine glass", "a wine glass"),
        ("shaved ice", "shaved ice"),
        ("Santa Claus", "Santa Claus"),
        ("sun", "the sun"),
        ("sun with face", "a sun with face"),
    ],
)
def test_a_name_takes_the_article_people_give_it(name: str, phrase: str):
    assert with_article(name) == phrase


def test_a_list_ends_in_and():
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"


@pytest.mark.parametrize(
    "label, name",
    [
        ("person: blond hair", "person with blond hair"),
        ("man: bald", "bald man"),
        ("woman: beard", "woman with a beard"),
        ("family: man, woman, boy", "family of a man, a woman and a boy"),
        ("A button (blood type)", "A button"),
        ("Japanese “here” button", "Japanese here button"),
        ("woman’s hat", "woman's hat"),
        ("one o’clock", "clock at one o'clock"),
        ("locked", "closed padlock"),
    ],
)
def test_a_label_becomes_a_name_that_fits_into_a_sentence(label: str, name: str):
    assert plain_name(Sprite("k", label)) == name


@pytest.mark.parametrize(
    "asked, label",
    [
        ("snowman", "snowman"),
        ("a cat", "cat"),
        ("the sun", "sun"),
        ("an aeroplane", "airplane"),
        ("Apple", "red apple"),
        ("green apple", "green apple"),
        ("car", "automobile"),
        ("dog face", "dog face"),
        ("a tree", "deciduous tree"),
        ("guitar", "guitar"),
    ],
)
def test_what_people_type_finds_its_sprite(world: World, asked: str, label: str):
    sprite = world.find(asked)
    assert sprite is not None and sprite.label == label


def test_an_unknown_name_finds_nothing(world: World):
    assert world.find("a floccinaucinihilipilification") is None


def test_a_name_means_one_sprite_only(world: World):
    owners = Counter(name.lower() for s in world.sprites for name in set(world.names(s).all))
    assert [name for name, count in owners.items() if count > 1] == []


def test_every_sprite_has_a_name_and_a_kind(world: World):
    assert len(world.sprites) == len(world.pack)
    assert {sprite.subgroup for sprite in world.pack} <= KIND_OF_SUBGROUP.keys()


def test_every_everyday_name_belongs_to_a_sprite(world: World):
    labels = {sprite.label for sprite in world.pack}
    assert EVERYDAY_NAMES.keys() | PLAIN_NAMES.keys() <= labels
    known = {name for sprite in world.sprites for name in world.names(sprite).all}
    assert {name for names in EVERYDAY_NAMES.values() for name in names} <= known


def test_the_later_of_two_sprites_with_one_name_is_left_out():
    names = name_sprites([Sprite("a", "cat"), Sprite("b", "Cat"), Sprite("c", "dog")])
    assert names.keys() == {"a", "c"}


def test_a_row_depends_on_seed_and_number_alone(world: World):
    in_order = list(itertools.islice(records(world, ALL_TASKS, seed=1, start=5), 20))
    alone = [record(world, ALL_TASKS, 1, number) for number in reversed(range(5, 25))]
    assert in_order == alone[::-1]
    assert in_order != list(itertools.islice(records(world, ALL_TASKS, seed=2, start=5), 20))


def test_tasks_come_as_often_as_their_weights_say(world: World):
    drawn = Counter(
        record(world, {"caption": 3.0, "edit": 1.0}, 0, n).id.split("/")[0] for n in range(400)
    )
    assert drawn["story"] == 0 and 250 < drawn["caption"] < 350


@pytest.mark.parametrize("tasks", [{"poem": 1.0}, {}, {"edit": 0.0}])
def test_an_unknown_task_or_none_is_refused(world: World, tasks: dict[str, float]):
    with pytest.raises(DataError, match="no such task|no task has a weight"):
        record(world, tasks, 0, 0)


def test_a_caption_names_what_is_drawn_and_its_ground(world: World):
    for row in rows(world, "text_to_image"):
        (words,), (picture,) = texts(row, "user"), pictures(row, "model")
        names, sprite = world.names(world.pack[picture.sprite]), world.pack[picture.sprite]
        known = (*names.all, *names.hints)
        assert any(name in words for name in known), (words, sprite.label)
        assert ("background" in words) == (picture.background != WHITE)
        if picture.background != WHITE:
            assert f"{ground_of(picture)} background" in words


def test_a_question_has_its_one_right_answer(world: World):
    answers = Counter()
    for row in rows(world, "caption", 400):
        (picture,), (question,), (answer,) = pictures(row, "user"), texts(row, "user"), row.model
        sprite, ground = world.pack[picture.sprite], ground_of(picture)
        if question.startswith("Is "):
            truly = question.split(maxsplit=2)[2].rstrip("?") == world.names(sprite).phrase
            assert answer.value == ("yes" if truly else "no")
            answers[answer.value] += 1
        elif "background" in question:
            assert answer.value == ground
        elif "kind" in question:
            assert answer.value == KIND_OF_SUBGROUP[sprite.subgroup]
        else:
            assert answer.value == caption(world, sprite, ground)
    assert min(answers["yes"], answers["no"]) > 0.3 * answers.total()


def test_an_edit_changes_what_it_says_and_nothing_else(world: World):
    seen = Counter()
    for row in rows(world, "edit", 500):
        (before,), (after,), (words,) = pictures(row, "user"), pictures(row, "model"), row.user[1:]
        changed = [
            field
            for field in ("sprite", "background", "mirror", "grey")
            if getattr(before, field) != getattr(after, field)
        ]
        assert len(changed) == 1, words.value
        seen[changed[0]] += 1
        if words.value.startswith(
            ("make the skin", "change the skin", "give it", *DARKER, *LIGHTER)
        ):
            old, new = world.pack[before.sprite], world.pack[after.sprite]
            assert old.base == new.base and old.skin != new.skin
            scale = ("light", "medium", "dark")
            if "darker" in words.value and old.skin:
                assert scale.index(new.skin) == scale.index(old.skin) + 1
            if "lighter" in words.value and old.skin:
                assert scale.index(new.skin) == scale.index(old.skin) - 1
    assert len(seen) == 4


def test_a_story_shows_what_each_sentence_brings_in(world: World):
    for row in rows(world, "story", 100):
        assert [segment.type for segment in row.user] == ["image", "text"]
        kinds = [segment.type for segment in row.model]
        assert kinds in (["text", "image"] * 2 + ["text"], ["text", "image"] * 3 + ["text"])
        panels = [*pictures(row, "user"), *pictures(row, "model")]
        assert len({panel.sprite for panel in panels}) == len(panels)
        assert row.model[-1].value.endswith("The end.")
        for sentence, shown in zip(row.model[:-1:2], row.model[1::2], strict=True):
            names = world.names(world.pack[shown.value.sprite])
            told = sentence.value.lower()
            assert any(name.lower() in told for name in names.all) or "rain" in told


def test_night_comes_last_and_is_dark(world: World):
    nights = [row for row in rows(world, "story", 100) if "night fell" in str(row.model).lower()]
    assert nights
    for row in nights:
        grounds = [ground_of(picture) for picture in pictures(row, "model")]
        assert grounds[-1] == "night" and set(grounds[:-1]) <= {"white"}


def test_training_never_shows_a_held_out_ground(world: World, testing_world: World):
    def pairs(world: World) -> set[tuple[Sprite, str]]:
        shown = [
            picture
            for task in ("text_to_image", "caption", "edit")
            for row in rows(world, task, 400)
            for picture in (*pictures(row, "user"), *pictures(row, "model"))
        ]
        return {(world.pack[p.sprite], ground_of(p)) for p in shown if p.background != WHITE}

    assert not any(world.is_held_out(*pair) for pair in pairs(world))
    assert all(world.is_held_out(*pair) for pair in pairs(testing_world))


def test_a_tone_and_a_twin_are_held_out_with_their_sprite(world: World):
    for sprite in world.sprites:
        for other in (*world.tones(sprite).values(), *world.twins(sprite).values()):
            assert world.colours(other) == world.colours(sprite)


def test_the_held_out_share_is_what_was_asked(world: World):
    plain = [sprite for sprite in world.sprites if not sprite.skin]
    pairs = [world.is_held_out(sprite, colour) for sprite in plain for colour in COLOURS]
    assert 0.04 < sum(pairs) / len(pairs) < 0.06


def test_what_is_held_out_never_changes():
    assert stable_share("2603", "blue") == pytest.approx(0.0625842, abs=1e-6)


def test_heroes_meet_held_out_events_only_in_tests(world: World, testing_world: World):
    def events(world: World, row: Document) -> list[bool]:
        hero = world.pack[pictures(row, "user")[0].sprite]
        marks = {"_rides": "climbed into", "_finds": " found ", "_gets_hungry": "hungry"}
        marks |= {"_meets": " met ", "_goes_to": " came to ", "_gets_wet": "began to rain"}
        marks |= {"_sees_a_rainbow": "saw a rainbow", "_night_falls": "Night fell"}
        told = " ".join(texts(row, "model"))
        return [is_held_out(world, hero, e) for e in EVENTS if marks[e.__name__] in told]

    assert not any(any(events(world, row)) for row in rows(world, "story"))
    assert all(sum(events(testing_world, row)) == 1 for row in rows(testing_world, "story"))


def test_every_hero_is_in_the_pack(world: World):
    assert [name for name in HEROES.split(",") if world.find(name) is None] == []
