"""`yolo-attn doctor`: check that plain Ultralytics, here and in a fresh interpreter, knows the blocks."""

from __future__ import annotations

import importlib.metadata
import json as json_format
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import releases
from .parser import SWITCH, Argument, Command

#: Run by a fresh interpreter, which must load this package without importing it by name.
PROBE = """
import json, sys
import ultralytics, ultralytics.nn.tasks, ultralytics.data.utils, ultralytics.engine.trainer, ultralytics.engine.model
report = {"ultralytics": ultralytics.__file__, "version": ultralytics.__version__, "loaded": "yolo_attn" in sys.modules}
if report["loaded"]:
    import yolo_attn
    from yolo_attn import patches
    report["package"] = yolo_attn.__file__
    report["patches"] = [[s.name, s.state, s.detail, s.remedy] for s in patches.status()]
print("\\n" + json.dumps(report))
"""


#: Packages whose versions an issue report needs.
PACKAGES = ("yolo-attn", "ultralytics", "torch", "torchvision", "numpy", "opencv-python", "onnx", "onnxruntime", "ray")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "ok", "note" (information), "warn" (works, with a limitation) or "FAIL" (not healthy).
        text: The finding.
        remedy: What to do.
    """

    level: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        """One line, with the remedy below."""
        return f"{self.level:>4}  {self.text}" + (f"\n      -> {self.remedy}" if self.remedy else "")


def run(json: bool) -> int:
    """Print the findings; 0 if healthy, 1 if not."""
    found = examine()
    bad = sum(f.level == "FAIL" for f in found)
    if json:
        print(
            json_format.dumps({"healthy": not bad, **environment(), "findings": [asdict(f) for f in found]}, indent=1)
        )
        return 1 if bad else 0
    for finding in found:
        print(finding)
    print(f"\n{'healthy' if not bad else f'not healthy: {bad} problem' + 's' * (bad > 1)}")
    return 1 if bad else 0


def environment() -> dict[str, Any]:
    """Platform and versions, for issue reports; no paths, names or settings of the user."""
    return {
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "encoding": sys.getfilesystemencoding(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine() -> list[Finding]:
    """All findings, in the order of the report."""
    found = _ultralytics()
    if any(f.level == "FAIL" for f in found):
        return found
    return [*found, *_here(), *_fresh(), *_torch(), *_blocks()]


def _ultralytics() -> list[Finding]:
    from .. import __file__ as ours
    from .. import __version__

    found = [Finding("ok", f"yolo_attn {__version__} at {Path(ours).parent}, Python {sys.version.split()[0]}")]
    try:
        import ultralytics
        import ultralytics.data.utils
        import ultralytics.engine.model
        import ultralytics.engine.trainer
        import ultralytics.nn.tasks
    except Exception as e:
        remedy = "pip install -U ultralytics; a frequent cause is a torchvision that does not match torch"
        return [*found, Finding("FAIL", f"ultralytics does not import: {type(e).__name__}: {e}", remedy)]
    where = Path(ultralytics.__file__).resolve().parent
    found.append(Finding("ok", f"ultralytics {ultralytics.__version__} at {where}"))
    if where.parent == Path.cwd().resolve():
        text = "this copy in the current folder hides the installed one"
        found.append(Finding("warn", text, "run from another folder, or install the copy with pip install -e"))
    found += release_findings(ultralytics.__version__)
    return found


def release_findings(version: str) -> list[Finding]:
    """Known problems of an Ultralytics release."""
    found = []
    if releases.number(version) < releases.number(releases.OLDEST):
        text = f"ultralytics {version} is older than {releases.OLDEST}, the oldest release the plugin supports"
        found.append(Finding("FAIL", text, "pip install -U ultralytics"))
    for level, fault in (("warn", releases.SPPF), ("note", releases.SEED)):
        if fault.affects(version):
            found.append(Finding(level, f"ultralytics {version} {fault.text}", fault.remedy))
    return found


def _patch_finding(where: str, name: str, state: str, detail: str, remedy: str) -> Finding:
    level = {"live": "ok", "waiting": "note", "unknown": "warn"}.get(state, "FAIL")
    return Finding(level, f"patch {name} is {state} {where}{': ' + detail if detail else ''}", remedy)


def _here() -> list[Finding]:
    from .. import patches

    return [_patch_finding("in this interpreter", s.name, s.state, s.detail, s.remedy) for s in patches.status()]


def _fresh() -> list[Finding]:
    """Start Python in an empty folder, as Ultralytics' child processes are started."""
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run([sys.executable, "-c", PROBE], cwd=empty, capture_output=True, text=True, timeout=300)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [Finding("FAIL", f"a fresh interpreter fails: {last}", "run: python -c 'import ultralytics.nn.tasks'")]
    report: dict[str, Any] = json_format.loads(done.stdout.strip().splitlines()[-1])
    if not report["loaded"]:
        if os.environ.get("YOLO_ATTN_AUTOLOAD") == "0":
            remedy = "unset YOLO_ATTN_AUTOLOAD"
        else:
            remedy = (
                "pip install yolo_attn into this environment; the hook does not run from PYTHONPATH, a zip or pip -t"
            )
        return [Finding("FAIL", "a fresh interpreter does not load the plugin", remedy)]
    found = [_patch_finding("in a fresh interpreter", *patch) for patch in report["patches"]]
    import ultralytics

    from .. import __file__ as ours

    for what, there, here in (
        ("ultralytics", report["ultralytics"], ultralytics.__file__),
        ("yolo_attn", report["package"], ours),
    ):
        if Path(there).resolve() != Path(here).resolve():
            text = f"a fresh interpreter imports another {what}: {there}, here {here}"
            found.append(Finding("FAIL", text, "uninstall one of the two copies"))
    return found


