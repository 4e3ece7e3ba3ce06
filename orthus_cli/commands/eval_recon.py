"""`orthus eval recon`: how well a model's autoencoder reconstructs the pictures of a data set."""

from __future__ import annotations

from typing import Annotated

import typer

from orthus_cli.console import reporter
from orthus_cli.drawing import open_model
from orthus_cli.options import DataFormat
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_core.recipe import CaptionRecipe, GenerateRecipe

COLUMNS = ("through", "PSNR, dB", "SSIM", "pictures")


@recipe_options(GenerateRecipe, only=("model", "device", "dtype"))
def recon(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help='Folder, file or hub id of a data set, or "sprites".'
        ),
    ],
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Number of pictures; 0 measures all.")
    ] = 256,
    apart: Annotated[
        bool, typer.Option("--held-out", help="Only pictures that finetune-vae never draws.")
    ] = False,
    share: Annotated[
        float,
        typer.Option("--share", min=0, max=0.5, help="Its data.held_out.", show_default=True),
    ] = 0.05,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Its data.seed.")] = 0,
    named: DataFormat = "",
    images: Annotated[
        str,
        typer.Option("--images", metavar="DIR", help="Folder that picture paths are relative to."),
    ] = "",
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Part of the data.")] = "",
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="FIELD=COLUMN", help="Column of a field (repeatable)."),
    ] = None,
    *,
    flags: Flags,
) -> None:
    """Measure PSNR and SSIM of the autoencoder on a data set.

    Example: orthus eval recon photos/ --held-out

    Pictures are cropped and scaled as in training. Which ones are held out depends on each picture
    alone, so they stay the same when others are added.
    """
    from orthus_cli.commands.data import columns_of
    from orthus_core.data.row_faults import RowFaults
    from orthus_core.evaluation.reconstruction import reconstruct_each
    from orthus_core.recipe.training import DataRecipe, SourceRecipe
    from orthus_core.train.picture_source import pictures_to_measure

    r = reporter(ctx)
    own = {"format": named, "images": images, "split": split, "columns": columns_of(columns or [])}
    data = DataRecipe(
        sources=(SourceRecipe(path=source, **own),), held_out=share if apart else 0.0, seed=seed
    )
    loaded = open_model(r, CaptionRecipe(**{k: v for k, v in flags.items() if v is not None}))
    vq = loaded.model.model.vqmodel
    faults = RowFaults()
    pictures = pictures_to_measure(data, vq.config.resolution, limit, faults, apart=apart)
    scores, count = reconstruct_each(vq, r.track(pictures))
    for fault in faults.named(faults.take()):
        r.warn(str(fault))
    rows = {path: likeness._asdict() for path, likeness in scores._asdict().items()}
    cells = [(path, f"{s['psnr']:.2f}", f"{s['ssim']:.3f}", str(count)) for path, s in rows.items()]
    r.table(COLUMNS, cells)
    r.result(
        {
            "path": source,
            "model": loaded.about,
            "pictures": count,
            "held_out": share if apart else None,
            "seed": seed,
            "bad": len(faults),
            **rows,
        },
        text="",
        quiet=[f"{rows['features']['psnr']:.2f}"],
    )
