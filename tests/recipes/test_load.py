"""TOML into a recipe: four layers, strict types, and mistakes that name their place."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from orthus_core.errors import RecipeError
from orthus_core.recipe import ConvertRecipe, GenerateRecipe, PosttrainRecipe, key, load, shape


@dataclass(frozen=True)
class Sled:
    length: float = key(1.5, "from end to end", unit="metres", minimum=0, maximum=10)
    runners: int = key(2, "how many", minimum=1)


@dataclass(frozen=True)
class Hill:
    """A recipe with a key of every kind."""

    command: ClassVar[str] = "slide"

    name: str = key("big", "what it is called")
    icy: bool = key(False, "whether it is")
    way: Literal["down", "up", 3] = key("down", "where to")
    seed: int | None = key(None, "unset draws one")
    tag: str | None = key(None, "a word")
    speed: float | Literal["auto"] = key("auto", "how fast")
    pair: tuple[float, float] = key((0.9, 0.99), "two numbers", minimum=0, maximum=1)
    turns: tuple[int, ...] = key((), "any number of them", minimum=1)
    words: list[str] | None = key(None, "any number of them")
    weights: dict[str, float] = key({"a": 1.0}, "by name", minimum=0)
    extra: dict[str, Any] = key({}, "whatever")
    sled: Sled = key(Sled(), "what to sit on")
    spare: Sled = key(Sled(length=3.0), "another one")

    def __post_init__(self) -> None:
        if self.icy and self.way == "up":
            raise ValueError("nobody gets up an icy hill")


@pytest.fixture
def write(tmp_path: Path):
    def write_recipe(
        text: str, name: str = "hill.toml", command: str = 'command = "slide"'
    ) -> Path:
        path = tmp_path / name
        path.write_text(f"{command}\n{text}", encoding="utf-8")
        return path

    return write_recipe


def test_nothing_stated_is_the_defaults() -> None:
    assert load(Hill) == Hill()


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        load(Hill).name = "small"  # type: ignore[misc]


def test_later_layers_win_key_by_key(write) -> None:
    path = write('name = "file"\ntag = "file"\nseed = 1\n[sled]\nrunners = 4\nlength = 2')
    recipe = load(
        Hill,
        path,
        ["tag=set", "seed=2", "sled.length=3"],
        {"seed": 3, "icy": None, "sled.runners": None},
    )
    assert (recipe.name, recipe.tag, recipe.seed) == ("file", "set", 3)
    assert recipe.sled == Sled(length=3.0, runners=4)
    assert not recipe.icy


def test_a_table_keeps_the_defaults_its_parent_gave_it(write) -> None:
    assert load(Hill, write("[spare]\nrunners = 1")).spare == Sled(length=3.0, runners=1)


def test_every_kind_of_value_is_read(write) -> None:
    path = write(
        'way = 3\nicy = true\nseed = 7\nspeed = 2\npair = [0, 1]\nturns = [1, 2]\nwords = ["x"]\n'
        "[weights]\nb = 2\n[extra]\ndeep = {er = [1, 'two']}"
    )
    recipe = load(Hill, path)
    assert recipe.way == 3 and recipe.icy is True and recipe.seed == 7
    assert recipe.speed == 2.0 and isinstance(recipe.speed, float)
    assert recipe.pair == (0.0, 1.0) and recipe.turns == (1, 2) and recipe.words == ["x"]
    assert recipe.weights == {"a": 1.0, "b": 2.0} and recipe.extra == {"deep": {"er": [1, "two"]}}


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("name=small", "name", "small"),
        ('name="quoted = text"', "name", "quoted = text"),
        ("name=2024", "name", "2024"),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", ""),
        ("tag=true", "tag", "true"),
        ("speed=auto", "speed", "auto"),
        ("speed=1e-5", "speed", 1e-5),
        ("seed = 5", "seed", 5),
        ("turns=[1, 2]", "turns", (1, 2)),
        ('words=["a", "b"]', "words", ["a", "b"]),
        ("weights.b=3", "weights", {"a": 1.0, "b": 3.0}),
        ("weights={b = 3}", "weights", {"a": 1.0, "b": 3.0}),
        ("extra.x.y=z", "extra", {"x": {"y": "z"}}),
        ("sled.length=2", "sled", Sled(length=2.0)),
        ("sled={length = 2}", "sled", Sled(length=2.0)),
        ("name=1\nicy=true", "name", "1\nicy=true"),
    ],
)
def test_an_override_is_a_toml_value_or_a_bare_word(
    override: str, name: str, value: object
) -> None:
    assert getattr(load(Hill, None, [override]), name) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iccy = true", "unknown key 'iccy', did you mean 'icy'?"),
        ("length = 2", "unknown key 'length'"),
        ("runners = 2", "unknown key 'runners'"),
        ("[sled]\nlenght = 2", "unknown key 'sled.lenght', did you mean 'sled.length'?"),
        ("zzz = 1", "unknown key 'zzz'"),
        ("icy = 1", "icy must be true or false, not 1"),
        ("seed = true", "seed must be a whole number, not true"),
        ("seed = 1.0", "seed must be a whole number, not 1.0"),
        ("name = 3", "name must be text, not 3"),
        ('way = "dwon"', "way must be \"down\" or \"up\" or 3, not 'dwon', did you mean 'down'?"),
        ("way = 3.0", 'way must be "down" or "up" or 3, not 3.0'),
        ('speed = "fast"', "speed must be a number or \"auto\", not 'fast'"),
        ("pair = [1]", "pair must be a list of 2 numbers, not [1]"),
        ("turns = [1, 2.5]", "turns must be a list of whole numbers, not [1, 2.5]"),
        ('turns = "12"', "turns must be a list of whole numbers, not '12'"),
        ("sled = 3", "sled is a table with the keys length, runners; it cannot be 3"),
        ("[[sled]]\nlength = 2", "sled is a table with the keys length, runners"),
        ("weights = 3", "weights must be a table of numbers, not 3"),
        ("[weights]\na = 'x'", "weights.a must be a number, not 'x'"),
        ("[sled]\nlength = 10.5", "sled.length must be at most 10, not 10.5"),
        ("[sled]\nlength = nan", "sled.length must be a finite number, not nan"),
        ("[sled]\nlength = -inf", "sled.length must be a finite number, not -inf"),
        ("[sled]\nrunners = 0", "sled.runners must be at least 1, not 0"),
        ("[sled]\nlength = 1" + "0" * 400, "sled.length must be a number, not 1000"),
        ("pair = [0.5, 1.5]", "pair must be at most 1, not 1.5"),
        ("turns = [3, 0]", "turns must be at least 1, not 0"),
        ("[weights]\nb = -1", "weights.b must be at least 0, not -1"),
        ('icy = true\nway = "up"', "nobody gets up an icy hill"),
        ("icy = ", "the recipe is not TOML: "),
        ("icy = true\nicy = true", "the recipe is not TOML: "),
    ],
)
def test_a_mistake_is_named(write, text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(RecipeError) as caught:
        load(Hill, path)
    assert caught.value.message.startswith(message)
    assert caught.value.where.startswith(str(path))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("iccy = true", 2),
        ("# icy = 1\n\nicy = 1", 4),
        ("[spare]\nlength = 1\n[sled]\nlength = -1", 5),
        ("sled.length = -1", 2),
        ("[sledd]\nlength = 1", 2),
        ('"seed" = true', 2),
    ],
)
def test_a_mistake_in_a_file_is_given_its_line(write, text: str, line: int) -> None:
    path = write(text)
    with pytest.raises(RecipeError) as caught:
        load(Hill, path)
    assert caught.value.where == f"{path}, line {line}"


def test_a_mistake_on_the_command_line_is_quoted() -> None:
    with pytest.raises(RecipeError) as caught:
        load(Hill, None, ["sled.runners=0"])
    assert caught.value.where == "--set sled.runners=0"
    with pytest.raises(RecipeError) as caught:
        load(Hill, None, [], {"sled.runners": 0})
    assert "sled.runners" in caught.value.where


@pytest.mark.parametrize("override", ["icy", "=1", "sled.=1", ".a=1"])
def test_an_override_that_is_no_pair_is_refused(override: str) -> None:
    with pytest.raises(RecipeError, match="an override needs a key and a value"):
        load(Hill, None, [override])


def test_a_key_without_its_table_is_led_to_it() -> None:
    with pytest.raises(RecipeError, match="did you mean 'embedding.temperature'"):
        load(ConvertRecipe, None, ["temperature=0.5"])


def test_a_mistake_in_the_file_is_told_even_where_a_flag_would_win(write) -> None:
    with pytest.raises(RecipeError, match="seed must be a whole number"):
        load(Hill, write('seed = "one"'), [], {"seed": 1})


def test_values_that_only_exclude_each_other_between_layers_are_judged_at_the_end(write) -> None:
    path = write('way = "up"\nicy = true')
    assert load(Hill, path, ["icy=false"]).way == "up"
    with pytest.raises(RecipeError, match="nobody gets up an icy hill"):
        load(Hill, write('way = "up"'), ["icy=true"])


def test_a_rule_inside_a_table_names_the_table() -> None:
    tasks = [f"data.tasks.{name}=0" for name in ("text_to_image", "caption", "edit", "story")]
    with pytest.raises(RecipeError, match="^data.tasks: at least one task"):
        load(PosttrainRecipe, None, tasks)


def test_a_recipe_of_another_command_is_refused_by_name(write) -> None:
    path = write("", command='command = "convert"')
    with pytest.raises(RecipeError) as caught:
        load(GenerateRecipe, path)
    assert caught.value.message == (
        "this is a recipe for `orthus convert`, not for `orthus generate`"
    )


@pytest.mark.parametrize("command", ["", "command = 3", "[command]"])
def test_a_recipe_says_which_command_it_is_for(write, command: str) -> None:
    with pytest.raises(RecipeError, match="does not say which command"):
        load(Hill, write("", command=command))


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    picture = tmp_path / "picture.toml"
    picture.write_bytes(b"\x89PNG\xff\xfe")
    for source in (picture, tmp_path, tmp_path / "none.toml", "no-such-recipe"):
        with pytest.raises(RecipeError):
            load(Hill, source)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "notepad.toml"
    path.write_bytes(b'\xef\xbb\xbfcommand = "slide"\r\nicy = true\r\n')
    assert load(Hill, path).icy


def test_a_dictionary_is_checked_like_a_file() -> None:
    assert shape(Hill, {"command": "slide", "sled": {"length": 2}}).sled.length == 2.0
    with pytest.raises(RecipeError) as caught:
        shape(Hill, {"command": "slide", "sled": {"length": -2}}, where="runs/recipe.json")
    assert caught.value.where == "runs/recipe.json"


SOURCES = """
[data]
held_out = 0.1

