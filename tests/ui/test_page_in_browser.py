"""The page in a browser: a person labels a conversation, changes runs, finds an error and follows a training run.

Needs Chromium with its driver; skipped without them. With the path of axe-core's `axe.min.js` in
ERC_LLM_AXE, axe looks at every view too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from erc_llm.corpus import read_sample
from erc_llm.predictions import write_predictions
from erc_llm.ui.app import Shown
from erc_llm.ui.systems import open_system
from tests.browser import CONTRAST, chromium, emulate, nameless, overflow
from tests.evaluation.compared_tables import table
from tests.evaluation.reported_tables import LINES as HOSTILE
from tests.evaluation.reported_tables import NAMES, hostile
from tests.test_predictor import make_run
from tests.tiny_models import TinyModel
from tests.ui.pages import Client, calibrated_run, log_training, page

pytestmark = pytest.mark.slow

WIDE, NARROW = 1280, 400
VIEWS = ("conversation", "errors", "training")
WORDS = "p, h1, h2, h3, a, td, th, label, button, select, input, li, summary, span, strong, pre, svg text"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def address(folder: Path, tiny_llama: TinyModel) -> Iterator[Client]:
    write_predictions(table(), folder / "dev.parquet")
    write_predictions(hostile(), folder / "hostile.parquet")
    calibrated_run(folder / "one", tiny_llama)
    make_run(folder / "two", tiny_llama, {"prompt": {"template": "instruct"}})
    log_training(folder / "runs" / "talks-folds" / "fold-1", steps=100, finished=True)
    log_training(folder / "runs" / "now", steps=20)
    systems = [open_system(str(folder / name)) for name in ("one", "two")]
    tables = [folder / name for name in ("dev.parquet", "hostile.parquet")]
    with page(Shown(systems, (read_sample(),), tables, (folder / "runs",))) as client:
        yield client


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


class Person:
    """Somebody who looks at the page and uses it."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.browser.find_elements("css selector", selector)
        return found

    def text(self, selector: str) -> str:
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.browser.execute_script(script, selector))

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements at one moment."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        found: list[str] = self.browser.execute_script(script, selector)
        return found

    def wait(self, happens: Callable[[], Any], seconds: float = 60) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, seconds, 0.05).until(lambda _: happens())

    def choose(self, selector: str, text: str) -> None:
        from selenium.webdriver.support.ui import Select

        select = Select(self.find(selector))
        select.select_by_visible_text(next(o.text for o in select.options if text in o.text))

    def view(self, name: str) -> None:
        self.find(f"nav a[href='#{name}']").click()
        ready = {"conversation": "#first option", "errors": "#rows tbody tr", "training": "#curves svg"}
        self.wait(lambda: self.all(ready[name]))

    def say(self, who: str, text: str) -> None:
        """Type a line, and wait for its bars."""
        count = len(self.all("#lines > li"))
        speaker = self.find("#speaker")
        speaker.clear()
        speaker.send_keys(who + "\t" + text + "\n")
        self.wait(lambda: len(self.all("#lines > li .bars")) > 0 and len(self.all("#lines > li")) == count + 1)
        self.wait(lambda: self.text("#outcome").startswith(who))


@pytest.fixture
def person(browser: Any, address: Client) -> Person:
    emulate(browser, WIDE)
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(address.address)
    found = Person(browser)
    found.wait(lambda: browser.execute_script("return document.documentElement.dataset.ready"))
    return found


