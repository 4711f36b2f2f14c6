"""`yolo_attn.checks`: typical faults are found, with the line and the remedy; foreign constructors get an adapter."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from jobs import run
from torch import nn

from yolo_attn import checks, commands, registry
from yolo_attn.checks import Result, adapter, examine, targets
from yolo_attn.errors import UsageError

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).parent / "yolo-attn"


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The faulty blocks as a user's file; their registrations are forgotten afterwards."""
    registry.load_builtins()
    monkeypatch.setattr(registry, "_blocks", dict(registry._blocks))
    for name in ("pasted", "pasted_registered"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    file = tmp_path / "pasted.py"
    shutil.copy(HERE / "faulty_blocks.py", file)
    return file


def results(target: str, *names: str) -> dict[str, Result]:
    """Results of some checks by name."""
    wanted = [c for c in checks.CHECKS if c.name in names]
    with targets.opened(target) as (subject,):
        return {r.check: r for r in examine(subject, wanted)}


@pytest.mark.parametrize(
    ("name", "check", "message", "line"),
    [
        ("ForeignArgument", "registered", "first argument is 'channel'; it must be `c1`", ""),
        ("KeepsState", "deepcopy", "self.weights keeps a tensor", "self.weights = self.conv(x).sigmoid()"),
        ("FixedSize", "any_size", "RuntimeError: The size of tensor a", "return x + self.position"),
        ("ScalesTooLate", "half", "NaN or Inf under float16 autocast", ""),
        ("LambdaAttribute", "deepcopy", "self.gate is a lambda", "self.gate = lambda x: x.sigmoid()"),
        ("ReturnsList", "output", "forward returns a list of 2; a row returns one tensor", ""),
    ],
)
def test_a_typical_fault_is_found_with_its_line(blocks: Path, name: str, check: str, message: str, line: str) -> None:
    result = results(f"{blocks}:{name}", check)[check]
    assert result.state == "failed" and message in result.message
    assert result.where.endswith(line) and (result.where.startswith("pasted.py:") or not line)
    assert result.why and result.remedy


@pytest.mark.parametrize("name", ["ForeignArgument", "KeepsState", "FixedSize", "ScalesTooLate", "LambdaAttribute"])
def test_a_fault_does_not_fail_other_checks(blocks: Path, name: str) -> None:
    found = results(f"{blocks}:{name}", "output", "gradients", "independent", "channels_last")
    assert len(found) == 4 and {r.state for r in found.values() if name != "FixedSize" or r.check == "output"} == {
        "passed"
    }


def test_the_other_checks_are_skipped_for_a_block_without_a_usable_output(blocks: Path) -> None:
    found = results(f"{blocks}:ReturnsList", "output", "any_size", "half")
    assert [found[k].state for k in ("output", "any_size", "half")] == ["failed", "skipped", "skipped"]


def test_what_cannot_be_checked_here_is_skipped_and_not_passed(blocks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = results(f"{blocks}:KeepsState", "onnx")["onnx"]
    assert (found.state, found.message) == ("skipped", 'needs ONNX Runtime: pip install "yolo-attn[export]"')


def test_fix_writes_a_module_that_makes_the_class_a_row(blocks: Path) -> None:
    with targets.opened(f"{blocks}:ForeignArgument", fix=True) as (subject,):
        assert subject.block.name == "ForeignArgument" and registry.get("C2fForeignArgumentRow") is not None
    written = blocks.with_name("pasted_registered.py")
    assert written.read_text(encoding="utf-8") == subject.registration
    assert "def __init__(self, c1: int, reduction: int = 16) -> None:" in subject.registration
    module = subject.block.cls(32, 4)
    assert [k.partition(".")[0] for k in module.state_dict()] == ["fc"] * 4
    with (
        pytest.raises(UsageError, match=r"pasted_registered\.py exists already"),
        targets.opened(f"{blocks}:ForeignArgument", fix=True),
    ):
        pass


def test_an_adapter_passes_input_and_output_channels(blocks: Path) -> None:
    with targets.opened(f"{blocks}:TwoChannels") as (subject,):
        assert subject.block.takes_c2 and "super().__init__(inp=c1, oup=c2, n=n_)" in subject.registration
        assert subject.block.cls(16, 24).conv.out_channels == 24


def test_a_name_that_is_taken_gets_a_prefix() -> None:
    cls = type("HiLo", (nn.Module,), {"__init__": lambda self, c1: None})
    assert adapter.registration(cls, "mine")[0] == "MyHiLo"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{}:NeedsArgument", "the argument `kernel_size` has no default"),
        ("{}:KeepState", "no class 'KeepState' derived from nn.Module. Did you mean KeepsState"),
        ("{}", "name one: pasted.py:NAME"),
        ("nowhere.py:Block", "there is no such file"),
        ("nowhere.yaml", "there is no such file"),
        ("HiLoAtn", "no such row, and no .py or .yaml file. Did you mean HiLoAttn"),
        ("SMTMaps", "returns several maps"),
        ("yolov8n.yaml", "has no registered block"),
    ],
)
def test_a_wrong_target_is_explained(blocks: Path, target: str, message: str) -> None:
    with pytest.raises(UsageError) as e, targets.opened(target.format(blocks)):
        pass
    assert message in str(e.value)


def test_a_yaml_names_its_blocks() -> None:
    with targets.opened("yolov8n-sam.yaml") as subjects:
        assert [s.block.name for s in subjects] == ["SAM"]


def test_new_block_writes_a_block_and_its_test(blocks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = blocks.with_name("strip_attention.py")
    arguments = ["new", "block", "StripAttention", f"out={file}"]
    assert commands.main(arguments) == 0
    assert commands.main(arguments) == 2 and "exists already" in capsys.readouterr().err
    found = results(str(file), "registered", "output", "any_size", "single_image", "half", "deepcopy")
    assert {r.state for r in found.values()} == {"passed"}


@pytest.mark.slow
def test_a_new_block_passes_all_checks_and_its_own_test(tmp_path: Path) -> None:
    run(COMMAND, "new", "block", "StripAttention", cwd=tmp_path)
    run(sys.executable, "-m", "pytest", "-q", cwd=tmp_path)
    report = run(COMMAND, "check", "strip_attention.py", "--json", cwd=tmp_path)
    (block,) = json.loads(report[report.index("{\n") : report.rindex("}") + 1])["blocks"]
    assert block["block"] == "StripAttention" and len(block["results"]) == len(checks.CHECKS)
    assert {r["state"] for r in block["results"]} <= {"passed", "slow"}


@pytest.mark.slow
def test_the_command_reports_a_faulty_block(blocks: Path) -> None:
    text = run(COMMAND, "check", f"{blocks.name}:LambdaAttribute", cwd=blocks.parent, ok=False)
    assert "failed  processes" in text and "self.gate is a lambda" in text and "Traceback" not in text
