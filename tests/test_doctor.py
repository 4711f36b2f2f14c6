"""`yolo-attn doctor`: what it finds in releases, in the environment, and in a healthy installation."""

from __future__ import annotations

import pytest

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
