"""The page in a browser: from disk, in the dark, at 200 % zoom, by keyboard, and with names and lines that attack it.

Needs Chromium with its driver, and selenium; skipped without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import CONTRAST, chromium, emulate
from tests.evaluation.compared_tables import table
from tests.evaluation.reported_tables import SYSTEM, hostile, page_of

pytestmark = pytest.mark.slow

WIDE, NARROW = 1280, 400
Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "ordinary.html").write_text(page_of(table()), "utf-8")
    (folder / "hostile.html").write_text(page_of(hostile()), "utf-8")
    return folder


@pytest.fixture
def opened(browser: Any, pages: Path) -> Opened:
    """Opens a page in a window of a width, light or dark, printed or on the screen, with or without scripts."""

    def open_page(name: str, width: int = WIDE, scheme: str = "light", media: str = "", scripts: bool = True) -> Any:
        emulate(browser, width, scheme, media)
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        browser.get((pages / f"{name}.html").as_uri())
        return browser

    return open_page


def column(page: Any, heading: str, number: int) -> list[str]:
    """The texts of a column of the first table below a heading."""
    script = """
        const heading = [...document.querySelectorAll("h2")].find(h => h.textContent === arguments[0]);
        return [...heading.parentElement.querySelector("tbody").rows].map(row => row.cells[arguments[1]].textContent);
    """
    found: list[str] = page.execute_script(script, heading, number)
    return found


def test_it_opens_from_disk_without_a_complaint_and_asks_for_nothing(opened: Opened) -> None:
    page = opened("ordinary")
    assert page.title == "tuned on series, split dev"
    assert page.get_log("browser") == []
    assert page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)") == []


def test_names_and_lines_run_and_change_nothing(opened: Opened) -> None:
    count = "return document.querySelectorAll('*:not(bdi)').length"
    elements = opened("ordinary").execute_script(count)
    page = opened("hostile")
    assert page.title.startswith(SYSTEM[:40])
    assert page.execute_script(count) == elements
    assert page.get_log("browser") == [], "nothing was even tried"


@pytest.mark.parametrize("name", ["ordinary", "hostile"])
@pytest.mark.parametrize("width", [WIDE, WIDE // 2, NARROW])
def test_only_tables_and_plots_scroll_sideways(opened: Opened, name: str, width: int) -> None:
    """Half the width is what 200 % zoom leaves of a window."""
    page = opened(name, width)
    root = "document.documentElement"
    needed, given = page.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth]")
    assert needed <= given <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_drawings_stand_out_in_the_light_and_in_the_dark(opened: Opened, scheme: str) -> None:
    page = opened("ordinary", scheme=scheme)
    lowest = page.execute_script(CONTRAST, "p, h1, h2, a, td, th, svg text")
    assert lowest >= 4.5, "WCAG 2.2, contrast (minimum)"
    dark = page.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_a_table_is_sorted_by_keyboard_and_back_again(opened: Opened) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page = opened("ordinary")
    before = column(page, "By label", 0)
    button = next(
        b for b in page.find_elements(By.CSS_SELECTOR, "table.sortable th button") if b.text.startswith("Targets")
    )
    head = button.find_element(By.XPATH, "..")
    assert head.get_attribute("aria-sort") is None
    button.send_keys(Keys.ENTER)
    targets = [int(text) for text in column(page, "By label", 5)]
    assert targets == sorted(targets, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    button.send_keys(Keys.SPACE)
    assert [int(text) for text in column(page, "By label", 5)] == sorted(targets)
    button.send_keys(Keys.ENTER)
    assert column(page, "By label", 0) == before
    assert head.get_attribute("aria-sort") is None


def test_what_is_wider_than_the_window_takes_the_focus(opened: Opened) -> None:
    page = opened("ordinary", NARROW)
    reached = page.execute_script(
        "return [...document.querySelectorAll('.scroll, .plot')]"
        ".every(part => (part.scrollWidth > part.clientWidth) === (part.tabIndex === 0))"
    )
    assert reached


def test_without_scripts_the_page_reads_the_same(opened: Opened) -> None:
    from selenium.webdriver.common.by import By

    text = opened("ordinary").find_element(By.TAG_NAME, "body").text
    page = opened("ordinary", scripts=False)
    assert page.find_elements(By.TAG_NAME, "button") == []
    assert page.find_element(By.TAG_NAME, "body").text == text


def test_paper_is_white_and_nothing_is_cut_off(opened: Opened) -> None:
    page = opened("ordinary", scheme="dark", media="print")
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.execute_script("return getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    overflows = "return [...document.querySelectorAll('.scroll, .plot')].map(part => getComputedStyle(part).overflowX)"
    assert set(page.execute_script(overflows)) == {"visible"}
