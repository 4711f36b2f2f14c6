"""What Windows and macOS do otherwise, as far as Linux shows it: encodings of files and of the standard output."""

from __future__ import annotations

import ast
import io
import sys
from pathlib import Path

import pytest

from yolo_attn import commands

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for part in ("yolo_attn", "patches", "docs") for p in (ROOT / part).rglob("*.py"))


def lacks_encoding(call: ast.Call) -> bool:
    """Whether the call reads or writes text in the encoding of the locale, which is cp1252 or cp936 on Windows."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    method = isinstance(call.func, ast.Attribute)
    if any(k.arg in ("encoding", None) for k in call.keywords):
        return False
    modes = [a.value for a in [*call.args, *(k.value for k in call.keywords if k.arg == "mode")] if is_text(a)]
    if name == "open" and not (method and isinstance(call.func.value, ast.Name)):  # not Image.open, os.open
        return not any("b" in mode and len(mode) <= 3 for mode in modes)
    return method and (name, len(call.args)) in (("read_text", 0), ("write_text", 1))


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize(
    ("code", "lacking"),
    [
        ("open(p)", True),
        ("p.parent.open('w')", True),
        ("p.read_text()", True),
        ("p.write_text(t)", True),
        ("open(p, 'rb')", False),
        ("open(p, mode='wb')", False),
        ("Image.open(p)", False),
        ("p.read_text('utf-8')", False),
        ("p.write_text(t, encoding='utf-8')", False),
        ("write_text(p, t)", False),
    ],
)
def test_a_call_without_an_encoding_is_recognised(code: str, lacking: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call) and lacks_encoding(call) is lacking


def test_every_text_file_is_opened_with_an_encoding() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and lacks_encoding(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_a_path_that_the_output_cannot_encode_does_not_end_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    out = tmp_path / "我的.svg"
    assert commands.main(["draw", "model=yolov8n-hilo.yaml", f"out={out}"]) == 0
    assert out.is_file() and rb"\u6211\u7684.svg" in written.getvalue()
