"""The report's page in a real headless Chromium: it draws, sorts, requests nothing and logs nothing."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path
from typing import Any

import fabricated
import pytest
from chromium import opened, requested
from fabricated import EVIL, EVIL_MODELS

from yolo_attn.detect.report import page
from yolo_attn.detect.results import gather

pytestmark = pytest.mark.browser


def write(results: dict[str, Any], folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(page.html(page.content(results), results, folder), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Nine models, five seeds, two datasets, a failed run, latency."""
    folder = tmp_path_factory.mktemp("large")
    results = fabricated.large(folder)
    return results, write(results, folder)


def count(browser: Any, selector: str) -> int:
    return browser.execute_script("return document.querySelectorAll(arguments[0]).length", selector)


def column(browser: Any, table: int, title: str) -> list[str]:
    """Values of a column of a table, from the top."""
    return browser.execute_script(
        "const t = document.querySelectorAll('table')[arguments[0]];"
        "const i = [...t.tHead.rows[0].cells].findIndex(h => h.textContent === arguments[1]);"
        "return [...t.tBodies[0].rows].map(r => r.cells[i].dataset.value)",
        table,
        title,
    )


def header(browser: Any, title: str) -> Any:
    """The button of a header of the first table."""
    from selenium.webdriver.common.by import By

    buttons = browser.find_elements(By.CSS_SELECTOR, "table th button")
    return next(b for b in buttons if b.get_property("textContent") == title)


def marks(browser: Any, plot: int, kind: str) -> int:
    """Marks of a kind in a plot, over all its layers."""
    return count(browser, f"#plot-{plot} svg .mark-{kind} > path, #plot-{plot} svg .mark-{kind} > line")


def test_it_draws_every_plot_without_a_request_or_a_message(large: tuple[dict[str, Any], Path], browser: Any) -> None:
    results, path = large
    opened(browser, path)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    for i, data in enumerate(("bccd", "shapes")):
        rows = [r for r in results["rows"] if r["data"] == data]
        pairs = [r[k] for r in rows for k in ("vs_stock", "vs_control") if r[k]]
        assert marks(browser, 4 * i, "symbol") == sum(1 + p["n"] for p in pairs)  # a mean, and a dot for each seed
        for plot in (4 * i + 1, 4 * i + 2):
            assert marks(browser, plot, "symbol") == 9
            shown = f"document.querySelectorAll('#plot-{plot} .mark-text.role-mark text')"
            names = browser.execute_script(f"return [...{shown}].map(t => t.textContent)")
            assert set(names) == {r["model"] for r in rows}
        assert marks(browser, 4 * i + 3, "line") == marks(browser, 4 * i + 3, "area") == 9
    loaded = browser.execute_script(
        "return Promise.all([...document.querySelectorAll('figure image')].map(i => i.decode ? i.decode() : 1))"
        ".then(all => all.length)"
    )
    assert loaded == 6 and count(browser, "figure use") == 9 * 6
    assert browser.get_log("browser") == []
    assert requested(browser) == [path.as_uri()]


def test_it_runs_nothing_that_a_name_contains(tmp_path: Path, browser: Any) -> None:
    options = {"models": EVIL_MODELS, "datasets": ("a</script>&b",), "classes": ("</title>", "<b>")}
    results = gather(fabricated.fabricate(tmp_path, seeds=2, **options))
    opened(browser, write(results, tmp_path))
    assert browser.execute_script("return typeof hacked") == "undefined"
    assert count(browser, "img") == 0
    assert EVIL in browser.execute_script("return document.querySelector('#data-0 tbody').textContent")
    assert EVIL in browser.execute_script("return document.querySelector('#plot-1').textContent")
    assert browser.get_log("browser") == []
    assert requested(browser) == [(tmp_path / "report.html").as_uri()]


