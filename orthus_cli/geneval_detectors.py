"""Options of GenEval's detector, and its run over a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from orthus_cli.console import Reporter

Detector = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="NAME",
        help="Of GenEval: mask2former, or boxes for another one without masks.",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="DIR", help="The detector's folder, as transformers saves it."
    ),
]
Clip = Annotated[
    Path | None,
    typer.Option("--clip", metavar="DIR", help="CLIP ViT-L/14, which tells colours: its folder."),
]


class Detected(NamedTuple):
    """What was found in pictures.

    Attributes:
        records: A record of each picture.
        settings: What has to be the same to repeat the numbers.
        files: Files of the report that hold it.
    """

    records: list[dict[str, Any]]
    settings: dict[str, Any]
    files: dict[str, bytes]


class DetectorChoice(NamedTuple):
    """A detector and where its weights are; a name of None is none."""

    name: str | None = None
    weights: Path | None = None
    clip: Path | None = None

    def check(self) -> None:
        """Checks, before a model is opened, that the detector and its weights are there.

        Raises:
            ArgumentError: When there is no such detector.
            OrthusError: When weights are missing; the message names the files.
        """
        if self.name is None:
            given = {"--weights": self.weights, "--clip": self.clip}
            if unused := [option for option, value in given.items() if value is not None]:
                raise typer.BadParameter(f"{', '.join(unused)} is for a --detector")
            return
        from orthus_core.errors import ArgumentError, OrthusError
        from orthus_core.evaluation.clip import open_clip_folder
        from orthus_core.evaluation.geneval_detector import DETECTORS

        if self.name not in DETECTORS:
            raise ArgumentError(
                f"there is no detector {self.name!r}",
                hint=f"the detectors are {', '.join(DETECTORS)}; or give --detections FILE",
            )
        if self.weights is None:
            raise OrthusError(
                "the weights of the detector are needed",
                hint=f"download {DETECTORS[self.name]} (hub): config.json, model.safetensors and "
                "preprocessor_config.json, and give their folder with --weights",
            )
        if self.clip is None:
            open_clip_folder(None)  # says which files are needed

    def look(self, r: Reporter, pictures: Path, data: Path | None, device: str | None) -> Detected:
        """Looks at the pictures of a folder in the official layout.

        Raises:
            OrthusError: When weights are missing, or of another model.
            DataError: When there are no pictures, or one cannot be read.
        """
        from orthus_core.device import pick_device
        from orthus_core.evaluation.clip import open_clip_folder
        from orthus_core.evaluation.geneval_detector import ColorReader, ThingDetector
        from orthus_core.evaluation.official.geneval_detection import (
            DETECTIONS_FILE,
            detect_things,
            detection_lines,
            detection_settings,
            drawn_pictures,
        )
        from orthus_core.user_files import user_path

        assert self.name is not None and self.weights is not None, "see check"
        drawn = drawn_pictures(pictures, data)
        where = str(pick_device(device or "auto"))
        detector = ThingDetector(self.name, user_path(self.weights), where)
        clip = user_path(self.clip) if self.clip else None
        reader = ColorReader(open_clip_folder(clip, device=where))
        records: list[dict[str, Any]] = []
        events: Any = detect_things(drawn, detector, reader)
        for event in r.track(_kept(events, records)):
            assert event
        settings = detection_settings(detector, reader)
        for deviation in settings["deviations"]:
            r.say(f"GenEval by {self.name}: {deviation}")
        return Detected(records, settings, {DETECTIONS_FILE: detection_lines(records)})


def _kept(events: Any, records: list[dict[str, Any]]) -> Any:
    """The progress of the events; records are put aside."""
    for event in events:
        if isinstance(event, dict):
            records.append(event)
        else:
            yield event
