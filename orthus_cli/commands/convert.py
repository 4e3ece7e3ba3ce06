"""`orthus convert`: a Chameleon or Anole into an Orthus, proven equal before it is kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthus_cli.console import Reporter, reporter
from orthus_cli.options import DryRun, OutputFolder, Overwrite, RecipeFile, Sets
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_core.recipe import ConvertRecipe, as_table, dump, load
from orthus_core.shell_words import shell_quoted

if TYPE_CHECKING:
    from orthus_core.checkpoint.convert import Converted
    from orthus_core.checkpoint.parts import Part
    from orthus_core.checkpoint.verify import Proof


@recipe_options(ConvertRecipe, only=("head.width", "dtype"))
def convert(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Chameleon, Anole or Orthus: a folder, hub id, or chameleon-7b, anole-7b.",
        ),
    ],
    output: OutputFolder,
    vqgan: Annotated[
        Path | None,
        typer.Option(
            "--vqgan", metavar="FILE", help="vqgan.ckpt with the pixel decoder SOURCE lacks."
        ),
    ] = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    *,
    flags: Flags,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Make an Orthus out of a Chameleon or Anole checkpoint.

    SOURCE may be in Hugging Face's layout or in Meta's own (params.json, consolidated*.pth,
    tokenizer/); an Orthus, such as the released ones, is written anew in our layout.
    """
    resolved = load(ConvertRecipe, recipe, sets or (), flags)
    r = reporter(ctx)
    r.detail(dump(resolved))

    from orthus_core.atomic_folder import check_folder
    from orthus_core.checkpoint.convert import Converted, plan
    from orthus_core.checkpoint.convert import convert as run
    from orthus_core.checkpoint.headers import CONFIG
    from orthus_core.checkpoint.hub import resolve
    from orthus_core.checkpoint.parts import parts_of

    if not dry_run:
        check_folder(output, mark=CONFIG, overwrite=overwrite)  # before a download
    folder = resolve(source)
    if dry_run:
        parts = parts_of(plan(folder, resolved, vqgan=vqgan).tensors)
        _show_parts(r, parts, f"{output}, from {source}")
        r.say(f"{source} would become {output}; nothing was written")
        r.result({"dry_run": True, "recipe": as_table(resolved), **_sizes(parts)}, text="")
        return

    r.say(f"converting {source} to {output}")
    for event in r.track(
        run(folder, output, resolved, vqgan=vqgan, name=source, overwrite=overwrite)
    ):
        if isinstance(event, Converted):
            _report(r, event, source)


def _report(r: Reporter, made: Converted, source: str) -> None:
    steps = _next_steps(made, source)
    _show_parts(r, made.parts, f"{made.folder}, from {source} ({made.layout} layout)")
    if made.proof is not None:
        _show_proof(r, made.proof)
    speed = made.bytes / 1e6 / max(made.write_seconds, 1e-9)
    r.say(
        f"wrote {made.bytes / 1e6:.0f} MB in {made.write_seconds:.1f} s ({speed:.0f} MB/s), "
        f"checked in {made.check_seconds:.1f} s"
    )
    r.result(
        {
            "folder": str(made.folder),
            "layout": made.layout,
            **_sizes(made.parts),
            "proof": made.proof and made.proof._asdict(),
            "seconds": {"write": made.write_seconds, "check": made.check_seconds},
            "next": steps,
        },
        text="\n".join(steps),
        quiet=[made.folder],
    )


def _next_steps(made: Converted, source: str) -> list[str]:
    """What the new model still lacks, and the commands that add it."""
    steps = []
    if not made.has_decoder:
        steps.append(
            "no pixel decoder in the source, so the model reads pictures and draws none: "
            f"orthus convert {shell_quoted([source])} -o DIR --vqgan vqgan.ckpt adds it "
            "(the file is in Meta's download of Chameleon, in tokenizer/)"
        )
    if not made.has_tokenizer:
        steps.append(
            "no tokenizer in the source: copy its tokenizer.json, tokenizer_config.json and "
            f"preprocessor_config.json into {made.folder}"
        )
    if made.is_new:
        steps.append(
            f"the {made.head} is new: "
            f"orthus build-base --init-from {shell_quoted([str(made.folder)])} -o DIR trains it"
        )
    return steps


def _show_proof(r: Reporter, proof: Proof) -> None:
    path = f"{proof.codes} image codes through {proof.layers} layers of both, fp32"
    if proof.twins:
        path += f"; {proof.twins} codes that share a place with another were passed over"
    r.table(
        ("proof", "how", "largest difference", "of the largest value"),
        [
            ("hidden states", path, proof.difference, f"{proof.relative:.1e}"),
            ("logits", "the LM heads of both on those", "", f"{proof.logits:.1e}"),
            ("other tensors", f"{proof.copied} compared value by value", 0.0, ""),
        ],
    )


def _show_parts(r: Reporter, parts: Iterable[Part], title: str) -> None:
    r.table(
        ("part", "parameters", "MB", "precision"),
        [
            (part.name, f"{part.parameters:,}", f"{part.bytes / 1e6:.1f}", ", ".join(part.dtypes))
            for part in parts
        ],
        title,
    )


def _sizes(parts: Iterable[Part]) -> dict[str, Any]:
    return {
        "parameters": sum(part.parameters for part in parts),
        "bytes": sum(part.bytes for part in parts),
        "parts": [part._asdict() for part in parts],
    }
