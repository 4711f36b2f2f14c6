"""Headless Chromium for tests of pages; the fixture `browser` of conftest.py gives one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-dev-shm-usage",
    "window-size=1400,1000",
)


def started(profile: Path) -> Iterator[Any]:
    """Headless Chromium that records requests and messages of the console."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    programs = [next(filter(None, map(shutil.which, names)), None) for names in (CHROMIUM, ("chromedriver",))]
    if None in programs:
        pytest.fail(
            "the group browser needs Chromium and its driver: apt-get install chromium chromium-driver "
            f"(found {programs[0] or 'no Chromium'}, {programs[1] or 'no chromedriver'})"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for switch in SWITCHES:
        options.add_argument(f"--{switch}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    yield driver
    driver.quit()


def opened(browser: Any, path: Path, width: int = 1400, scheme: str = "light") -> Any:
    """The browser with the page, drawn; its earlier logs are dropped."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
    )
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.as_uri())
    deadline = time.monotonic() + 60
    while not browser.execute_script("return document.documentElement.hasAttribute('data-ready')"):
        assert time.monotonic() < deadline, f"the page is not drawn: {browser.get_log('browser')}"
        time.sleep(0.05)
    return browser


def requested(browser: Any) -> list[str]:
    """URLs requested since, except for data that is in the page."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls += [e["params"]["url"] for e in events if e["method"] == "Network.webSocketCreated"]
    return [u for u in urls if not u.startswith(("data:", "blob:"))]
