"""The documentation site builds without a warning, is complete, and needs no other host."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from jobs import run

from yolo_attn import commands

ROOT = Path(__file__).resolve().parents[1]


def pages(nav: list) -> list[str]:
    """The pages of a navigation, nested or not."""
    found = []
    for item in nav:
        value = next(iter(item.values())) if isinstance(item, dict) else item
        found += pages(value) if isinstance(value, list) else [value]
    return found


def test_every_page_is_in_the_navigation() -> None:
    nav = pages(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)["nav"])
    assert len(nav) == len(set(nav))
    assert {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")} <= set(nav)


@pytest.mark.slow
def test_the_site_builds_strictly_and_works_offline(tmp_path: Path) -> None:
    pytest.importorskip("material")
    site = tmp_path / "site"
    run(sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", site, cwd=ROOT)
    reference = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert all(f"usage: yolo-attn {command}" in reference for command in commands.COMMANDS)
    assert "register" in (site / "reference" / "api.html").read_text(encoding="utf-8")
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    found = json.loads(index[index.index("{") : index.rindex("}") + 1])["docs"]
    assert {"own-block.html", "smt.html", "faq.html"} <= {d["location"].partition("#")[0] for d in found}
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # has absolute addresses, because any missing page leads to it
            continue
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img)[^>]* src="([^"]+)"|<link[^>]* href="([^"]+)"[^>]* rel="stylesheet"', text)
        assert not [x for pair in loaded for x in pair if x.startswith(("http:", "https:", "//"))]
        for link in re.findall(r'href="([^"#:?]+)(?:#[^"]*)?"', text):
            assert (page.parent / unquote(link)).exists(), f"{page.name}: {link}"