def test_a_person_labels_a_conversation_and_changes_runs(person: Person) -> None:
    person.say("Mara", "Who left the window open?")
    person.say("Tomas", "I did.")
    first = person.texts("#lines > li:first-child .bars li")
    assert len(first) == 7
    assert sum(int(text.split()[1]) for text in first) == pytest.approx(100, abs=4)
    assert person.find("#line") == person.browser.switch_to.active_element, "the next line can be typed at once"
    assert len(person.all(".bars li.answer")) == 2
    person.choose("#first", "two")
    person.wait(lambda: person.texts("#lines > li:first-child .bars li") not in ([], first))
    person.choose("#first", "one: most probable label, calibrated")
    person.choose("#second", "one: decided for weighted F1")
    person.wait(lambda: "disagree on" in person.text("#outcome"))
    answers = person.texts("#lines > li:last-child .verdict")
    assert [text.partition(":")[0] for text in answers] == [
        "one, most probable label, calibrated",
        "one, decided for weighted F1",
    ]
    differing = person.all("#lines > .differs")
    assert len(differing) == int(person.text("#outcome").partition("disagree on ")[2].split()[0]) > 0
    person.find("#next-difference").click()
    assert person.browser.switch_to.active_element == differing[0]
    button = person.find("#lines > li:last-child .more button")
    button.click()
    person.wait(lambda: person.all("#lines > li:last-child pre"))
    assert "Tomas: I did." in person.text("#lines > li:last-child pre")
    assert button.get_attribute("aria-expanded") == "true"
    assert "no profiles" in person.text("#lines > li:last-child .prompt")


def test_a_conversation_is_pasted_opened_and_changed(person: Person) -> None:
    person.find("summary").click()
    person.find("#pasted").send_keys("Ann: Hello: you\nand you\nBob: No.")
    person.find("#paste button").click()
    person.wait(lambda: len(person.all("#lines .bars")) == 2)
    assert person.text("#lines > li:first-child .said") == "Ann Hello: you and you"
    person.find("#remove").click()
    person.wait(lambda: len(person.all("#lines .bars")) == 1)
    person.find("#edit").click()
    assert person.find("#pasted").get_attribute("value") == "Ann: Hello: you and you"
    person.find("#pasted").clear()
    person.find("#pasted").send_keys("nobody says this")
    person.find("#paste button").click()
    assert "write each line as Name: text" in person.wait(lambda: person.text("#problem"))
    dialogue = read_sample().split("dev")[1]
    person.choose("#split", "dev")
    person.find("#contains").send_keys(dialogue.id)
    listed = [f"{dialogue.id} ({len(dialogue.utterances)} lines)"]
    person.wait(lambda: person.texts("#dialogue option") == listed)
    person.find("#open button").click()
    person.wait(lambda: len(person.all("#lines .bars")) == len(dialogue.targets))
    golds = [u.label for u in dialogue.utterances]
    shown = person.texts("#lines > li")
    assert all(str(gold) in text for gold, text in zip(golds, shown, strict=True))
    assert "are the gold label" in person.text("#outcome")
    assert not person.find("#problem").is_displayed()


def test_a_person_finds_an_error_and_opens_its_scene(person: Person) -> None:
    person.view("errors")
    everything = int(person.text("#position").split()[-1])
    person.choose("#gold", "Neutral")
    person.choose("#answer", "Sad")
    person.wait(lambda: int(person.text("#position").split()[-1]) < everything)
    assert set(person.texts("#rows tbody td:nth-child(3)")) == {"Neutral"}
    assert set(person.texts("#rows tbody td:nth-child(4)")) == {"Sad"}
    assert "Error 1 of" in person.text("#position")
    person.wait(lambda: person.find("#take").is_enabled())  # the scene is drawn
    before = person.text("#scene .here")
    person.find("#next").send_keys("\n")
    person.wait(lambda: person.text("#position").startswith("Error 2 of"))
    person.wait(lambda: person.find("#take").is_enabled())
    assert person.text("#scene .here") != before
    assert len(person.all("#scene .here .bars li")) == 4
    text = person.text("#scene .here .words")
    person.find("#take").click()
    person.wait(lambda: person.all("#lines .bars"))
    assert text in person.texts("#lines .words")


