"""`orthus merge`: a model and adapters as one model folder."""

from __future__ import annotations

from typing import Annotated

import typer

from orthus_cli.console import reporter
from orthus_cli.options import OutputFolder, Overwrite

Base = Annotated[str, typer.Argument(metavar="BASE", help="The model: a folder, alias or hub id.")]
Lora = Annotated[
    list[str],
    typer.Option(
        "--lora",
        metavar="PATH[:SCALE]",
        help="Adapters of that model, and what they are multiplied by; repeat for more.",
    ),
]


def merge(
    ctx: typer.Context,
    base: Base,
    lora: Lora,
    output: OutputFolder,
    overwrite: Overwrite = False,
) -> None:
    """Write a model with LoRA adapters as a model folder.

    Example: orthus merge mini --lora mine:0.8 -o merged

    It draws what the model draws with --lora, to the bit, and keeps the precision that the model is
    stored in. One tensor is in memory at a time.
    """
    r = reporter(ctx)

    from orthus_core.checkpoint.merge import Merged
    from orthus_core.checkpoint.merge import merge as run

    for event in r.track(run(base, lora, output, overwrite=overwrite)):
        if isinstance(event, Merged):
            r.result(
                {"folder": str(event.folder), "bytes": event.bytes, "base": base, "lora": lora},
                text=f"{event.folder}: {event.bytes / 1e6:.0f} MB",
                quiet=[event.folder],
            )
