"""A recipe's keys as options of a command, so that each is written once: in the recipe's schema.

    @recipe_options(GenerateRecipe)
    def generate(ctx: typer.Context, output: Output = None, *, flags: Flags) -> None:
        recipe = load(GenerateRecipe, ..., flags=flags)

The key's type is the option's type, and the key's meaning and range are its help. Exceptions for
the command line, such as short spellings, are in `SPELLINGS`. No option has a default of its own,
because a recipe's value holds unless the option is given; and `load` checks ranges, so that the
error message is the same wherever a value comes from.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from orthus_cli import help_sections
from orthus_cli.options import model_names
from orthus_cli.prompts import as_text, read_text
from orthus_core.recipe import Recipe, keys
from orthus_core.recipe.drawing import DrawingKeys, ModelKeys
from orthus_core.recipe.save import toml_value
from orthus_core.recipe.schema import Key, range_text, union_arms
from orthus_core.recipe.solver_registry import SOLVERS

Flags = dict[str, Any]
"""Values by dotted key, as `load` takes them; None where the option was not given."""


class Spelling(NamedTuple):
    """The option of a key, where it does not follow from the key's name and type.

    Attributes:
        words: Spellings of the option.
        metavar: Placeholder for the value in the help.
        reads: The type that Typer reads.
        becomes: Function from the value read to the recipe's value.
        completes: Values that a shell offers as completions.
    """

    words: tuple[str, ...] = ()
    metavar: str | None = None
    reads: Any = None
    becomes: Callable[[Any], Any] | None = None
    completes: Callable[[], list[str]] | None = None


def _absolute(path: Path) -> str:
    return str(path.absolute())


TEXT_NAMES = ("temperature", "top_p", "max_new_tokens")
TEXT_OPTIONS = [f"text.{name}" for name in TEXT_NAMES]

SPELLINGS = {
    "model": Spelling(("-m", "--model"), "MODEL", completes=model_names),
    "lora": Spelling(metavar="PATH[:SCALE]"),
    "steps": Spelling(("--steps", "--num-inference-steps")),
    "scheduler": Spelling(metavar="NAME", completes=lambda: list(SOLVERS)),
    "step_tolerance": Spelling(metavar="SHARE"),
    "guidance": Spelling(("--guidance", "--cfg-scale", "--guidance-scale")),
    "negative_prompt": Spelling(metavar="TEXT", becomes=as_text),
    "max_text": Spelling(metavar="TOKENS"),
    "seeds": Spelling(("--seed",)),
    "num_images": Spelling(("-n", "--num-images")),
    "best_of": Spelling(metavar="N"),
    "question": Spelling(metavar="TEXT", becomes=read_text),
    "keep_panels": Spelling(metavar="N"),
    "from_story": Spelling(metavar="DIR", reads=Path, becomes=_absolute),
    "from_panel": Spelling(metavar="K"),
    **{f"text.{name}": Spelling((f"--{name.replace('_', '-')}",)) for name in TEXT_NAMES},
}
"""By dotted key; what is missing here is spelled as the key is, `head.width` as `--head-width`."""

GROUPS = {
    "question": help_sections.ASK,
    **dict.fromkeys(("seed", "image_guidance", "max_text", *TEXT_OPTIONS), help_sections.HOW),
    **dict.fromkeys((found.name for found in keys(DrawingKeys)), help_sections.HOW),
    "scale": help_sections.WHERE,
    **dict.fromkeys(
        ("batch_size", *(found.name for found in keys(ModelKeys))), help_sections.MODEL
    ),
}
"""The heading that a key's option stands under in a command of all keys, if not "What to draw"."""

SET_ONLY = ("time_grid", "patch_norm", "guidance_interval", "guidance_schedule")
"""Keys of drawing recipes without an option: few set them, and models have their own."""

AUTO_SEEDS = "auto_seeds"
AutoSeeds = Annotated[
    int | None,
    typer.Option(
        "--auto-seeds",
        min=1,
        help="Draw this many seeds, and print them.",
        rich_help_panel=help_sections.WHAT,
    ),
]