[[data.sources]]
path = "~/one"
weight = 3

[[data.sources]]
path = "two"
columns = { caption = "TEXT" }
"""


def test_a_list_of_tables_is_changed_by_number_and_replaced_as_a_whole(write) -> None:
    recipe = write(SOURCES, command='command = "posttrain"')

    def sources(*sets: str) -> list[tuple[str, float, dict[str, str]]]:
        found = load(PosttrainRecipe, recipe, sets).data.sources
        return [(each.path, each.weight, each.columns) for each in found]

    assert sources() == [("~/one", 3, {}), ("two", 1, {"caption": "TEXT"})]
    changes = ("data.sources.1.weight=2", "data.sources.1.columns.image=B", "data.sources.2.path=x")
    assert sources(*changes) == [
        *(("~/one", 3, {}), ("two", 2, {"caption": "TEXT", "image": "B"}), ("x", 1, {})),
    ]
    assert sources("data.sources=[{path='new'}]") == [("new", 1, {})]
    assert sources("data.sources=[]") == []
    data = load(PosttrainRecipe, recipe, changes).data
    assert [*data.named_sources()] == ["one", "two", "x"] and not data.makes_rows
    assert load(PosttrainRecipe, None, ("data.source=x",)).data.named_sources()["x"].path == "x"


def test_a_mistake_in_a_list_of_tables_is_given_its_line(write) -> None:
    text = SOURCES.replace("weight = 3", "weight = -3").replace("columns", "colums")
    with pytest.raises(RecipeError) as caught:
        load(PosttrainRecipe, write(text, command='command = "posttrain"'))
    assert "data.sources.0.weight must be at least 0, not -3" in caught.value.message
    assert "hill.toml, line 8)" in caught.value.message
    assert "did you mean 'data.sources.1.columns'? (" in caught.value.message
    assert "hill.toml, line 12)" in caught.value.message
