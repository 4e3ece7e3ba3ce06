"""`orthus eval fid`, `hps`, `edit-clip` and `folder`: pictures of any model, and one's own sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthus_cli import options
from orthus_cli.console import Reporter, reporter
from orthus_cli.eval_tasks import show_scores

if TYPE_CHECKING:
    from orthus_core.evaluation.official.task import OfficialTask, ScoringRequest

Pictures = Annotated[
    Path, typer.Option("--pictures", metavar="DIR", help="Folder of pictures.", show_default=False)
]
Report = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Folder for the report."),
]
Clip = Annotated[
    Path | None,
    typer.Option(
        "--clip", metavar="DIR", help="CLIP as transformers saves it, such as CLIP ViT-L/14."
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or mps.")]


def fid(
    ctx: typer.Context,
    pictures: Pictures,
    reference: Annotated[
        Path,
        typer.Option("--reference", metavar="DIR", help="True pictures.", show_default=False),
    ],
    features: Annotated[
        str, typer.Option("--features", metavar="NAME", help="efficientnet-lite0, inception-2015.")
    ] = "efficientnet-lite0",
    inception_weights: Annotated[
        Path | None,
        typer.Option(
            "--inception-weights",
            metavar="FILE",
            help="pt_inception-2015-12-05-6726825d.pth, for inception-2015.",
        ),
    ] = None,
    output: Report = None,
    device: Device = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Compare pictures with true ones, as sets.

    Example: orthus eval fid --pictures drawn/ --reference photos/

    FID, KID, the Inception score, the mean distance of two pictures, precision, recall and
    coverage. The numbers are those of the features, and cannot be compared with those of others.
    """
    from orthus_core.device import pick_device
    from orthus_core.evaluation.official.catalogue import task_named
    from orthus_core.evaluation.official.picture_sets import features_settings, score_picture_sets
    from orthus_core.evaluation.official.task import ScoringRequest
    from orthus_core.evaluation.picture_features import feature_network
    from orthus_core.user_files import user_path

    r = reporter(ctx)
    check_report(output, overwrite)
    where = str(pick_device(device))
    weights = user_path(inception_weights) if inception_weights else None
    network = feature_network(features, weights, where)
    request = ScoringRequest(user_path(pictures), user_path(reference), features)
    events = score_picture_sets(request.predictions, user_path(reference), network, where)
    settings = features_settings(network)
    report(r, task_named("fid"), request, events, settings, output, overwrite)


def hps(
    ctx: typer.Context,
    pictures: Pictures,
    data: Annotated[
        Path,
        typer.Option("--data", metavar="DIR", help="Folder of STYLE.json.", show_default=False),
    ],
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="PATH", help="HPS_v2_compressed.pt, or CLIP's folder."),
    ] = None,
    version: Annotated[
        str, typer.Option("--hps-version", metavar="NAME", help="v2.0 or v2.1: of the weights.")
    ] = "v2.0",
    output: Report = None,
    device: Device = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Score drawn pictures by a model of people's preferences (HPSv2).

    Example: orthus eval hps --pictures drawn/ --data benchmark/ --weights HPS_v2_compressed.pt

    Pictures are STYLE/00000.png and so on, one for each prompt.
    """
    from orthus_core.device import pick_device
    from orthus_core.evaluation.official.catalogue import task_named
    from orthus_core.evaluation.official.hps_files import clip_name, hps_encoder, score_hps
    from orthus_core.evaluation.official.task import ScoringRequest
    from orthus_core.evaluation.scorer_variants import check_variant
    from orthus_core.user_files import user_path

    r = reporter(ctx)
    check_report(output, overwrite)
    task = task_named("hps")
    check_variant(version, task.variants)
    path = user_path(weights) if weights else None
    encoder = hps_encoder(path, version, str(pick_device(device)))
    request = ScoringRequest(user_path(pictures), user_path(data), version)
    events = score_hps(request.predictions, user_path(data), encoder)
    settings = {"weights": path.name if path else "", "encoder": clip_name(encoder)}
    report(r, task, request, events, settings, output, overwrite)


def edit_clip(
    ctx: typer.Context,
    pictures: Pictures,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Folder of InstructPix2Pix, or a JSON-lines file of edits.",
            show_default=False,
        ),
    ],
    clip: Clip = None,
    output: Report = None,
    device: Device = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Score edited pictures by CLIP: CLIP-T, CLIP-I and CLIP-D.

    Example: orthus eval edit-clip --pictures edited/ --data edits.jsonl --clip clip-vit-l14/

    Pictures are named after the edits, ID.png. A line of the file is {"id", "image", "input",
    "output"}: the picture before, and the captions before and after.
    """
    from orthus_core.device import pick_device
    from orthus_core.evaluation.clip import open_clip_folder
    from orthus_core.evaluation.official.catalogue import task_named
    from orthus_core.evaluation.official.edit_clip_files import score_edits
    from orthus_core.evaluation.official.task import ScoringRequest
    from orthus_core.user_files import user_path

    r = reporter(ctx)
    check_report(output, overwrite)
    encoder = open_clip_folder(user_path(clip) if clip else None, device=str(pick_device(device)))
    request = ScoringRequest(user_path(pictures), user_path(data), "official")
    events = score_edits(request.predictions, user_path(data), encoder)
    report(r, task_named("edit-clip"), request, events, {"clip": encoder.name}, output, overwrite)


