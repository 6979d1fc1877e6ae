"""The page in a real browser: what a person sees is what the model says."""

from __future__ import annotations

import shutil

import pytest
from running import TOKEN, running

import jaxft
from jaxft.serving.limits import Limits

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.slow,
]
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
_PATIENCE = 60_000


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=_FLAGS)
        yield made
        made.close()


@pytest.fixture
def page(browser):
    """A fresh one that must not complain."""
    context = browser.new_context(viewport={"width": 900, "height": 760})
    made, complaints = context.new_page(), []
    made.set_default_timeout(_PATIENCE)
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("console", lambda message: complaints.append(message.text) if "Security Policy" in message.text else None)
    yield made
    context.close()
    assert not complaints


def _tabs(page) -> list[str]:
    page.wait_for_selector("[role=tab]")
    return [tab.inner_text() for tab in page.query_selector_all("[role=tab]")]


def test_a_conversation_and_a_completion(page, address):
    page.goto(address("decoder"))
    assert _tabs(page) == ["Chat", "Completion"]
    page.click("#panel-chat summary")
    page.get_by_label("Temperature").first.fill("0")
    page.get_by_label("Most tokens").first.fill("8")
    for number in (1, 2):
        page.get_by_label("Your message").fill("is it?")
        page.keyboard.press("Enter")
        page.locator(".said.assistant").nth(number - 1).wait_for()
        page.locator("#panel-chat [data-note]:not(:empty)").wait_for()
        assert page.locator(".said.user").count() == number
        assert "8 tokens" in page.inner_text("#panel-chat [data-note]")
    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".said").count() == 0
    # The tabs by keyboard.
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-completions", "aria-selected") == "true"
    panel = page.locator("#panel-completions")
    panel.get_by_label("Text to go on from").fill("the cat")
    panel.locator("summary").click()
    panel.get_by_label("Temperature").fill("0")
    panel.get_by_label("Most tokens").fill("6")
    panel.get_by_role("button", name="Write").click()
    panel.locator("[data-note]:not(:empty)").wait_for()
    written = panel.locator(".result").text_content()
    assert written.startswith("the cat") and len(written) > len("the cat")
    panel.get_by_label("Temperature").fill("-1")  # a browser says so itself, and asks nothing
    panel.get_by_role("button", name="Write").click()
    assert not panel.get_by_label("Temperature").evaluate("box => box.validity.valid")


def test_labels_as_bars(page, address, directories):
    (expected,) = jaxft.classify(directories["classifier"], ["good film"])
    page.goto(address("classifier"))
    assert _tabs(page) == ["Classification", "Likeness"]
    page.get_by_label("Text", exact=True).fill("good film")
    page.get_by_role("button", name="Classify").click()
    page.locator("#panel-classify .bars").wait_for()
    shown = dict(
        zip(page.locator(".bars dt").all_inner_texts(), page.locator(".bars .number").all_inner_texts(), strict=True)
    )
    assert shown == {label: f"{100 * score:.1f} %" for label, score in expected.scores.items()}
    assert page.inner_text("#panel-classify h2") == expected.label
    widths = page.locator(".bars .fill").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]


def test_masks_and_what_is_wrong(page, address, directories):
    (expected,) = jaxft.fill_mask(directories["masked"], ["the film is [MASK]"])
    page.goto(address("masked"))
    assert _tabs(page) == ["Fill in", "Likeness"]
    field = page.get_by_label("where a word is missing")
    field.fill("the film is ")
    page.get_by_role("button", name="Insert a mask").click()
    assert field.input_value() == "the film is [MASK]"
    page.get_by_role("button", name="Fill in").click()
    page.locator("#panel-fill-mask .bars").wait_for()
    assert page.locator(".bars dt").all_inner_texts() == [one.text or one.token for one in expected.masks[0]]
    field.fill("no mask at all")
    page.get_by_role("button", name="Fill in").click()
    page.locator("#panel-fill-mask .wrong").wait_for()
    assert "has no mask" in page.inner_text("#panel-fill-mask .wrong")
    assert not page.locator("#panel-fill-mask .bars").is_visible()


def test_the_page_asks_for_the_token(page, served):
    with running(served("masked"), Limits(batch_size=4), TOKEN) as address:
        page.goto(address)
        page.get_by_label("Access token").fill("wrong")
        page.get_by_role("button", name="Continue").click()
        page.get_by_text("needs a token").wait_for()
        page.get_by_label("Access token").fill(TOKEN)
        page.get_by_role("button", name="Continue").click()
        assert _tabs(page) == ["Fill in", "Likeness"]


def test_every_field_has_a_name_and_the_page_fits_a_telephone(browser, address):
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 360, "height": 640}, color_scheme=scheme)
        page = context.new_page()
        page.goto(address("decoder"))
        _tabs(page)
        unnamed = page.locator("textarea, input").evaluate_all("all => all.filter(one => !one.labels.length).length")
        assert unnamed == 0
        assert page.locator("body").evaluate("body => body.scrollWidth <= innerWidth")
        ground = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) > 380) == (scheme == "light")
        context.close()
