"""GenEval on disk: prompts, and a line of detections for each drawn picture."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orthus_core.errors import DataError
from orthus_core.evaluation import geneval
from orthus_core.evaluation.intervals import bootstrap_counts, wilson
from orthus_core.evaluation.official.read_files import check_unique, find_file, read_json_lines
from orthus_core.evaluation.official.task import (
    AnswerForm,
    AskedItem,
    OfficialScores,
    OfficialTask,
    ScoringRequest,
)

PROMPTS = 'evaluation_metadata.jsonl, a line for each prompt: {"tag", "include", "prompt", ...}'
DETECTIONS = (
    'a line for each picture: {"filename": "DIR/00000/samples/0000.png", "metadata": {...}, '
    '"details": {"dog": [[x0, y0, x1, y1, score]]}}; where the prompt names a colour, boxes are '
    '{"box": [...], "score": 0.9, "color": "red"}; a "correct" in a line is its verdict'
)


def items(data: Path, variant: str = "official") -> list[AskedItem]:
    """The prompts, by their number, as the official folders are named."""
    _, prompts = read_prompts(data)
    return [
        AskedItem(prompt_key(number), each["prompt"], None, each, each["tag"])
        for number, each in enumerate(prompts)
    ]


def write_metadata(asked: Sequence[AskedItem], said: Mapping[str, str]) -> dict[str, bytes]:
    """The record of each prompt, beside the folder of its pictures."""
    return {f"{item.key}/metadata.jsonl": json.dumps(item.gold).encode() for item in asked}


def prompt_key(number: int) -> str:
    """The name of a prompt's folder."""
    return f"{number:05d}"


def picture_name(key: str, number: int) -> str:
    """Where a picture lies in the official folder: `00000/samples/0000.png`."""
    return f"{key}/samples/{number:04d}.png"


