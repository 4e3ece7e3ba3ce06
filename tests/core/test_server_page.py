"""The page: what its file says, and what it does in a browser with a real server.

Tests with `browser` need Playwright (`pip install playwright`) and a Chromium that is installed;
they are skipped where one is missing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
import time
import zipfile
from collections import Counter
from html.parser import HTMLParser

import anyio
import pytest
from PIL import Image
from starlette.testclient import TestClient

from orthus_core.api.loaded import load_model
from orthus_core.results.record import read_made
from orthus_core.server.http_app import make_app
from orthus_core.server.page_file import PAGE, read_page
from orthus_core.server.request_guard import Access, Limits
from orthus_core.server.serving import GracefulServer, bind, open_state, url_of

TEXT = PAGE.read_text(encoding="utf-8")
SCRIPT = TEXT[TEXT.index("<script>") + 8 : TEXT.index("</script>")]
FORMS = ("draw", "edit", "story", "ask")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
CHROMIUM = CHROMIUM or shutil.which("google-chrome")
HOSTILE = '<img src=x onerror="document.title=1"></textarea><script>document.title=2</script>'


class Elements(HTMLParser):
    """The elements of the page: tag and attributes of each, and the texts of script and style."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] in self.inside and data.strip():
            self.inside[self.found[-1][0]].append(data)


@pytest.fixture(scope="module")
def elements():
    parser = Elements()
    parser.feed(TEXT[: TEXT.index("</script>") + 9])
    return parser


@pytest.fixture(scope="module")
def loaded(tiny_folder, tmp_path_factory):
    """The tiny model, which knows a few words."""
    folder = tmp_path_factory.mktemp("page") / "tiny"
    shutil.copytree(tiny_folder, folder)
    (folder / "vocabulary.txt").write_text("fox\nred\nsnowman\n")
    things = {"animals": [{"name": "fox", "emoji": "🦊"}], "others": [{"name": "snowman"}]}
    words = {"things": things, "cast": ["snowman", "fox"], "questions": ["What is this?"]}
    (folder / "words.json").write_text(json.dumps(words))
    return load_model(folder, device="cpu")


# The file


def test_it_is_small_and_names_no_outside_address():
    assert len(TEXT.encode()) < 120_000
    assert not re.findall(r"(?:https?:|wss?:|[\"'(=]\s*)//[\w.-]+", TEXT)
    assert not re.findall(r"@import|url\(|<iframe|<object|<embed|importScripts|import\(", TEXT)
    sources = re.findall(r"<[^>]*\s(?:src|href)=\"([^\"]*)\"", TEXT)
    assert all(source.startswith(("data:", "#")) for source in sources)


def test_its_policy_lets_only_its_own_script_and_style_run(elements):
    policy = dict(each.split(" ", 1) for each in read_page().policy.split("; "))
    for tag in ("script", "style"):
        (content,) = elements.inside[tag]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    for _, attributes in elements.found:  # what the policy would refuse
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_text_goes_into_it_as_text():
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "srcdoc",
    ):
        assert way not in SCRIPT


def test_labels_ids_and_the_script_name_elements_that_exist(elements):
    counted = Counter(each["id"] for _, each in elements.found if "id" in each)
    ids = set(counted)
    assert max(counted.values()) == 1
    for _, each in elements.found:
        for name in ("for", "aria-controls", "aria-labelledby", "aria-describedby"):
            assert set((each.get(name) or "").split()) <= ids, each
    labelled = {each["for"] for tag, each in elements.found if tag == "label"}
    fields = {each["id"] for tag, each in elements.found if tag in ("input", "select", "textarea")}
    assert fields == labelled
    wanted = set(re.findall(r'\$\("([\w-]+)"\)', SCRIPT))
    assert wanted <= ids
    for ending in set(re.findall(r"\$\(`\$\{name\}(-[\w-]+)`\)", SCRIPT)):
        assert {f"{form}{ending}" for form in FORMS} & ids, ending


def test_what_it_asks_for_is_served(loaded):
    paths = set(re.findall(r"[\"'`](/(?:v1|api|health)[\w/]*)[\"'`]", SCRIPT))
    assert len(paths) >= 7
    with TestClient(make_app(open_state(loaded, Access(), Limits())), "http://127.0.0.1") as client:
        for path in paths:
            codes = (client.get(path).status_code, client.post(path, json=[]).status_code)
            assert 404 not in codes and set(codes) & {200, 400, 415}, path
        answer = client.get("/")
    assert answer.text == TEXT and answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == read_page().policy


