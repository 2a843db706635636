"""The built site, crawled: links lead somewhere, pictures have words, pages are light, nothing scrolls sideways."""

import os
import shutil
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import axe
import pytest

ROOT = Path(__file__).parent.parent
SITE = Path(os.environ.get("METABENCH_SITE", ROOT / "docs" / "_build" / "html"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HEAVIEST = 300_000  # bytes of a page with its pictures; films, and what all pages share, left out
WIDTHS = (390, 1400)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SITE / "index.html").is_file(), reason=f"{SITE} has no site: make docs"),
]


class Page(HTMLParser):
    """What a page refers to."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.parts, self.pictures = set(), [], [], []

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.ids |= {told[name] for name in ("id", "name") if told.get(name)}
        if tag == "a" and told.get("href"):
            self.links.append(told["href"])
        if tag == "img":
            self.pictures.append(told)
            self.parts.append(told["src"])
        if tag == "script" and told.get("src"):
            self.parts.append(told["src"])
        if tag == "link" and "stylesheet" in told.get("rel", "") and told.get("href"):
            self.parts.append(told["href"])


@pytest.fixture(scope="module")
def pages():
    found = {}
    for path in sorted(SITE.rglob("*.html")):
        page = Page()
        page.feed(path.read_text())
        found[path.resolve()] = page
    assert len(found) > 100
    return found


def target(path, link):
    """The file and the place in it that a link leads to; None for other sites."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    file = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
    return (file / "index.html" if file.is_dir() else file), urllib.parse.unquote(parts.fragment)


def test_every_internal_link_leads_somewhere(pages):
    broken = []
    for path, page in pages.items():
        if "_modules" in path.parts:
            continue  # Sphinx links sources to places that a page of another name has
        for link in [*page.links, *page.parts]:
            led = target(path, link)
            if led is None:
                continue
            file, place = led
            known = pages.get(file)
            if not file.is_file() or (place and known and place not in known.ids and place != "top"):
                broken.append(f"{path.relative_to(SITE.resolve())}: {link}")
    assert not broken, broken[:20]


def test_every_picture_has_words(pages):
    silent = [
        f"{path.relative_to(SITE.resolve())}: {told['src']}"
        for path, page in pages.items()
        for told in page.pictures
        if not told.get("alt") or told["alt"].endswith((".png", ".svg", ".webp"))
    ]
    assert not silent, silent[:20]


def test_pages_are_light(pages):
    heavy = {}
    for path, page in pages.items():
        if "_modules" in path.parts:
            continue  # sources, as they are
        shown = {target(path, told["src"])[0] for told in page.pictures if target(path, told["src"])}
        size = path.stat().st_size + sum(file.stat().st_size for file in shown if file.suffix not in (".webp", ".gif"))
        if size > HEAVIEST:
            heavy[str(path.relative_to(SITE.resolve()))] = size
    assert not heavy, heavy


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways(pages, width):
    playwright = pytest.importorskip("playwright.sync_api")
    wide = []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        for path in pages:
            inside = path.relative_to(SITE.resolve()).parts
            if inside[0] in ("_modules", "api") or 'http-equiv="refresh"' in path.read_text():
                continue
            page.goto(path.as_uri(), wait_until="load")
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            if over > 0:
                wide.append(f"{'/'.join(inside)}: {over} px")
        browser.close()
    assert not wide, wide


AXED = (
    "index",
    "results",
    "speed",
    "evaluation",
    "agents/index",
    "agents/meta-dt",
    "families/index",
    "families/GridSwitch-v0",
)
AXED += ("families/MetaWorld", "datasets/index", "boards/index", "boards/entries", "boards/boards/grid-switch-2")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(width, scheme):
    """One page of every kind; axe's rules, the best practices included."""
    playwright, source = pytest.importorskip("playwright.sync_api"), axe.script()
    found = {}
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        for name in AXED:
            page.goto((SITE / f"{name}.html").resolve().as_uri())
            if wrong := axe.violations(page, source):
                found[name] = wrong
        browser.close()
    assert not found, found
