"""`orthus data`: look a data set over before training, and make the sprite pack anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orthus_cli.console import reporter
from orthus_cli.options import Overwrite
from orthus_core.errors import OutputError

app = typer.Typer(
    help="Check data sets, prepare the bundled one.", rich_markup_mode=None, no_args_is_help=True
)
prepare = typer.Typer(
    help="Make a data set from its sources.", rich_markup_mode=None, no_args_is_help=True
)
app.add_typer(prepare, name="prepare")


@app.command("check")
def check(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Folder of pictures, or .jsonl of records.")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad record.")] = False,
) -> None:
    """Read every record and picture of a data set, and show what is wrong with it.

    Ends with exit code 1 when a record cannot be used.
    """
    from orthus_core.data.formats.sniff import read
    from orthus_core.data.sprites import SpritePack

    r = reporter(ctx)
    reading = read(path, strict=strict, pack=SpritePack.open())
    for _ in r.track(reading.check_pictures()):
        pass
    for fault in reading.faults:
        r.warn(str(fault))
    if reading.fault_count > len(reading.faults):
        r.warn(f"... and {reading.fault_count - len(reading.faults)} more")
    usable = len(reading.documents)
    r.result(
        {
            "path": str(path),
            "usable": usable,
            "bad": reading.fault_count,
            "first_bad": [fault._asdict() for fault in reading.faults],
        },
        text=f"{path}: {usable} usable, {reading.fault_count} bad",
        quiet=[usable],
    )
    if reading.fault_count:
        raise typer.Exit(1)


@prepare.command("emoji")
def prepare_emoji(
    ctx: typer.Context,
    assets: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of pictures of the npm package @lobehub/fluent-emoji-3d."
        ),
    ],
    names: Annotated[
        Path, typer.Option(metavar="DIR", help="The unpacked npm package emojibase-data.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Tar to make.")],
    size: Annotated[int, typer.Option(min=16, max=256, help="Side of a picture in pixels.")] = 128,
    overwrite: Overwrite = False,
) -> None:
    """Make the sprite pack: Fluent 3D emoji with their names, in one tar."""
    from orthus_core.data.emoji import build_pack

    if output.exists() and not overwrite:
        raise OutputError(
            "a file of this name is already there",
            where=str(output),
            hint="name another one, or replace it with --overwrite",
        )
    r = reporter(ctx)
    r.say("scaling about two thousand pictures, some twenty seconds")
    pack = build_pack(assets, names, output, size)
    r.detail("named but without a picture: " + ", ".join(pack.without_picture))
    r.result(
        {
            "path": str(pack.path),
            "sprites": pack.untoned + pack.toned,
            "toned": pack.toned,
            "bytes": pack.size_bytes,
            "without_picture": list(pack.without_picture),
        },
        text=f"{pack.path}: {pack.untoned} sprites and {pack.toned} with a skin tone, "
        f"{pack.size_bytes / 1e6:.1f} MB",
        quiet=[pack.path],
    )