def recipe_options(
    schema: type[Recipe], *, only: Collection[str] | None = None, but: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command with an option for each key of a recipe.

    The options take the place of the command's parameter `flags`, which receives their values. A
    recipe with several seeds also gives `--auto-seeds`, which sets two keys.

    Args:
        schema: The recipe's class.
        only: Dotted keys that become options; all if omitted.
        but: Keys without an option: `--set` or an option of the command itself sets them.

    Raises:
        ValueError: When a named key is not in the schema.
    """
    known = {key.name: key for key in keys(schema)}
    if unknown := {*(only or ()), *but} - set(known):
        raise ValueError(f"{schema.__name__} has no key {', '.join(sorted(unknown))}")
    chosen = [known[name] for name in (known if only is None else only) if name not in but]
    names = {parameter_name(key): key.name for key in chosen}
    parameters = [_parameter(key, grouped=only is None) for key in chosen]
    counts = {"seeds", "num_images"} <= set(names)
    if counts:
        at = [parameter.name for parameter in parameters].index("seeds") + 1
        parameters.insert(at, _optional(AUTO_SEEDS, AutoSeeds))

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            flags = {key: _value(key, given.pop(name)) for name, key in names.items()}
            if counts and (auto := given.pop(AUTO_SEEDS)):
                flags["num_images"] = auto
                flags["seeds"] = flags["seeds"] or []
            command(**given, flags=flags)

        signature = inspect.signature(command, eval_str=True)
        merged = [*_in_place(signature.parameters.values(), parameters)]
        run.__signature__ = signature.replace(parameters=merged)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
        return run

    return decorate


def parameter_name(key: Key) -> str:
    """Name of the parameter for a key's option; `orthus_cli.stored` looks it up."""
    return key.name if len(key.path) == 1 else _words(key)[-1].strip("-").replace("-", "_")


def help_of(key: Key) -> str:
    """A key's meaning as a sentence, then its range and its default."""
    arms = union_arms(key.annotation)
    notes = [
        "repeatable" if any(typing.get_origin(arm) is tuple for arm in arms) else "",
        range_text(key) if key.maximum is not None else "",
        f"default: {_plain_default(key)}" if _plain_default(key) else "",
    ]
    note = "; ".join(note for note in notes if note)
    return f"{key.doc[:1].upper()}{key.doc[1:]}." + (f"  [{note}]" if note else "")


def number_or(*words: str) -> Callable[[str], int | str]:
    """A parser of whole numbers and some words; other words are a `typer.BadParameter`."""

    def number(typed: str) -> int | str:
        if typed in words:
            return typed
        try:
            return int(typed)
        except ValueError:
            problem = f"{typed!r} is no whole number, nor {' or '.join(words)}"
            raise typer.BadParameter(problem) from None

    return number


def _plain_default(key: Key) -> str:
    """The default as text; empty for a switch that is off and for an empty list."""
    if isinstance(key.default, bool) or key.default in (None, (), ""):
        return ""
    return key.default if isinstance(key.default, str) else toml_value(key.default)


def _words(key: Key) -> tuple[str, ...]:
    words = SPELLINGS.get(key.name, Spelling()).words
    return words or ("--" + "-".join(key.path).replace("_", "-"),)


def _parameter(key: Key, *, grouped: bool) -> inspect.Parameter:
    spelling = SPELLINGS.get(key.name, Spelling())
    reads, metavar, parser = _typed(key.annotation)
    first, *others = _words(key)
    about: Any = typer.Option(
        first,
        *others,
        metavar=spelling.metavar or metavar,
        parser=parser,
        autocompletion=spelling.completes,
        help=help_of(key),
        show_default=reads is not bool,
        rich_help_panel=GROUPS.get(key.name, help_sections.WHAT) if grouped else None,
    )
    return _optional(parameter_name(key), Annotated[(spelling.reads or reads) | None, about])


def _optional(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _typed(annotation: Any) -> tuple[Any, str | None, Callable[[str], Any] | None]:
    """What Typer reads for a key's type: its own type, a metavar, and a parser if one is needed."""
    arms = [arm for arm in union_arms(annotation) if arm is not type(None)]
    choices = [word for arm in arms if typing.get_origin(arm) is Literal for word in arm.__args__]
    if int in arms and choices:
        return str, "|".join(["N", *choices]), number_or(*choices)
    (arm,) = arms
    if choices and not isinstance(choices[0], str):
        return type(choices[0]), "|".join(map(str, choices)), None
    if typing.get_origin(arm) is tuple:
        return list[typing.get_args(arm)[0]], None, None
    return arm, None, None


def _value(key: str, read: Any) -> Any:
    """The value read, converted to the recipe's value."""
    becomes = SPELLINGS.get(key, Spelling()).becomes
    return becomes(read) if becomes and read is not None else read


def _in_place(
    own: Iterable[inspect.Parameter], options: list[inspect.Parameter]
) -> Iterator[inspect.Parameter]:
    """The command's parameters, with the options in the place of `flags`."""
    for parameter in own:
        if parameter.name == "flags":
            yield from options
        else:
            yield parameter
