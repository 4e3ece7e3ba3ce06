"""Turns a picture's record of how it was made into a command line: to show it and to draw again.

The options are read from the command itself: an option that is added there is used here, and a
recipe key without an option is written `--set key=value`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orthus_core.errors import DataError, PromptError
from orthus_core.recipe import Recipe, as_table, keys
from orthus_core.recipe.save import toml_value
from orthus_core.shell_words import is_plain, shell_quoted

if TYPE_CHECKING:
    from orthus_core.api.continuation import Continuation
    from orthus_core.results.record import Record, Run

ASIDE = {"command", "model", "device", "dtype"}
"""Keys that stand first, under the values that the model was opened with."""


class Stored(NamedTuple):
    """Values that a new run takes over from a finished result; empty if there is none.

    Attributes:
        sets: Values of the result in the form of `--set`. They come before typed ones, which
            therefore win.
        prompt: Words of the result.
        record: Complete record of how the result was made.
    """

    sets: list[str] = []
    prompt: str = ""
    record: Record | None = None

    def check_harmless(self, recipe: Recipe, named: Iterable[str | None] = ()) -> None:
        """Checks the resulting recipe with `trusted.check_harmless`.

        Args:
            named: Values that the user typed.
        """
        if self.record is not None:
            from orthus_core.results.trusted import check_harmless

            check_harmless(self.record.path, as_table(recipe), named)

    def inputs(self) -> list[Path]:
        """The pictures it was made from. Raises: DataError when one is missing or was changed."""
        from orthus_core.results.record import find_inputs

        return find_inputs(self.record) if self.record is not None else []


def read_stored(path: Path | None, command: str) -> Stored:
    """The record of a picture, a sidecar, a story or a captions file.

    Args:
        path: The file; None where none is named.
        command: Command that takes the values over.

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
            hint=f"orthus replay {shell_quoted([str(path)])} makes it again",
        )
    return Stored(sets_of(asked_of(record)), record.info.prompt, record)


def sets_of(values: Mapping[str, Any]) -> list[str]:
    """Values of a finished result in the form of `--set`."""
    flat = _flat(values)
    return [f"{name}={toml_value(value)}" for name, value in flat.items() if name != "command"]


def continuation_from(path: Path | None, rows: int | None) -> tuple[Continuation | None, Stored]:
    """The picture to continue, and what a new run takes over from it: all but its seed.

    Raises:
        PromptError: When rows are to be kept but no picture is given.
        DataError: When it cannot be read.
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
    before = read_stored(path, "generate")
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
        record: Record of the result.
        files: The pictures it was made from.
        output: Output path.
        run: Run that the result was part of, to draw all of it again.
    """
    from orthus_core.recipe import SCHEMAS
    from orthus_core.results.record import asked_of

    options = options_of(record.command)
    asked, opened = asked_of(record), _opened(record)
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
    # Without the `--` before it, a prompt that begins with a dash would be read as an option.
    dashed = any(text.startswith("-") for text in texts)
    ordered = [*words, "--", *texts] if dashed else [*texts, *words]
    return [record.command, *ordered]


def command_line(record: Record, encoding: str) -> str:
    """The command that draws a result again, as it can be pasted from a console.

    Where its words cannot be printed, they are read from the result's own file instead.

    Args:
        encoding: Encoding of the console.
    """
    words = words_of(record, record.info.files)
    if not all(is_plain(word, encoding) for word in words):
        words = _words_from_file(record)
    return shell_quoted(["orthus", *words], encoding)


def _words_from_file(record: Record) -> list[str]:
    """The same command with its values from the result's file; see `words_of`."""
    from orthus_core.recipe.solver_registry import SOLVERS
    from orthus_core.results.record import asked_of

    options, asked = options_of(record.command), asked_of(record)
    words = [record.command, "-C", str(record.path)]
    # A file's own scheduler is not loaded from outside unless it is named, see `trusted`.
    outside = asked.get("scheduler") not in (None, *SOLVERS)
    named = {"scheduler": asked.get("scheduler")} if outside else {}
    for name, value in {**named, **_opened(record)}.items():
        words += _spoken(name, value, options)
    if record.command == "caption" or record.info.begun:  # these name their pictures each time
        texts, pictures = _subject(record, (), list(record.info.files))
        words += [*pictures, *(["--", *texts] if texts else [])]
    return words


def _opened(record: Record) -> dict[str, Any]:
    """The model of a result, and the device and the precision that it was opened with."""
    from orthus_core.results.record import asked_of

    asked, about = asked_of(record), record.info.model
    return {
        "model": asked["model"],
        "device": str(about.get("device", asked["device"])).partition(":")[0],
        "dtype": about.get("dtype", asked["dtype"]),
    }


def _subject(
    record: Record, prompts: Iterable[str], files: list[str]
) -> tuple[list[str], list[str]]:
    """The arguments of a command, and its options that name pictures."""
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
    """Each option of a command by its parameter's name: its longest spelling, and whether it takes
    no value.
    """
    from orthus_cli.plugins import discover

    parameters = discover()[command].command.params
    return {
        parameter.name: (parameter.opts[0], bool(getattr(parameter, "is_flag", False)))
        for parameter in parameters
        if parameter.opts and parameter.opts[0].startswith("-")
    }


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one flat table with dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
