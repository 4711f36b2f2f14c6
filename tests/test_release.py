"""The files of a release agree with the package: citation, workflows, issue templates, Dockerfile."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import yolo_attn
from yolo_attn import commands, releases

ROOT = Path(__file__).resolve().parents[1]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def load(name: str) -> dict:
    return yaml.load((ROOT / name).read_text(encoding="utf-8"), yaml.BaseLoader)


def test_citation_and_changelog_have_the_version_with_one_date() -> None:
    citation = load("CITATION.cff")
    assert citation["version"] == yolo_attn.__version__
    assert f"## [{yolo_attn.__version__}] - {citation['date-released']}" in CHANGELOG


def test_the_workflows_cover_the_declared_versions() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    matrix = load(".github/workflows/tests.yml")["jobs"]["test"]["strategy"]["matrix"]
    tested = {*matrix["python"], *(job["python"] for job in matrix["include"])}
    assert tested == set(re.findall(r"Python :: (3\.\d+)", text))
    assert {os.partition("-")[0] for os in matrix["os"]} == {"ubuntu", "windows", "macos"}
    steps = load(".github/workflows/tests.yml")["jobs"]["test"]["steps"]
    (oldest,) = (s["run"] for s in steps if "ultralytics==" in s.get("run", ""))
    torch = re.search(r"torch>=([\d.]+)", text)[1]
    assert f"ultralytics=={releases.OLDEST}" in oldest and f"torch=={torch}.0" in oldest


def test_publishing_needs_no_stored_token() -> None:
    publish = load(".github/workflows/release.yml")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"] == "pypi"
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")


def test_a_bug_report_asks_for_the_doctor() -> None:
    template = load(".github/ISSUE_TEMPLATE/bug.yml")
    (doctor,) = (field for field in template["body"] if field.get("id") == "doctor")
    assert "`yolo-attn doctor --json`" in doctor["attributes"]["label"] and doctor["validations"]["required"] == "true"
    assert "doctor" in commands.COMMANDS
