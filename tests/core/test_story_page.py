"""The page of a story: whole in one file, its words as they are, and good to look at."""

from __future__ import annotations

import io
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orthus_core.results.story_folder import title_of
from orthus_core.results.story_page import Figure, story_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
HOSTILE = '<script>alert("x")</script> & "quotes" </style> 🦊 狐'


def png(colour: str, size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def page() -> str:
    figures = [
        Figure("once upon a time there was a fox.", png("orange"), (64, 64)),
        Figure(HOSTILE, png("teal"), (64, 64)),
        Figure("", png("navy"), (64, 64)),
        Figure("the end.", png("crimson"), (64, 64)),
        Figure("words without a picture"),
    ]
    return story_page(HOSTILE, figures, {"Model": "mini", "Seed": "1"})


class Seen(HTMLParser):
    """What a page holds: tags with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_words_are_words_whatever_they_hold(page):
    seen = Seen(page)
    assert "script" not in {tag for tag, _ in seen.tags}
    assert seen.text.count(HOSTILE) == 3, "title, heading and caption"


def test_a_page_fetches_nothing(page):
    for tag, attributes in Seen(page).tags:
        assert tag not in ("link", "script", "iframe", "object")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:image/png;base64,") or (
                name not in attributes
            )
    assert "http://" not in page and "https://" not in page and "url(" not in page
    assert "default-src 'none'" in page


def test_every_picture_has_its_words_and_its_size(page):
    images = [attributes for tag, attributes in Seen(page).tags if tag == "img"]
    assert [image["alt"] for image in images] == [
        "Picture 1: once upon a time there was a fox.",
        f"Picture 2: {HOSTILE}",
        "Picture 3",
        "Picture 4: the end.",
    ]
    assert all(image["width"] == image["height"] == "64" for image in images)


def test_a_title_is_short_and_never_empty():
    assert title_of("") == "A story"
    assert title_of("a fox.") == "a fox"
    assert title_of("one two three four five six seven eight nine") == (
        "one two three four five six seven eight …"
    )


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no browser")
    return found


@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_all_pictures_side_by_side_within_the_screen(
    browser, page, tmp_path, width
):
    file, shot = tmp_path / "story.html", tmp_path / "shot.png"
    file.write_text(page, encoding="utf-8")
    _run(browser, tmp_path, f"--window-size={width},1400", f"--screenshot={shot}", file.as_uri())
    with Image.open(shot) as image:
        seen = image.convert("RGB")
    counts = dict((colour, n) for n, colour in seen.getcolors(seen.width * seen.height) or [])
    for name in ("orange", "teal", "navy", "crimson"):
        colour = Image.new("RGB", (1, 1), name).getpixel((0, 0))
        assert counts.get(colour, 0) > 100 * 100, f"the {name} picture is not to be seen"
    assert counts.get((250, 247, 242), 0), "paper around it"


@pytest.mark.parametrize(("count", "rows"), [(3, 1), (6, 2), (12, 3)])
def test_small_pictures_stand_in_whole_rows_in_the_middle_of_a_wide_screen(
    browser, tmp_path, count, rows
):
    file, shot = tmp_path / "story.html", tmp_path / "shot.png"
    figures = [Figure("a fox.", png("crimson"), (64, 64))] * count
    file.write_text(story_page("a fox", figures, {}), encoding="utf-8")
    _run(browser, tmp_path, "--window-size=1200,1400", f"--screenshot={shot}", file.as_uri())
    with Image.open(shot) as image:
        seen = np.asarray(image.convert("RGB"))
    red = (seen == (220, 20, 60)).all(-1)
    down, across = red.any(1), np.flatnonzero(red.any(0))
    assert int((down[1:] & ~down[:-1]).sum()) == rows
    assert abs(int(across[0]) - (1199 - int(across[-1]))) <= 2


def test_a_browser_prints_it(browser, page, tmp_path):
    file, paper = tmp_path / "story.html", tmp_path / "story.pdf"
    file.write_text(page, encoding="utf-8")
    _run(browser, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", file.as_uri())
    assert (
        paper.read_bytes().startswith(b"%PDF") and paper.read_bytes().count(b"/Type /Page\n") <= 2
    )


def _run(browser: str, folder: Path, *words: str) -> None:
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}",
            *words,
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
