"""`orthus replay`: a finished result made again, and compared pixel by pixel or word by word."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orthus_cli import options
from orthus_cli.answers_again import ask_again
from orthus_cli.console import Reporter, Settings, reporter
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_cli.stored import elsewhere, shown, words_of
from orthus_core.errors import OutputError
from orthus_core.recipe import GenerateRecipe

ANSWERS = ".jsonl"

if TYPE_CHECKING:
    from orthus_core.results.record import Difference, Distance, Record, Run


@recipe_options(GenerateRecipe, only=("model", "device", "dtype"))
def replay(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A picture, its JSON, a story or its folder, or answers.jsonl."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PATH", help="Keep the new picture, too."),
    ] = None,
    images: options.Images = None,
    *,
    flags: Flags,
    overwrite: options.Overwrite = False,
) -> None:
    """Draw a result again and say whether it is identical.

    Example: orthus replay out.png

    The command that `orthus info` shows is run, and pixels are compared by their hash. What differs
    is told, and exit code 1 says that something does.
    """
    r = reporter(ctx)
    model, device, dtype = flags["model"], flags["device"], flags["dtype"]

    if path.suffix.lower() == ANSWERS:
        if output:
            raise OutputError(
                "answers are asked again, and no picture is drawn",
                where=str(output),
                hint=f"orthus caption -C {shown([str(path)])} IMAGE... -o {output} keeps new ones",
            )
        if not ask_again(r, path, images or [], model, device, dtype):
            raise typer.Exit(1)
        return

    from orthus_core.results.files import write_file
    from orthus_core.results.output_names import check_free
    from orthus_core.results.record import asked_of, circumstances, find_inputs, read_made, run_of
    from orthus_core.results.trusted import check_harmless

    # 1. How it was made, and whether all that it takes is here.
    record = read_made(path)
    if output:
        _check_output(output, record)
        check_free(output, overwrite=overwrite)
    then = elsewhere(record, model, device, dtype)
    check_harmless(path, asked_of(then), named=(model,))
    inputs = find_inputs(record, images or [])
    # 2. The same command again, in a place of its own; if need be with all it was drawn with.
    run = _repeatable(run_of(record))
    with tempfile.TemporaryDirectory(prefix="orthus-replay-") as folder:
        drawn = _draw(r, ctx, then, inputs, Path(folder) / "alone", None)
        same, among = _are_same(record, drawn), 0
        if not same and run:
            # Rounding hangs on how many rows a product has, and so on what is drawn beside it.
            r.say(f"drawn alone it differs, so all {run.pictures} of its run are drawn")
            among = run.pictures
            several = len(set(run.files)) > 1
            all_inputs = [Path(file) for files in run.files for file in files]
            drawn = _draw(
                r, ctx, then, all_inputs if several else inputs, Path(folder) / "run", run
            )
            same = _are_same(record, drawn)
        # 3. What came of it.
        again = read_made(next(iter(drawn.values())))
        apart = None if same else _distance(record, drawn)
        if output:
            write_file(output, next(iter(drawn.values())).read_bytes(), overwrite=overwrite)
    # A result that was replayed elsewhere on purpose still tells what it was made with.
    differences = circumstances(record, again)
    _tell(r, record, same, among, differences, apart, output)
    if not same:
        raise typer.Exit(1)


def _check_output(output: Path, record: Record) -> None:
    if len(record.pixels) != 1:
        raise OutputError(
            "a whole story is replayed, and that is many pictures",
            where=str(output),
            hint="replay one of its panels, such as story/02.png, to keep it",
        )
    if output.suffix.lower() != ".png":
        raise OutputError("pictures are written as PNG", where=str(output))


def _run(ctx: typer.Context, words: Sequence[str]) -> None:
    """Runs a command of ours inside this one; it says its lines on stderr and keeps its result."""
    root = ctx.find_root()
    before = root.obj
    command = root.command.get_command(root, words[0])  # type: ignore[attr-defined]
    settings = before if isinstance(before, Settings) else Settings()
    root.obj = replace(settings, format="quiet")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            inner = command.make_context(words[0], list(words[1:]), parent=root)
            with inner:
                command.invoke(inner)
    finally:
        root.obj = before


def _repeatable(run: Run | None) -> Run | None:
    """The run, if all of it can be drawn again by one command: every picture it read is there, and
    where they differ each was the only one of its subject."""
    if run is None or len(set(run.files)) == 1:
        return run
    alone = all(len(files) == 1 and Path(files[0]).is_file() for files in run.files)
    return run if alone and len(set(run.prompts)) == 1 else None


def _draw(
    r: Reporter,
    ctx: typer.Context,
    record: Record,
    inputs: Sequence[Path],
    place: Path,
    run: Run | None,
) -> dict[int, Path]:
    """Draws it again below `place`: the new pictures that answer to the record's, by panel."""
    output = str(place) if record.command == "story" else f"{place}/{{number}}.png"
    words = words_of(record, inputs, output, run=run)
    r.detail(shown(["orthus", *words]))
    _run(ctx, words)
    if record.command == "story":
        return {number: place / f"{number:02}.png" for number in record.pixels}
    return dict.fromkeys(record.pixels, place / f"{run.place + 1 if run else 1}.png")


def _are_same(record: Record, drawn: dict[int, Path]) -> bool:
    from orthus_core.data.pixels import open_image
    from orthus_core.results.metadata import pixel_hash

    return all(
        drawn[number].is_file() and pixel_hash(open_image(drawn[number])) == digest
        for number, digest in record.pixels.items()
    )


def _distance(record: Record, drawn: dict[int, Path]) -> Distance | None:
    """How far the new picture is from the one in the file; None where the file holds none."""
    from orthus_core.data.pixels import open_image
    from orthus_core.results.record import distance

    if record.seen is None:
        return None
    return distance(open_image(record.path), open_image(next(iter(drawn.values()))))


def _tell(
    r: Reporter,
    record: Record,
    same: bool,
    among: int,
    differences: Sequence[Difference],
    apart: Distance | None,
    output: Path | None,
) -> None:
    others = f", drawn with the {among - 1} others of its run" if same and among else ""
    lines = [f"identical{others}" if same else "not identical"]
    lines += [f"{what}: {then} then, {now} now" for what, then, now in differences]
    if not same and apart is not None:
        lines.append(
            f"{apart.values} of {apart.total} colour values differ, "
            f"by at most {apart.largest} of 255"
        )
    if not same and not differences:
        lines.append("version, model, device and dtype are the same")
        if apart is not None and apart.largest == 1:
            lines.append(
                "a difference of 1 is rounding, which hangs on how many pictures are drawn at once"
            )
    if record.seen and record.seen not in record.pixels.values():
        lines.append("the picture in the file was changed after it was drawn")
    r.result(
        {
            "path": str(record.path),
            "identical": same,
            "drawn_together": among or 1,
            "differences": [each._asdict() for each in differences],
            "distance": apart._asdict() if apart else None,
            "pixels": record.pixels,
            "output": str(output) if output else None,
        },
        text="\n".join(lines),
        quiet=["identical" if same else "different"],
    )
