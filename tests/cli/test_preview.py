"""A picture in a terminal: its colours two a character, within the room there is."""

from __future__ import annotations

import torch
from PIL import Image

from orthus_cli.console import Reporter, Settings
from orthus_cli.preview import canvas, rows_so_far, with_preview
from orthus_core.events import ImageDone, PatchDone


def test_a_character_holds_two_pixels(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    image = Image.new("RGB", (2, 2), (255, 0, 0))
    image.putpixel((0, 1), (0, 0, 255))
    text = canvas(image, 2, 10)
    assert text.plain == "▀▀"
    style = text.spans[0].style
    assert style.color.triplet == (255, 0, 0) and style.bgcolor.triplet == (0, 0, 255)


def test_a_preview_fits_into_the_terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    square = Image.new("RGB", (64, 64))
    lines = canvas(square, 200, 10).plain.splitlines()
    assert len(lines) == 10 and len(lines[0]) == 20
    narrow = canvas(square, 12, 100).plain.splitlines()
    assert len(narrow) == 6 and len(narrow[0]) == 12


def test_without_colours_shades_stand_for_brightness(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    image = Image.new("RGB", (2, 2))
    image.paste((255, 255, 255), (1, 0, 2, 2))
    text = canvas(image, 2, 10)
    assert text.plain == " █" and not text.spans


def test_rows_that_are_not_drawn_yet_are_white(tiny_model):
    drawn = [torch.zeros(8), torch.ones(8)]
    image = rows_so_far(tiny_model, drawn)
    assert image.size == (16, 16)
    assert image.crop((0, 8, 16, 16)).getextrema() == ((255, 255),) * 3


def test_the_picture_is_shown_at_each_full_row_and_taken_away_when_it_is_done(
    tiny_model, monkeypatch
):
    r = Reporter(Settings())
    monkeypatch.setattr(Reporter, "can_show", True)
    monkeypatch.setattr(Reporter, "room", lambda _: (20, 10))
    shown = []
    monkeypatch.setattr(Reporter, "show", lambda _, picture: shown.append(picture))
    events = [PatchDone(0, 0, done, 4, torch.zeros(8)) for done in range(1, 5)]
    end = ImageDone(0, 0, torch.zeros(3, 16, 16), torch.zeros(4, 8))
    assert list(with_preview(r, [*events, end], tiny_model)) == [*events, end]
    assert len(shown) == 3 and shown[-1] is None