def test_it_sorts_by_click_and_by_key(large: tuple[dict[str, Any], Path], browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    results, path = large
    opened(browser, path)
    rows = [r for r in results["rows"] if r["data"] == "bccd"]
    title = "difference to stock"
    known = sorted(r["vs_stock"]["mean"] for r in rows if r["vs_stock"])

    def order() -> list[float | None]:
        return [float(v) if v else None for v in column(browser, 0, title)]

    def state() -> list[str]:
        script = "return [...document.querySelector('table').tHead.rows[0].cells].map(h => h.ariaSort)"
        return [s for s in browser.execute_script(script) if s != "none"]

    assert state() == []
    header(browser, title).click()
    assert order() == [*known[::-1], None] and state() == ["descending"]
    header(browser, title).click()
    assert order() == [*known, None] and state() == ["ascending"], "what is missing stays last"
    header(browser, title).send_keys(Keys.ENTER)
    assert order() == [*known[::-1], None] and state() == ["descending"]
    header(browser, title).send_keys(Keys.SPACE)
    assert order() == [*known, None] and state() == ["ascending"]
    header(browser, "parameters, M").send_keys(Keys.ENTER)
    assert [int(v) for v in column(browser, 0, "parameters, M")] == sorted(
        (r["cost"]["parameters"] for r in rows), reverse=True
    )
    header(browser, "model").click()
    assert state() == ["ascending"]
    names = column(browser, 0, "model")
    assert names[0] == "yolov8n" and set(names) == {r["model"] for r in rows} and names.index("yolov8n-hilo") > 2
    assert browser.get_log("browser") == []


def test_it_shows_model_interval_and_seeds_on_hover(large: tuple[dict[str, Any], Path], browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    opened(browser, large[1])
    point = browser.find_elements(By.CSS_SELECTOR, "#plot-1 svg .mark-symbol > path")[-1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    ActionChains(browser).move_to_element(point).perform()
    tooltip = "return document.querySelector('#vg-tooltip-element.visible')?.textContent"
    text = until(lambda: browser.execute_script(tooltip))
    rows = [r for r in large[0]["rows"] if r["data"] == "bccd"]
    best = max(rows, key=lambda r: r["metrics"]["mAP50-95"]["mean"])
    assert best["model"] in text and "0, 1, 2, 3, 4" in text
    assert "{low:.3f} to {high:.3f}".format(**best["metrics"]["mAP50-95"]) in text


def until(found: Any) -> Any:
    """A value as soon as it is true."""
    deadline = time.monotonic() + 10
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def test_it_changes_curves_and_enlarges_pictures(large: tuple[dict[str, Any], Path], browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    opened(browser, large[1])
    select = Select(browser.find_element(By.CSS_SELECTOR, "select[data-for=plot-3]"))
    select.select_by_visible_text("val/box_loss")
    until(lambda: "val/box_loss" in browser.execute_script("return document.querySelector('#plot-3').textContent"))
    until(lambda: marks(browser, 3, "line") == 9)
    picture = browser.find_elements(By.TAG_NAME, "figure")[1]
    label = picture.find_element(By.CSS_SELECTOR, "svg text")
    assert "yolov8n, seed 0" in picture.text and not label.is_displayed()
    small = picture.rect["width"]
    picture.click()
    assert picture.rect["width"] > 2 * small and label.is_displayed()
    picture.send_keys(Keys.ESCAPE)
    assert picture.rect["width"] == small and not label.is_displayed()
    assert browser.get_log("browser") == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1366, "light"), (1366, "dark")])
def test_it_fits_phones_laptops_and_darkness(
    width: int, scheme: str, large: tuple[dict[str, Any], Path], browser: Any
) -> None:
    opened(browser, large[1], width, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    back = rgb(browser.execute_script(style, "body", "backgroundColor"))
    front = rgb(browser.execute_script(style, "#plot-1 .role-axis-label text", "fill"))
    assert (sum(back) < 150, sum(front) > 600) == (scheme == "dark",) * 2
    cut_off = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(d => d.scrollWidth > d.clientWidth)"
        ".map(d => d.getAttribute('aria-label'))"
    )
    assert cut_off == [], "tables whose columns do not fit"
    outside = browser.execute_script(
        "return [...document.querySelectorAll('.chart svg text')].filter(t => {"
        " const a = t.getBoundingClientRect(), b = t.closest('.chart').getBoundingClientRect();"
        " return a.width && (a.left < b.left - 1 || a.right > b.right + 1); }).map(t => t.textContent)"
    )
    assert outside == []


def rgb(colour: str) -> list[int]:
    return [int(v) for v in re.findall(r"\d+", colour)[:3]]


def test_it_prints_it_light(large: tuple[dict[str, Any], Path], browser: Any) -> None:
    opened(browser, large[1], scheme="dark")
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    assert rgb(browser.execute_script(style, "body", "backgroundColor")) == [255, 255, 255]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
