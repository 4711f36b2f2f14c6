"""`yolo-attn doctor`: what it finds in releases, in the environment, and in a healthy installation."""

from __future__ import annotations

import json
import platform

import pytest

import yolo_attn
from yolo_attn import commands
from yolo_attn.commands import doctor


@pytest.mark.parametrize(
    ("release", "levels"),
    [("8.3.199", ["FAIL", "note"]), ("8.3.253", ["note"]), ("8.4.60", ["warn", "note"]), ("8.4.190", [])],
)
def test_known_problems_of_a_release_are_reported_with_a_remedy(release: str, levels: list[str]) -> None:
    found = doctor.release_findings(release)
    assert [f.level for f in found] == levels
    assert all(f.remedy for f in found)


def test_a_disabled_plugin_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_AUTOLOAD", "0")
    (finding,) = [f for f in doctor.examine() if f.level == "FAIL"]
    assert "does not load the plugin" in finding.text and finding.remedy == "unset YOLO_ATTN_AUTOLOAD"


def test_a_healthy_installation_is_reported_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["doctor"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("healthy")


@pytest.mark.parametrize(
    ("torch", "torchvision", "required", "message"),
    [
        ("2.9.1+cpu", "0.24.1+cpu", "torch==2.9.1", ""),
        ("2.9.1", "0.24.1+cpu", "", ""),
        ("2.15.0+cpu", "0.29.2+cpu", "torch (>=2.14.0)", ""),
        ("2.13.0+cpu", "0.29.2+cpu", "torch (>=2.14.0)", "it requires torch (>=2.14.0)"),
        ("2.9.1+cpu", "0.23.0+cpu", "torch==2.8.0", "it requires torch==2.8.0"),
        ("2.9.1+cpu", "0.24.1+cu128", "torch==2.9.1", "one is the build cu128, the other cpu"),
    ],
)
def test_a_torchvision_that_does_not_match_torch_is_found(
    torch: str, torchvision: str, required: str, message: str
) -> None:
    finding = doctor.torchvision_finding(torch, torchvision, required, "install both")
    assert finding.level == ("FAIL" if message else "ok") and message in finding.text


def test_the_report_can_be_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("FAIL", "a fault", "a remedy")])
    assert commands.main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is False and report["python"] == platform.python_version()
    assert report["packages"]["yolo-attn"] == yolo_attn.__version__
    assert report["findings"] == [{"level": "FAIL", "text": "a fault", "remedy": "a remedy"}]