def read_prompts(data: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The prompts' file and its records.

    Raises:
        DataError: When it is missing or of another layout.
    """
    path = find_file(data, ["evaluation_metadata.jsonl", "*metadata.jsonl"], PROMPTS)
    records = read_json_lines(path, PROMPTS)
    for number, each in enumerate(records, start=1):
        if not is_prompt(each) or not isinstance(each.get("prompt"), str):
            raise DataError(
                f"record {number} is of another layout",
                where=str(path),
                hint=f"expected: {PROMPTS}",
            )
    return path, records


def score(request: ScoringRequest) -> OfficialScores:
    """Judges detections.

    Raises:
        DataError: When files are missing or do not belong together.
    """
    path = request.predictions
    if request.detections is not None:
        lines = [dict(each) for each in request.detections]
    else:
        if path.is_dir():
            path = find_file(path, ["results.jsonl", "detections.jsonl"], DETECTIONS)
        lines = read_json_lines(path, DETECTIONS)
    files: list[Path] = []  # of the data: detections are predictions
    prompts = None
    if request.data is not None:
        prompts_file, prompts = read_prompts(request.data)
        files = [prompts_file]
    names = [
        str(line.get("filename", line.get("image", number))) for number, line in enumerate(lines)
    ]
    check_unique(names, path)
    rows, taken, differing = [], 0, 0
    for name, line in zip(names, lines, strict=True):
        number = _number(line, name)
        metadata = _metadata(line, prompts, number, path)
        detections = _parsed(line.get("detections", line.get("details")), name, path)
        ready = line.get("correct")
        needs_color = any("color" in wanted for wanted in metadata.get("include", ()))
        if detections is None and ready is None:
            raise DataError(
                f"{name} has no detections", where=str(path), hint=f"expected: {DETECTIONS}"
            )
        other_layout = DataError(
            f"the detections of {name} are of another layout",
            where=str(path),
            hint=f"expected: {DETECTIONS}",
        )
        if detections is not None and not _are_by_class(detections):
            raise other_layout
        verdict = None
        # The official results file does not hold the colours that decided.
        if ready is None or (detections and not (needs_color and not _colored(detections))):
            try:
                verdict = geneval.judge(metadata, detections or {})
            except (TypeError, ValueError, AttributeError) as error:
                raise other_layout from error
        if ready is None:
            assert verdict is not None
            right, reasons = verdict.right, [*verdict.reasons]
        else:  # what the official summary counts
            taken += 1
            right, reasons = bool(ready), [str(line.get("reason", ""))]
            differing += verdict is not None and verdict.right != right
        rows.append(
            {
                "id": name,
                "prompt": metadata["prompt"],
                "tag": metadata["tag"],
                "correct": right,
                "reasons": reasons,
                "metadata": json.dumps(metadata, sort_keys=True),
            }
        )
    n_missing = 0
    if prompts is not None:
        drawn = {row["metadata"] for row in rows}
        undrawn = [
            each
            for number, each in enumerate(prompts)
            if request.asks(prompt_key(number)) and json.dumps(each, sort_keys=True) not in drawn
        ]
        n_missing = len(undrawn)
        if undrawn and not request.allow_missing:
            raise DataError(
                f"{len(undrawn)} of {len(prompts)} prompts have no picture, such as "
                f"{undrawn[0]['prompt']!r}",
                where=str(path),
                hint="detect things in all pictures, or count these as wrong with --allow-missing",
            )
        rows += [
            {
                "id": "",
                "prompt": each["prompt"],
                "tag": each["tag"],
                "correct": False,
                "reasons": ["no picture"],
                "metadata": json.dumps(each, sort_keys=True),
            }
            for each in undrawn
        ]
    found = geneval.summary(rows)
    notes = []
    if taken:
        notes.append(f"{taken} verdicts are those of the file, as in the official summary")
    if differing:
        notes.append(f"{differing} of them are not what the rule says of the file's boxes")
    return OfficialScores(
        n=len(rows),
        n_missing=n_missing,
        n_unparsed=0,
        metrics={name: found[name] for name in ("overall", "per_image", "per_prompt")},
        per_category=found["per_task"],
        intervals=_intervals(rows),
        samples=[
            {
                "id": row["id"],
                "prompt": row["prompt"],
                "tag": row["tag"],
                "right": row["correct"],
                "why": row["reasons"],
            }
            for row in rows
        ],
        files=files,
        notes=notes,
    )


def _number(line: dict[str, Any], name: str) -> int | None:
    """The number of a picture's prompt: the folder above `samples` has it as its name."""
    if isinstance(line.get("index"), int):
        return line["index"]
    return next((int(part) for part in reversed(Path(name).parts[:-1]) if part.isdigit()), None)


def _metadata(
    line: dict[str, Any], prompts: list[dict[str, Any]] | None, number: int | None, path: Path
) -> dict[str, Any]:
    metadata = _parsed(line.get("metadata"), "the prompt", path)
    if metadata is None and "include" in line and "tag" in line:
        metadata = {
            name: line[name] for name in ("tag", "include", "exclude", "prompt") if name in line
        }
    if metadata is None:
        if prompts is None or number is None or not 0 <= number < len(prompts):
            raise DataError(
                f"the prompt of {line.get('filename', 'a picture')} is not known",
                where=str(path),
                hint='give "metadata" in each line, or --data evaluation_metadata.jsonl and file '
                "names with the prompt's number: 00000/samples/0000.png",
            )
        return prompts[number]
    if prompts is not None and metadata not in prompts:
        raise DataError(
            f"the prompt {metadata.get('prompt')!r} is not in this set",
            where=str(path),
            hint="these are detections for another set of prompts: give its file with --data",
        )
    if not is_prompt(metadata):
        raise DataError(
            f"the record of the prompt of {line.get('filename', 'a picture')} is of another layout",
            where=str(path),
            hint=f"expected: {PROMPTS}",
        )
    return {"prompt": "", **metadata}


def _parsed(value: Any, what: str, path: Path) -> Any:
    """A value that the official file holds as the text of JSON. Raises: DataError if it is none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise DataError(
            f"{what} is no JSON: {error}", where=str(path), hint=f"expected: {DETECTIONS}"
        ) from error


def is_prompt(record: Any) -> bool:
    """Whether the fields that the rule reads are what they should be."""
    if not isinstance(record, dict) or not isinstance(record.get("tag"), str):
        return False
    wanted = [record.get("include", []), record.get("exclude", [])]
    return all(isinstance(each, list) for each in wanted) and all(
        isinstance(each, dict)
        and isinstance(each.get("class"), str)
        and isinstance(each.get("count"), int)
        and isinstance(position := each.get("position", ["", 0]), list)
        and len(position) == 2
        for each in (*wanted[0], *wanted[1])
    )


def _are_by_class(detections: Any) -> bool:
    """Whether detections are by class, or records with one each."""
    return isinstance(detections, dict) or (
        isinstance(detections, list) and all(isinstance(each, dict) for each in detections)
    )


def _colored(detections: Any) -> bool:
    groups = geneval.by_class(detections).values()
    return all(each.color is not None for group in groups for each in group)


def _intervals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Pictures of a prompt resemble each other, so prompts are resampled, and not pictures."""
    prompts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in rows:
        prompts[row["tag"], row["metadata"]].append(row["correct"])
    strata: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    for (tag, _), outcomes in prompts.items():
        strata[tag][sum(outcomes), len(outcomes)] += 1
    intervals = {"overall": bootstrap_counts(strata, _mean_of_tasks)}
    for tag, counts in strata.items():
        single = all(drawn == 1 for _, drawn in counts)
        intervals[f"{tag}.accuracy"] = (
            wilson(counts[1, 1], sum(counts.values()))
            if single
            else bootstrap_counts({tag: counts}, _mean_of_tasks)
        )
    return intervals


def _mean_of_tasks(drawn: Any) -> Any:
    shares = [
        sum(right * n for (right, _), n in counts.items())
        / sum(total * n for (_, total), n in counts.items())
        for counts in drawn.values()
    ]
    return sum(shares) / len(shares)


TASK = OfficialTask(
    name="geneval",
    measures="Whether drawn pictures show the things, counts, colours and positions of a prompt",
    files=(
        PROMPTS,
        "pictures DIR/00000/samples/0000.png, four to each of the 553 prompts",
        "for --detector mask2former: folders of the detector and of CLIP ViT-L/14, as transformers "
        "saves them",
    ),
    source="github.com/djghosh13/geneval, prompts/evaluation_metadata.jsonl; weights: hub "
    "facebook/mask2former-swin-small-coco-instance, openai/clip-vit-large-patch14",
    predictions=f"{DETECTIONS}; or with --detector the folder of the pictures",
    prompt="the prompt",
    metric="mean over six tasks of the share of correct pictures; boxes above 0.3 (counting: 0.9)",
    variants={"official": "the official rule, on what any detector has found: name it"},
    paper="0.58 (overall)",
    score=score,
    items=items,
    form=AnswerForm(
        lambda data: [read_prompts(data)[0]], write_metadata, drawn=picture_name, pictures=4
    ),
)