def test_its_colours_can_be_told_apart_in_both_themes():
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", TEXT)
    for theme in (1, 2):
        colours = {each[0]: each[theme] for each in pairs}
        for ground in ("paper", "raised"):
            for ink in ("ink", "soft", "accent", "warn"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground, theme)
            assert contrast(colours["edge"], colours[ground]) >= 3
        assert contrast(colours["on-accent"], colours["accent"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, by the accessibility guidelines (WCAG 2.2, 1.4.3)."""

    def luminance(colour: str) -> float:
        parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


# In a browser


class PageServer:
    """A server in a thread of its own, which can be stopped at once and started again."""

    def __init__(self, loaded, api_key: str | None = None) -> None:
        self.loaded, self.access, self.port = loaded, Access(api_key=api_key), 0
        self.start()

    def start(self) -> None:
        self.state = open_state(self.loaded, self.access, Limits(seconds=60))
        self.server = GracefulServer(self.state)
        self.bound = bind("127.0.0.1", self.port)
        self.port, self.url = self.bound.getsockname()[1], url_of(self.bound)
        self.thread = threading.Thread(target=lambda: anyio.run(self.server.serve, [self.bound]))
        self.state.worker.start()
        self.thread.start()
        until(lambda: self.server.started)

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(30)
        self.state.worker.stop()
        self.bound.close()

    def rows(self) -> int:
        return self.state.worker.unfinished_rows


def until(holds, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def served(loaded):
    with PageServer(loaded) as server:
        yield server


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, served):
    """Opens the page, and fails when it logs an error that is not the browser's own about HTTP."""
    contexts, errors = [], []

    def opened(url: str = "", **options):
        context = chromium.new_context(**{"viewport": {"width": 1100, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda said: (
                said.type == "error"
                and "Failed to load resource" not in said.text
                and errors.append(said.text)
            ),
        )
        page.goto(url or served.url)
        page.wait_for_selector("#model-line:has-text('tiny'), #key-dialog[open]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not errors


def draw(page, prompt: str = "a snowman", *, seed: str = "7", n: int = 1) -> None:
    page.fill("#draw-prompt", prompt)
    page.fill("#draw-seed", seed)
    page.fill("#draw-n", str(n))
    page.press("#draw-prompt", "Control+Enter")


def finished(page, tab: str, count: int) -> None:
    """Waits for pictures with what can be done with them."""
    page.wait_for_selector(f"#{tab}-stage figure > .row a >> nth={count - 1}")


def saved(page, selector: str, tmp_path) -> str:
    """The file that a link saves."""
    with page.expect_download() as waited:
        page.click(selector)
    file = tmp_path / waited.value.suggested_filename
    waited.value.save_as(file)
    return str(file)


@pytest.mark.browser
def test_seeds_are_drawn_side_by_side_patch_by_patch_and_kept_with_their_recipe(
    open_page, loaded, tmp_path
):
    page = open_page()
    page.evaluate("""() => { window.shares = new Set();
      new MutationObserver(() => document.querySelectorAll("#draw-stage progress")
        .forEach((each) => window.shares.add(each.value)))
      .observe(document.querySelector("#draw-stage"), { subtree: true, attributes: true }); }""")
    page.click("#panel-draw summary")
    page.fill("#draw-steps", "3")
    draw(page, seed="7 9-10", n=1)
    finished(page, "draw", 3)
    assert {0.25, 0.5, 0.75} <= set(page.evaluate("[...window.shares]"))  # of four patches
    captions = page.locator("#draw-stage figcaption").all_text_contents()
    assert captions == ["seed 7", "seed 9", "seed 10"]
    assert page.get_attribute("#draw-stage img >> nth=0", "alt") == "a snowman"
    assert page.text_content("#draw-form .said").startswith("3 pictures are done")
    file = saved(page, "#draw-stage figure:nth-child(2) a", tmp_path)
    assert file.endswith("a-snowman_9.png")
    made = read_made(file)
    assert made.info.prompt == "a snowman" and made.info.seed == 9
    assert made.info.sampling["steps"] == 3
    # The browser keeps them.
    page.reload()
    page.wait_for_selector("#shelf li >> nth=2")
    page.click("#shelf li button[aria-label='a snowman, seed 9']")
    told = page.text_content("#detail dl")
    assert "Seed9" in told and "steps3" in told and "Modeltiny" in told
    again = saved(page, "#detail a", tmp_path)
    assert read_made(again).seen == made.seen
    page.click("text=Use these values")
    assert page.input_value("#draw-seed") == "9" and page.input_value("#draw-steps") == "3"
    page.click("#gallery-clear")
    page.click("#sure button[value=remove]")
    page.wait_for_selector("#shelf:empty", state="attached")
    page.reload()
    page.wait_for_selector("#model-line:has-text('tiny')")
    assert page.locator("#shelf li").count() == 0


@pytest.mark.browser
def test_a_picture_is_rewound_to_a_row_and_drawn_on(open_page, tmp_path):
    page = open_page()
    draw(page)
    finished(page, "draw", 1)
    first = Image.open(saved(page, "#draw-stage figure a", tmp_path))
    page.click("#draw-stage figure >> text=Rewind")
    assert "Keep the top 1 of 2 rows" in page.text_content(".rewind")
    page.fill(".rewind input[id$=seed]", "3")
    page.press(".rewind input[id$=seed]", "Control+Enter")
    finished(page, "draw", 2)
    assert page.text_content("#draw-stage figure:nth-child(2) figcaption").startswith(
        "seed 3, from row 1 of seed 7"
    )
    file = saved(page, "#draw-stage figure:nth-child(2) > .row a", tmp_path)
    begun = read_made(file).info.begun
    assert begun == {"rows": 1, "features": "drawn before"}
    assert Image.open(file).tobytes() != first.tobytes()
    page.focus(".rewind input[id$=prompt]")
    page.keyboard.press("Escape")
    assert page.locator(".rewind").count() == 0


@pytest.mark.browser
def test_escape_stops_what_is_drawn_and_the_server_drops_it(open_page, served):
    page = open_page()
    page.click("#panel-draw summary")
    page.fill("#draw-steps", "1000")
    draw(page, n=10)
    until(lambda: served.rows() == 10)
    page.keyboard.press("Escape")
    page.wait_for_selector("#draw-form .said:has-text('Stopped.')")
    until(lambda: served.rows() == 0)
    assert page.locator("#draw-stage figcaption:has-text('stopped at')").count() == 10
    assert page.locator("#draw-form .stop").is_hidden() and page.locator("#shelf li").count() == 0


@pytest.mark.browser
def test_hostile_text_stays_text(open_page):
    page = open_page()
    title = page.title()
    draw(page, HOSTILE)
    finished(page, "draw", 1)
    page.wait_for_selector("#draw-unknown > *")
    assert page.get_attribute("#draw-stage img", "alt") == HOSTILE
    page.click("#shelf li button")
    assert page.text_content("#detail-title") == HOSTILE
    assert page.title() == title and page.locator("img[src=x], [onerror]").count() == 0


@pytest.mark.browser
def test_unknown_words_are_underlined_with_what_they_probably_mean(open_page):
    page = open_page()
    page.fill("#draw-prompt", "a red snomwan 🦊")
    page.wait_for_selector("#draw-unknown button")
    assert page.locator("#panel-draw .copy mark").all_text_contents() == ["snomwan"]
    assert "Read as “a red snomwan fox”" in page.text_content("#draw-unknown")
    page.click("#draw-unknown button")
    assert page.input_value("#draw-prompt") == "a red snowman 🦊"
    page.wait_for_selector("#panel-draw .copy mark", state="detached")
    page.click("#tab-words")
    page.fill("#words-find", "fo")
    page.click("#words-list button:has-text('fox')")
    assert page.input_value("#draw-prompt") == "a red snowman 🦊 fox"


@pytest.mark.browser
def test_a_picture_is_edited_asked_about_and_begins_a_story(open_page, start, tmp_path):
    page = open_page()
    page.click("#tab-edit")
    page.fill("#edit-prompt", "make it red")
    page.press("#edit-prompt", "Control+Enter")
    page.wait_for_selector("#edit-form .error:has-text('Choose a picture first.')")
    page.set_input_files("#edit-file", start)
    page.press("#edit-prompt", "Control+Enter")
    finished(page, "edit", 1)
    slider = page.locator("#edit-stage input[type=range]")
    slider.focus()
    slider.press("End")
    assert "100%" in page.get_attribute("#edit-stage .frame img >> nth=1", "style")
    made = read_made(saved(page, "#edit-stage figure > .row a", tmp_path))
    assert made.command == "edit" and made.info.prompt == "make it red"
    page.click("#edit-stage figure > .row >> text=Ask")
    page.fill("#ask-prompt", "what is this?")
    page.click("#ask-form .main")
    page.wait_for_selector("#ask-stage .answer:not([aria-busy]) p")
    page.click("#tab-edit")
    page.click("#edit-stage figure > .row >> text=Story")
    page.fill("#story-panels", "2")
    page.fill("#story-seed", "5")
    page.press("#story-prompt", "Control+Enter")
    page.wait_for_selector("#story-save:visible")
    assert page.locator("#story-stage article img").count() == 2
    with zipfile.ZipFile(saved(page, "#story-save", tmp_path)) as story:
        names = {name.rpartition("/")[2] for name in story.namelist()}
    assert {"story.html", "story.json", "01.png", "02.png", "03.png"} <= names
    told = page.locator("#story-stage article img")
    before = [told.nth(number).get_attribute("src") for number in range(2)]
    page.click("#story-stage article >> nth=1 >> text=Tell anew from here")
    page.wait_for_selector("#story-save:visible")
    after = [told.nth(number).get_attribute("src") for number in range(told.count())]
    assert len(after) == 3 and after[0] == before[0] and after[1] != before[1]
    assert page.locator("#shelf li").count() == 3


@pytest.mark.browser
def test_errors_are_told_in_the_servers_words_beside_their_field(open_page):
    page = open_page()
    draw(page, "")
    assert page.text_content("#draw-form .error") == "Say what you want to see."
    page.click("#panel-draw summary")
    page.fill("#draw-steps", "0")
    draw(page)
    page.wait_for_selector("#draw-form .error:has-text('steps must be at least 1')")
    assert page.evaluate("document.activeElement.id") == "draw-steps"
    assert page.get_attribute("#draw-steps", "aria-invalid") == "true"
    draw(page, seed="one")
    page.wait_for_selector("#draw-form .error:has-text('A seed is a whole number')")


@pytest.mark.browser
def test_a_lost_connection_is_told_and_taken_up_again(open_page, loaded):
    with PageServer(loaded) as server:
        page = open_page(server.url)
        page.click("#panel-draw summary")
        page.fill("#draw-steps", "1000")
        draw(page, n=10)
        until(lambda: server.rows() == 10)
        server.stop()
        page.wait_for_selector("#connection:has-text('The server does not answer')")
        page.wait_for_selector("#draw-form .error:has-text('was lost')")
        server.start()
        page.wait_for_selector("#connection", state="hidden")
        page.fill("#draw-steps", "2")
        draw(page)
        finished(page, "draw", 1)


@pytest.mark.browser
def test_a_key_is_taken_from_the_address_or_asked_for(open_page, loaded):
    with PageServer(loaded, api_key="a key/1") as server:
        page = open_page(f"{server.url}/#key=a%20key%2F1")
        page.wait_for_selector("#model-line:has-text('tiny')")
        assert "key" not in page.url
        page = open_page(server.url)
        page.fill("#key", "a key/1")
        page.click("#key-form .main")
        page.wait_for_selector("#model-line:has-text('tiny')")


@pytest.mark.browser
def test_it_fits_a_phone_and_is_used_by_keyboard_alone(open_page):
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(251, 250, 248)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == "rgb(23, 24, 27)"
    page.click("#theme")
    assert page.text_content("#theme") == "Theme: light"
    page.reload()
    assert page.evaluate(ground) == "rgb(251, 250, 248)"
    page.focus("#tab-draw")
    reached = []
    for _ in range(5):
        reached.append(page.evaluate("document.activeElement.id"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert not page.evaluate(NAMELESS)
        page.keyboard.press("ArrowRight")
    assert reached == [f"tab-{name}" for name in (*FORMS, "words")]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "draw-prompt"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.type("a fox " + "word" * 30)
    page.keyboard.press("Control+Enter")
    finished(page, "draw", 2)
    page.wait_for_selector("#draw-unknown > *")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Rewind":
            break
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Enter")
    finished(page, "draw", 3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360 and not page.evaluate(
        NAMELESS
    )


# What can be used and says not what it is.
NAMELESS = """() => [...document.querySelectorAll("button, a, input, select, textarea, img")]
  .filter((each) => each.checkVisibility() && !(each.getAttribute("aria-label") ||
    each.labels?.length || each.textContent.trim() || each.hasAttribute("alt")))
  .map((each) => each.outerHTML)"""
