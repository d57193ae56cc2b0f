"""Chromium for tests of pages, and what is looked at in every page: contrast, names of controls, overflow.

Needs Chromium with its driver, which no package installs; a module that imports this one is skipped without them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_CHROMIUM, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if _CHROMIUM is None or _DRIVER is None:
    pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium-driver)", allow_module_level=True)

# Lowest contrast of the elements that a selector finds, against the page's background; WCAG 2.2 asks for 4.5.
CONTRAST = """
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = (rgb) => rgb.slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = parts(getComputedStyle(document.body).backgroundColor);
    const behind = (element) => {
        const own = parts(getComputedStyle(element).backgroundColor), alpha = own.length > 3 ? own[3] : 1;
        return ground.slice(0, 3).map((v, i) => alpha * own[i] + (1 - alpha) * v);
    };
    const ratio = (one, other) => {
        const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const words = [...document.querySelectorAll(arguments[0])];
    return Math.min(...words.filter(e => e.textContent.trim()).map(e => {
        const style = getComputedStyle(e);
        return ratio(parts(e.closest("svg") ? style.fill : style.color), behind(e));
    }));
"""
_CONTROLS = {"button", "checkbox", "combobox", "link", "searchbox", "slider", "spinbutton", "textbox", "img", "table"}


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser with an empty profile until the block ends; it keeps the messages of its console."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(_CHROMIUM)
    for switch in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(_DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def emulate(browser: Any, width: int, scheme: str = "light", media: str = "") -> None:
    """A window of a width, light or dark, on the screen or printed."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def nameless(browser: Any) -> list[str]:
    """Controls, pictures and tables that a screen reader could not name, by the browser's own accessibility tree."""
    browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = []
    for node in nodes:
        role = node.get("role", {}).get("value")
        if not node.get("ignored") and role in _CONTROLS and not node.get("name", {}).get("value", "").strip():
            found.append(f"{role} {node.get('backendDOMNodeId')}")
    return found


def overflow(browser: Any) -> int:
    """Pixels by which the page is wider than its window."""
    root = "document.documentElement"
    return int(browser.execute_script(f"return {root}.scrollWidth - {root}.clientWidth"))
