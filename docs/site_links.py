"""MkDocs hook: pages made from README.md and the commands, and files of the repository that pages link to.

The Markdown pages link as the repository needs it (`../cfg/yolov8-sam.yaml`). In the site, linked files outside docs/
are copied to `source/`; links to folders become plain text.
"""

from __future__ import annotations

import contextlib
import io
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
LINK = re.compile(r"(!?)\[([^\]\[]*(?:\[[^\]]*\][^\]\[]*)*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FROM_ROOT = {
    "index.md": "README.md",
    "zh/index.md": "README.zh-CN.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the linked files."""
    pages = {target: (ROOT / name).read_text(encoding="utf-8") for target, name in FROM_ROOT.items()}
    for target, text in {**pages, "reference/commands.md": commands()}.items():
        files.append(File.generated(config, target, content=text))
    known = {f.src_uri for f in files}
    for file in list(files.documentation_pages()):
        for _, _, link, _ in LINK.findall(file.content_string):
            path = repository_path(file.src_uri, link)
            target = site_path(path)
            if target.startswith("source/") and target not in known and (ROOT / path).is_file():
                known.add(target)
                files.append(File.generated(config, target, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to the site."""

    def link(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        path = repository_path(page.file.src_uri, target)
        if not path:
            return match[0]
        if (ROOT / path).is_dir():
            return text
        relative = posixpath.relpath(site_path(path), posixpath.dirname(page.file.src_uri) or ".")
        return f"{image}[{text}]({relative}{anchor or ''})"

    return LINK.sub(link, markdown)


def site_path(path: str) -> str:
    """Where the site has a file of the repository."""
    page = next((page for page, name in FROM_ROOT.items() if name == path), "")
    if page or path.startswith("docs/"):
        return page or path.removeprefix("docs/")
    return f"source/{path}" + ("" if path.endswith((".png", ".jpg", ".svg")) else ".txt")  # browsers show .txt


def repository_path(page: str, link: str) -> str:
    """The path in the repository that a link of a page means; empty for links to the web and within docs/."""
    if re.match(r"[a-z]+:|#|/", link):
        return ""
    folder = posixpath.dirname(FROM_ROOT[page]) if page in FROM_ROOT else posixpath.dirname(f"docs/{page}")
    path = posixpath.normpath(posixpath.join(folder, link))
    return path if page in FROM_ROOT or not path.startswith("docs/") else ""


def commands() -> str:
    """The page of all commands: their help texts."""
    from yolo_attn import commands as cli

    parts: list[Any] = ["# Commands", "`yolo-attn COMMAND help` prints these texts."]
    for command in cli.COMMANDS:
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            cli.main([*command.split(), "help"])
        parts += [f"## yolo-attn {command}", f"```text\n{text.getvalue().rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"
