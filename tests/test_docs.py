"""The documentation is in step with the code, and what it names exists."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import make
import pytest
from ultralytics import cfg

from yolo_attn import commands, registry
from yolo_attn.commands import COMMANDS
from yolo_attn.commands.parser import Command
from yolo_attn.yamls import shipped as assets

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TEXTS = [README, ROOT / "README.zh-CN.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
every_text = pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
DETECT = (ROOT / "docs" / "detect.md").read_text(encoding="utf-8")
PAPERS = ("smt", "litv2", "sknet", "cloformer", "acmix")
every_paper = pytest.mark.parametrize("page", PAPERS)


def blocks_of(text: str, language: str) -> list[str]:
    """Fenced code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def joined(path: Path) -> str:
    """A text, with commands of several lines in one."""
    return re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))


# --- what is generated


def test_the_generated_documents_are_up_to_date() -> None:
    assert [str(p.relative_to(ROOT)) for p in make.out_of_step(make.documents())] == []


def test_a_text_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="README.md needs the markers <!-- nonsense -->"):
        make.between("README.md", README.read_text(encoding="utf-8"), "nonsense", "")


def test_every_exception_is_listed_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    block = registry.Block("Odd", object, "", "https://example.org", exceptions={"half": "its sums are too large"})
    monkeypatch.setattr(registry, "list_blocks", lambda: [block])
    text = make.promises()
    assert "| `Odd` | `half` | its sums are too large |" in text and "None" not in text


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "img").glob("*.svg")), ids=lambda p: p.name)
def test_pictures_are_small_titled_and_within_their_frame(path: Path) -> None:
    assert path.stat().st_size < 60_000
    svg = ElementTree.parse(path).getroot()
    name = "{http://www.w3.org/2000/svg}"
    assert svg.find(f"{name}title").text
    width, height = float(svg.get("width")), float(svg.get("height"))
    for text in svg.iter(f"{name}text"):
        x, size = float(text.get("x")), float(text.get("font-size"))
        wide = 0.62 * size * len(text.text)  # generous: the mean letter of a wide sans serif
        left = x - wide * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor", "start")]
        assert left > -3 and left + wide < width + 3 and float(text.get("y")) < height, text.text


# --- what the documents name exists


@every_text
def test_relative_links_have_a_target(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    dead = [x for x in links if not re.match(r"[a-z]+:", x) and not (path.parent / x).exists()]
    assert dead == []


@every_text
def test_every_command_that_is_named_exists(path: Path) -> None:
    named = re.findall(r"yolo-attn (bench [a-z]+|[a-z]+)", path.read_text(encoding="utf-8"))
    assert set(named) <= {*COMMANDS, "bench", "new"}


def parser_of(command: str) -> Command:
    """The declaration of a command."""
    module, attribute = COMMANDS[command][0].split(":")
    return getattr(importlib.import_module(module), attribute)


@every_text
def test_every_command_line_is_accepted_by_its_parser(path: Path) -> None:
    for line in re.findall(r"^(?: {4})?(yolo-attn .*)$", joined(path), re.MULTILINE):
        for part in re.split(r" [|>] ", line):
            if part.startswith("yolo-attn "):
                command, arguments = commands.split(shlex.split(part, comments=True)[1:])
                if command in COMMANDS:
                    parser_of(command).parse(arguments)


@every_text
def test_every_yolo_command_has_arguments_of_ultralytics(path: Path) -> None:
    for line in re.findall(r"^(?: {4})?(?:.* && )?(yolo .*=.*)$", joined(path), re.MULTILINE):
        arguments = dict(part.split("=", 1) for part in shlex.split(line, comments=True) if "=" in part)
        cfg.check_dict_alignment(vars(cfg.get_cfg()), arguments)


@every_text
def test_every_model_file_that_is_named_exists(path: Path) -> None:
    stock = {p.name for p in Path(cfg.__file__).parent.rglob("*.yaml")}
    of_the_reader = re.compile(r".*-(mine|operator|m|se)\.yaml")
    for name in re.findall(r"\byolo(?:v|e-)?\d+[a-z]?-[\w-]+\.yaml", path.read_text(encoding="utf-8")):
        known = of_the_reader.fullmatch(name) or assets.find(name) or assets.unscaled(name) in stock
        assert known or name in stock, name


def test_the_two_commands_of_the_readme_stand_alone_and_ci_runs_the_second() -> None:
    commands = [line for block in blocks_of(README.read_text(encoding="utf-8"), "bash") for line in block.splitlines()]
    (train,) = (c for c in commands if c.startswith("pip install -e . && yolo train "))
    command = shlex.split(train)
    assert "model=cfg/yolov8n-sam.yaml" in command and "data=shapes.yaml" in command
    assert 'pip install -e ".[test]" && pytest' in commands
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("pip install -q", "pip install")
    assert 'pip install -e ".[test]" && pytest' in run.splitlines()


def test_the_python_code_of_the_readme_prints_its_comments() -> None:
    (code,) = (x for x in blocks_of(README.read_text(encoding="utf-8"), "python") if "print(" in x)
    comments = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert len(comments) == 2 and printed.getvalue().splitlines()[-2:] == comments


@every_text
def test_the_python_code_compiles_and_its_imports_exist(path: Path) -> None:
    for code in blocks_of(path.read_text(encoding="utf-8"), "python"):
        tree = ast.parse(code)
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        imports = [node for node in imports if "my_" not in ast.unparse(node)]  # the reader's own modules
        exec(compile(ast.Module([*imports], []), str(path), "exec"), {})


@every_paper
def test_the_operator_on_a_page_has_the_output_in_its_comment(page: str) -> None:
    (code,) = blocks_of((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), "python")
    names: dict[str, Any] = {}
    exec(compile(code, page, "exec"), names)
    (shape,) = re.findall(r"^y = .*  # (\(.*\))$", code, re.MULTILINE)
    assert tuple(names["y"].shape) == ast.literal_eval(shape)


@pytest.mark.parametrize("block", registry.operators(), ids=lambda b: b.name)
def test_every_operator_is_described_on_the_page_that_its_table_links(block: registry.Block) -> None:
    page = make.page_of(block)
    assert f"`{block.name}`" in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    table = (ROOT / "docs" / "blocks.md").read_text(encoding="utf-8")
    line = next(x for x in table.splitlines() if x.startswith(f"| `{block.name}` |"))
    assert f"]({page}.md)" in line and block.paper in line


@every_paper
def test_the_page_of_a_paper_has_its_sections(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert f"(img/{page}.svg)" in text and "<!-- cost -->" in text and "```bibtex" in text
    headings = " ".join(re.findall(r"^## (.*)$", text, re.MULTILINE))
    assert all(heading in headings for heading in ("Where to put it", "Cost", "Pitfalls", "Citation"))
