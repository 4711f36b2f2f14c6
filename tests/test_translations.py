"""The Chinese pages are in step with the English ones: headings, code, links and tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAIRS = [("README.md", "README.zh-CN.md"), ("docs/tutorials/fine-tune.md", "docs/zh/tutorial.md")]
#: Links that one language has and the other does not.
OWN = {"docs/zh/tutorial.md", "README.md", "README.zh-CN.md"}
every_pair = pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=[pair[1] for pair in PAIRS])


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def without_code(name: str) -> str:
    return re.sub(r"^```.*?^```", "", text(name), flags=re.DOTALL | re.MULTILINE)


@every_pair
def test_the_headings_have_the_same_levels_in_the_same_order(english: str, chinese: str) -> None:
    levels = [re.findall(r"^(#+) ", without_code(name), re.MULTILINE) for name in (english, chinese)]
    assert levels[0] == levels[1]


@every_pair
def test_the_code_is_the_same(english: str, chinese: str) -> None:
    fenced = [re.findall(r"^```.*?^```", text(name), re.DOTALL | re.MULTILINE) for name in (english, chinese)]
    assert fenced[0] == fenced[1]


@every_pair
def test_commands_and_names_in_the_sentences_are_the_same(english: str, chinese: str) -> None:
    inline = [sorted(set(re.findall(r"`([^`]+)`", " ".join(without_code(n).split())))) for n in (english, chinese)]
    assert inline[0] == inline[1]


@every_pair
def test_the_links_are_the_same(english: str, chinese: str) -> None:
    links = [set(re.findall(r"\]\(([^)\s]+)\)", text(name))) - OWN for name in (english, chinese)]
    assert links[0] == links[1]


@every_pair
def test_the_tables_have_the_same_rows_and_numbers(english: str, chinese: str) -> None:
    def tables(name: str) -> list[tuple[int, list[str]]]:
        rows = [line for line in without_code(name).splitlines() if line.startswith("|")]
        return [(row.count("|"), re.findall(r"\d+(?:\.\d+)?|`[^`]+`", row)) for row in rows]

    assert tables(english) == tables(chinese)


@every_pair
def test_the_chinese_page_is_chinese(english: str, chinese: str) -> None:
    prose = re.sub(r"`[^`]*`|\([^)]*\)|[|#*\s]", "", without_code(chinese))
    chinese_letters = re.findall(r"[一-鿿]", prose)
    assert len(chinese_letters) > 0.4 * len(prose)
    assert "注意力" in prose
