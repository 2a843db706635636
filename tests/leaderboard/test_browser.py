"""The site in a real browser: open, sort, filter, switch the theme, by mouse and keyboard, without an error."""

import os
import shutil
from pathlib import Path

import axe
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need the package playwright")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="the browser tests need chromium (Debian: apt install chromium)"
)

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    from test_site import board, enter, write_boards

    from metabench.leaderboard.site.build import build

    root = tmp_path_factory.mktemp("browser")
    boards = write_boards(
        root / "boards", [board("grid", "GridNavigation-v0", title="Grid"), board("p", "PointRobot-v0")]
    )
    for name in ("random", "zero"):
        enter(root / "boards", boards, "grid", name)
    enter(root / "boards", boards, "grid", "oracle", "oracle")
    build(root / "boards", boards, root / "site")
    return root / "site"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 900), (390, 800)], ids=["desktop", "phone"])
def page(browser, site, request):
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="light")
    page = context.new_page()
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((site / "index.html").as_uri())
    yield page
    assert not errors, errors
    assert all(url.startswith(("file:", "data:")) for url in requests), requests  # nothing comes from elsewhere
    context.close()


def agents(page):
    names = page.locator("#ranked-online tbody tr:not([hidden]) th a")
    return names.all_inner_texts()


def test_open_a_board_sort_and_filter(page):
    page.get_by_role("link", name="Grid", exact=True).click()
    assert page.title().startswith("Grid")
    assert sorted(agents(page)) == ["random", "zero"]
    best_first = agents(page)
    header = page.locator("#ranked-online th", has_text="IQM")
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "descending" and agents(page) == best_first
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending" and agents(page) == best_first[::-1]
    page.locator("#ranked-online th", has_text="agent").get_by_role("button").click()
    assert agents(page) == ["random", "zero"] and header.get_attribute("aria-sort") is None
    find = page.locator("form[data-table=ranked-online] input")
    find.fill("ZER")
    assert agents(page) == ["zero"]
    assert page.locator("form[data-table=ranked-online] [role=status]").inner_text() == "1 of 2"
    find.fill("nobody")
    assert agents(page) == []
    find.fill("")
    page.locator("form[data-table=ranked-online] select").select_option("reproduced")
    assert agents(page) == []
    page.locator("form[data-table=ranked-online] select").select_option("replayed")
    assert len(agents(page)) == 2


def test_open_an_entry_and_come_back(page):
    page.locator("#newest tbody a", has_text="zero").first.click()
    assert page.get_by_role("heading", level=1).inner_text().startswith("zero")
    assert page.get_by_text("recomputed from the rewards, every return equal").is_visible()
    page.get_by_role("link", name="grid", exact=True).click()
    page.wait_for_url("**/boards/grid.html#online")
    assert page.url.endswith("boards/grid.html#online")


def test_the_theme_switches_and_is_remembered(page):
    theme = "document.documentElement.dataset.theme"
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(theme) == "light"
    light = page.evaluate(background)
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate(theme) == "dark" and page.evaluate(background) != light
    page.get_by_role("link", name="All entries", exact=True).click()
    page.wait_for_url("**/entries.html")
    page.wait_for_load_state()
    assert page.evaluate(theme) == "dark"


def test_the_keyboard_is_enough(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.get_by_role("link", name="Grid", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/boards/grid.html")
    header = page.locator("#ranked-online th", has_text="rank")
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") == "descending"


def test_the_page_fits_its_screen_and_names_everything(page):
    for target in ("index.html", "entries.html", "boards/grid.html"):
        page.goto(page.url.rsplit("/site/", 1)[0] + "/site/" + target)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{target} scrolls sideways"
        unnamed = page.evaluate(
            """[...document.querySelectorAll('a, button, input, select, svg[role=img]')].filter((x) =>
                !(x.textContent.trim() || x.getAttribute('aria-label') || x.labels?.length)).length"""
        )
        assert unnamed == 0, target
        assert page.locator("h1").count() == 1


def test_without_scripts_everything_is_there(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "boards" / "grid.html").as_uri())
    assert page.locator("#ranked-online tbody tr").count() == 2
    assert not page.locator("form.filters").first.is_visible()
    context.close()


def test_pictures_for_people(browser, site):
    """Screenshots in both themes and widths, where METABENCH_SCREENSHOTS names a folder."""
    folder = os.environ.get("METABENCH_SCREENSHOTS")
    if not folder:
        pytest.skip("METABENCH_SCREENSHOTS names no folder for pictures")
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            for target in ("index.html", "boards/grid.html"):
                page.goto((site / target).as_uri())
                name = f"{Path(target).stem}-{scheme}-{width}.png"
                page.screenshot(path=str(Path(folder) / name), full_page=True)
            context.close()


def test_a_phone_sees_rank_agent_and_score(browser, site):
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto((site / "boards" / "grid.html").as_uri())
    for column in ("rank", "agent", "IQM"):
        box = page.locator("#ranked-online thead th", has_text=column).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390, column
    context.close()


def test_a_track_of_baselines_alone_asks_for_entries(page):
    card = page.locator(".boards li", has=page.get_by_role("link", name="Grid", exact=True))
    assert "no entry yet: enter one" in card.inner_text()
    assert "random" not in card.inner_text(), "what everybody is measured above leads nothing"
    page.get_by_role("link", name="Grid", exact=True).click()
    assert page.get_by_text("No entry yet: enter one").first.is_visible()
    page.locator("p.enter a").first.click()
    page.wait_for_url("**#enter")


def test_text_stands_out_from_its_ground(browser, site):
    """The contrast that WCAG 2.1 AA asks for, 4.5 to 1, in both themes: every text on the ground it lies on."""
    script = """() => {
      const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
      const over = (top, below) => {
        const a = top[3] ?? 1;
        return [0, 1, 2].map((k) => top[k] * a + below[k] * (1 - a));
      };
      const ground = (node) => {
        const layers = [];
        for (let x = node; x; x = x.parentElement) layers.push(rgb(getComputedStyle(x).backgroundColor));
        return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
      };
      const light = (c) => c.map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0);
      const weak = [];
      for (const node of document.querySelectorAll("main *")) {
        const own = [...node.childNodes].some((x) => x.nodeType === 3 && x.textContent.trim());
        if (!own || !node.getClientRects().length || node.closest("svg")) continue;
        const below = ground(node), text = over(rgb(getComputedStyle(node).color), below);
        const [a, b] = [light(text), light(below)].sort((x, y) => y - x);
        const ratio = (a + .05) / (b + .05);
        if (ratio < 4.5) weak.push(`${node.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
      }
      return weak;
    }"""
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        for target in ("index.html", "boards/grid.html", "entries.html"):
            page.goto((site / target).as_uri())
            assert page.evaluate(script) == [], (scheme, target)
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_axe_finds_nothing(browser, site, width, scheme):
    source = axe.script()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    (entry,) = (site / "entries" / "grid" / "zero").glob("*.html")
    for path in (site / "index.html", site / "entries.html", site / "boards" / "grid.html", entry):
        page.goto(path.as_uri())
        assert axe.violations(page, source) == [], path.name
    context.close()


def test_axe_finds_what_is_wrong(browser):
    source = axe.script()
    page = browser.new_page()
    page.set_content('<html><body><main><h1>x</h1><img src="data:,"></main></body></html>')
    assert {line.split()[0] for line in axe.violations(page, source)} >= {"image-alt", "html-has-lang"}
    page.close()