def test_a_person_follows_a_training_run_to_its_report(person: Person, folder: Path) -> None:
    run = log_training(folder / "runs" / "now", steps=20)
    person.view("training")
    row = next(row for row in person.all("#runs tbody tr") if "runs/now" in row.text)
    assert "20 of 100" in row.text
    row.find_element("css selector", "button").send_keys("\n")
    person.wait(lambda: person.text("#run-name") == "runs/now")
    log_training(run, steps=60)
    person.wait(lambda: "60 of 100" in row.text)
    assert row.find_element("css selector", "button") == person.browser.switch_to.active_element, "it keeps the focus"
    person.wait(lambda: "at step 60" in person.text("#curves"))
    log_training(run, steps=100, finished=True)
    link = person.wait(lambda: row.find_elements("css selector", "a"))[0]
    link.click()
    person.wait(lambda: len(person.browser.window_handles) == 2)
    own = person.browser.current_window_handle
    person.browser.switch_to.window(next(h for h in person.browser.window_handles if h != own))
    assert person.wait(lambda: "Finished." in person.text("body"))
    person.browser.close()
    person.browser.switch_to.window(own)


def test_hostile_names_and_lines_change_nothing_but_themselves(person: Person) -> None:
    title = person.browser.title
    set_value = "arguments[0].value = arguments[1]"
    for k, text in enumerate(HOSTILE):
        person.browser.execute_script(set_value, person.find("#speaker"), NAMES[k % len(NAMES)])
        person.browser.execute_script(set_value, person.find("#line"), text)
        person.find("#say button").click()
        person.wait(lambda k=k: len(person.all("#lines .bars")) == k + 1, 120)  # type: ignore[misc]
    assert person.texts("#lines .words") == [text.replace("\n", "").strip() for text in HOSTILE], "one line each"
    count = "return [...document.querySelectorAll('#lines .said')].map(p => p.querySelectorAll('*').length)"
    assert set(person.browser.execute_script(count)) == {2}, "the name and the text"
    assert overflow(person.browser) <= 0
    person.view("errors")
    person.choose("#table", "hostile")
    person.wait(lambda: "45" in person.text("#table-about"))
    emulate(person.browser, NARROW)
    assert overflow(person.browser) <= 0
    assert person.browser.title.endswith(title.partition("-")[2])
    assert person.browser.get_log("browser") == []


def test_the_page_asks_nobody_but_its_own_server(person: Person, address: Client) -> None:
    for view in VIEWS:
        person.view(view)
    asked = [json.loads(entry["message"])["message"] for entry in person.browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
    assert len(urls) > 5
    assert {url for url in urls if not url.startswith((address.address, "data:", "about:"))} == set()
    assert person.browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_the_light_in_the_dark_and_at_any_width(person: Person, scheme: str) -> None:
    """Half the width is what 200 % zoom leaves of a window."""
    person.say("Mara", "Who left the window open?")
    for view in VIEWS:
        person.view(view)
        for width in (WIDE, WIDE // 2, NARROW):
            emulate(person.browser, width, scheme)
            assert overflow(person.browser) <= 0, (view, width)
        shown = ":is(" + WORDS + "):not([hidden] *)"
        assert person.browser.execute_script(CONTRAST, shown) >= 4.5, view
        emulate(person.browser, WIDE, scheme)
    ground = person.browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground != "rgb(255, 255, 255)") == (scheme == "dark")


def test_every_control_has_a_name_and_is_reached_by_keyboard(person: Person) -> None:
    person.say("Mara", "Who left the window open?")
    for view in VIEWS:
        person.view(view)
        assert nameless(person.browser) == [], view
        ids = person.browser.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        controls = "return [...document.querySelectorAll('button, input, select, textarea, a, summary')]"
        assert person.browser.execute_script(f"{controls}.filter(e => e.tabIndex < 0).length") == 0
        current = [link.text for link in person.all("nav a[aria-current]")]
        assert current == [person.browser.title.partition(" - ")[0]]


@pytest.mark.skipif("ERC_LLM_AXE" not in os.environ, reason="set ERC_LLM_AXE to axe.min.js (npm pack axe-core)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(person: Person, scheme: str) -> None:
    emulate(person.browser, WIDE, scheme)
    person.say("Mara", "Who left the window open?")
    person.find("summary").click()
    for view in VIEWS:
        person.view(view)
        person.browser.execute_script(Path(os.environ["ERC_LLM_AXE"]).read_text("utf-8"))
        found = person.browser.execute_async_script(
            "axe.run().then(r => arguments[0](r.violations.map(v => `${v.impact} ${v.id}: ${v.nodes[0].html}`)))"
        )
        assert found == [], view