def _torch() -> list[Finding]:
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA in this build"
    devices = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    found = [Finding("ok", f"torch {torch.__version__}, {cuda}, {', '.join(devices) or 'no GPU found'}")]
    found.append(_torchvision(torch.__version__))
    if torch.version.cuda and not devices:
        found.append(Finding("note", "torch has CUDA but finds no GPU", "check the driver with nvidia-smi"))
    return found


def _torchvision(torch_version: str) -> Finding:
    """Whether torchvision imports and is the release that was built for this torch."""
    remedy = "install torch and torchvision together, from the same index: pip install -U torch torchvision"
    version = _version("torchvision")
    if version is None:
        return Finding("FAIL", "torchvision is not installed", remedy)
    try:
        import torchvision
        import torchvision.ops

        version = str(torchvision.__version__)
    except Exception as e:
        text = f"torchvision {version} does not import with torch {torch_version}: {type(e).__name__}: {e}"
        return Finding("FAIL", text, remedy)
    required = next((r for r in importlib.metadata.requires("torchvision") or () if re.match(r"torch\b", r)), "")
    return torchvision_finding(torch_version, version, required, remedy)


def torchvision_finding(torch_version: str, version: str, required: str, remedy: str) -> Finding:
    """Compare torchvision with torch.

    Args:
        torch_version: Such as 2.9.1+cpu.
        version: That of torchvision, such as 0.24.1+cpu; builds, behind the plus sign, must agree as well.
        required: torchvision's own requirement, such as torch==2.9.1 or torch (>=2.14.0), or "".
        remedy: What to do if they do not match.
    """
    from packaging.requirements import Requirement

    release, _, build = torch_version.partition("+")
    text = f"torchvision {version} does not match torch {torch_version}"
    if required and release not in Requirement(required).specifier:
        return Finding("FAIL", f"{text}: it requires {required}", remedy)
    own = version.partition("+")[2]
    if build and own and build != own:
        return Finding("FAIL", f"{text}: one is the build {own}, the other {build}", remedy)
    return Finding("ok", f"torchvision {version}")


def _blocks() -> list[Finding]:
    from .. import registry
    from ..yamls import shipped

    try:
        blocks = registry.list_blocks()
    except Exception as e:
        return [Finding("FAIL", f"the blocks do not import: {type(e).__name__}: {e}", "reinstall yolo_attn")]
    yamls = shipped.model_yamls()
    if not yamls:
        return [Finding("FAIL", f"no model YAML in {shipped.folder()}", "reinstall yolo_attn")]
    return [Finding("ok", f"{len(blocks)} blocks, {len(yamls)} model YAMLs in {shipped.folder()}")]


COMMAND = Command(
    "doctor",
    "Check that plain `yolo` sees the blocks; exit code 0 means healthy.",
    run,
    Argument(
        "json", "1 prints the findings, the platform and the versions as JSON, for issue reports", SWITCH, default=False
    ),
)