def folder(
    ctx: typer.Context,
    pictures: Pictures,
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="FILE", help="JSON lines: prompts, or questions.", show_default=False
        ),
    ],
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", metavar="FILE", help='Answers, JSON lines {"id", "answer"}.'),
    ] = None,
    clip: Clip = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Count what is missing, and go on.")
    ] = False,
    output: Report = None,
    device: Device = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Score one's own set of pictures with questions or prompts.

    Example: orthus eval folder --pictures photos/ --data mine.jsonl --predictions said.jsonl

    A line is {"id", "image", "question", "answer"} (or "answers": [...]), or {"id", "prompt",
    "image"} for a drawn picture. With --clip, prompts and their pictures get a CLIP score.
    """
    from orthus_core.evaluation.official.own_files import TASK, score_own_set
    from orthus_core.evaluation.official.task import ScoringRequest
    from orthus_core.user_files import user_path

    r = reporter(ctx)
    check_report(output, overwrite)
    encoder, settings = None, {}
    if clip:
        from orthus_core.device import pick_device
        from orthus_core.evaluation.clip import open_clip_folder

        encoder = open_clip_folder(user_path(clip), device=str(pick_device(device)))
        settings = {"clip": encoder.name}
    request = ScoringRequest(user_path(pictures), user_path(data), "own", allow_missing)
    answers = user_path(predictions) if predictions else None
    events = score_own_set(request, answers, encoder)
    report(r, TASK, request, events, settings, output, overwrite, answers)


def check_report(output: Path | None, overwrite: bool) -> None:
    """Checks that a report may be written, before pictures are read."""
    from orthus_core.atomic_folder import check_folder
    from orthus_core.evaluation.official.score_report import RESULT

    if output:
        check_folder(output, mark=RESULT, overwrite=overwrite)


def report(
    r: Reporter,
    task: OfficialTask,
    request: ScoringRequest,
    events: Iterable[Any],
    settings: dict[str, Any],
    output: Path | None,
    overwrite: bool,
    answers: Path | None = None,
) -> None:
    """Runs a scoring, shows its numbers and writes its report."""
    from orthus_core.evaluation.official.read_files import data_hash
    from orthus_core.evaluation.official.score_report import (
        RESULT,
        SAMPLES,
        report_files,
        result_table,
    )
    from orthus_core.evaluation.official.task import OfficialScores
    from orthus_core.results.output_names import write_folder

    found = None
    for event in r.track(events):
        if isinstance(event, OfficialScores):
            found = event
    assert found is not None, "the scores come last"
    table = {**result_table(task, request, found), "settings": settings}
    if answers:
        table |= {"answers": str(answers), "answers_hash": data_hash([answers])}
    for note in found.notes:
        r.say(note)
    if found.n_missing:
        r.warn(f"{found.n_missing} of {found.n} have no prediction and count as wrong")
    files = report_files(table, found)
    if output:
        replaced = (RESULT, SAMPLES, *found.extra_files)
        write_folder(output, files, mark=RESULT, replaces=replaced, overwrite=overwrite)
    show_scores(r, table, output, files)
