"""What a finished picture says of how it was made, as a command's words: to show and to draw again.

The words are those the command itself takes today, asked of the command: an option that is added
there is used here, and a recipe's key without one is written `--set key=value`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orthus_core.errors import DataError, PromptError
from orthus_core.recipe import Recipe, as_table, keys
from orthus_core.recipe.save import toml_value

if TYPE_CHECKING:
    from orthus_core.api.continuation import Continuation
    from orthus_core.results.record import Record, Run

ASIDE = {"command", "model", "device", "dtype"}
"""Keys that stand first, under the values that the model was opened with."""


class Stored(NamedTuple):
    """What a new run takes over from a finished result; nothing, where there is none.

    sets: Its values as `--set` takes them. They go before those that are typed, which win because
        they come later.
    prompt: Its words.
    record: All that it says of how it was made.
    """

    sets: list[str] = []
    prompt: str = ""
    record: Record | None = None

    def check_harmless(self, recipe: Recipe, named: Iterable[str | None] = ()) -> None:
        """Whether the recipe that came of it may be followed, as `trusted.check_harmless` says.

        Args:
            named: What the user typed.
        """
        if self.record is not None:
            from orthus_core.results.trusted import check_harmless

            check_harmless(self.record.path, as_table(recipe), named)

    def inputs(self) -> list[Path]:
        """The pictures it was made from. Raises: DataError when one is missing or was changed."""
        from orthus_core.results.record import find_inputs

        return find_inputs(self.record) if self.record is not None else []


def stored(path: Path | None, command: str) -> Stored:
    """What a picture, a sidecar, a story or a file of answers says of how it was made.

    Args:
        path: The file; None where none is named.
        command: That is going to take it over.

    Raises:
        DataError: When it has no record, or one of another command.
    """
    if path is None:
        return Stored()

    from orthus_core.results.record import asked_of, read_made

    record = read_made(path)
    if record.command != command:
        raise DataError(
            f"this was made by `orthus {record.command}`, not by `orthus {command}`",
            where=str(path),
            hint=f"orthus replay {shown([str(path)])} makes it again",
        )
    flat = _flat(asked_of(record))
    sets = [f"{name}={toml_value(value)}" for name, value in flat.items() if name != "command"]
    return Stored(sets, record.info.prompt, record)


def continuation_from(path: Path | None, rows: int | None) -> tuple[Continuation | None, Stored]:
    """The picture to continue, and what a new run takes over from it: all but its seed.

    Raises:
        PromptError: When rows are to be kept of no picture.
        DataError: When it does not read.
    """
    if not path and not rows:
        return None, Stored()

    from orthus_core.api.continuation import open_continuation

    if path is None:
        raise PromptError(
            "--keep-rows keeps rows of a picture, and none is named",
            where="--keep-rows",
            hint="name it with --continue out.png",
        )
    continuation = open_continuation(path, rows)
    if continuation.record is None or continuation.record.command != "generate":
        return continuation, Stored()
    before = stored(path, "generate")
    others = [each for each in before.sets if not each.startswith("seeds=")]
    return continuation, before._replace(sets=others)


def words_of(
    record: Record,
    files: Iterable[str | Path] = (),
    output: str = "",
    *,
    run: Run | None = None,
) -> list[str]:
    """The command that draws a result again, word for word, without `orthus` itself.

    Args:
        record: Of the result.
        files: The pictures it was made from.
        output: Where to.
        run: All that were drawn with it, to draw them again too.
    """
    from orthus_core.recipe import SCHEMAS
    from orthus_core.results.record import asked_of

    options = options_of(record.command)
    asked, about = asked_of(record), record.info.model
    opened = {
        "model": asked["model"],
        "device": str(about.get("device", asked["device"])).partition(":")[0],
        "dtype": about.get("dtype", asked["dtype"]),
    }
    usual = {key.name: _plain(key.default) for key in keys(SCHEMAS[record.command])}
    changed = {
        name: value
        for name, value in _flat(asked).items()
        if name not in ASIDE and value != usual.get(name)
    }
    if run:
        changed["seeds"] = list(run.seeds)
    words = []
    for name, value in {**changed, **opened}.items():
        words += _spoken(name, value, options)
    prompts = dict.fromkeys(run.prompts) if run else (record.info.prompt,)
    texts, pictures = _subject(record, prompts, [str(file) for file in files])
    if run and len(set(run.files)) > 1:
        words.append("--each")
    words += [*pictures, *(["-o", output] if output else [])]
    # A prompt that begins with a dash would be read as an option, if not for the two before it.
    dashed = any(text.startswith("-") for text in texts)
    ordered = [*words, "--", *texts] if dashed else [*texts, *words]
    return [record.command, *ordered]


def shown(words: Iterable[str]) -> str:
    """Words as a shell reads them back, quoted where that is needed."""
    words = list(words)
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _subject(
    record: Record, prompts: Iterable[str], files: list[str]
) -> tuple[list[str], list[str]]:
    """What a command is about: its arguments, and the options that name pictures."""
    texts = [prompt for prompt in prompts if prompt]
    if record.command == "edit":
        return [*files, *texts], []
    if record.command == "caption":  # its question is a key of its recipe
        return files, []
    if record.info.begun:
        rows = ["--keep-rows", str(record.info.begun.get("rows"))]
        return texts, [*(word for file in files for word in ("--continue", file)), *rows]
    return texts, [word for file in files for word in ("--image", file)]


def _spoken(name: str, value: Any, options: Mapping[str, tuple[str, bool]]) -> list[str]:
    option, is_flag = options.get(name.rpartition(".")[2], ("", False))
    if not option:
        return ["--set", f"{name}={toml_value(value)}"]
    if is_flag:
        return [option] if value else ["--set", f"{name}=false"]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [word for each in values for word in (option, str(each))]


def options_of(command: str) -> dict[str, tuple[str, bool]]:
    """Each option of a command by its parameter's name: its longest spelling, and whether it stands
    alone."""
    from orthus_cli.plugins import discover

    parameters = discover()[command].command.params
    return {
        parameter.name: (parameter.opts[0], bool(getattr(parameter, "is_flag", False)))
        for parameter in parameters
        if parameter.opts and parameter.opts[0].startswith("-")
    }


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, keys with dots."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
