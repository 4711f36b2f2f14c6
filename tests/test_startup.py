"""Start-up: live in every interpreter, silent, harmless to other programs, in whatever order things are imported."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from yolo_attn.patches.startup import yolo_attn_boot as boot

import yolo_attn

PACKAGE = Path(yolo_attn.__file__).parent
STARTUP = Path(importlib.util.find_spec("yolo_attn.patches.startup").origin).parent
COUNT = """
import sys
import ultralytics.nn.tasks as t
from ultralytics.data import utils
f, n = t.parse_model, 0
while f is not None:
    n += getattr(f, "__dict__", {}).get("__yolo_attn__") is f
    f = getattr(f, "__wrapped__", None)
print("patches", n, "finders", sum(getattr(f, "yolo_attn", False) for f in sys.meta_path))
"""


def python(code: str, *options: str, path: tuple[Path, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in an empty folder.

    -S keeps the environment's own site folders, and any copy of the plugin installed there, from starting anything:
    their packages are reachable as a plain path, while the folders in `path` are site folders, .pth files included.
    """
    plain = [p for p in sys.path if p.endswith("-packages")]
    start = (
        "".join(f"import site; site.addsitedir({str(p)!r})\n" for p in path) + f"import sys; sys.path += {plain!r}\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | env
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(
            [sys.executable, "-S", *options, "-c", start + code],
            capture_output=True,
            text=True,
            env=environment,
            cwd=empty,
            timeout=120,
        )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site folder that holds the start-up files and a copy of the package, as an installation does."""
    folder = tmp_path / "site"
    shutil.copytree(PACKAGE, folder / "yolo_attn", ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("cfg", "patches"):
        source = PACKAGE / part if (PACKAGE / part).is_dir() else PACKAGE.parent / part
        shutil.copytree(source, folder / "yolo_attn" / part, dirs_exist_ok=True)
    for ending in ("py", "pth", "start"):
        shutil.copy(STARTUP / f"yolo_attn_boot.{ending}", folder)
    return folder


STRANGER = "import json; print(json.dumps([1]))"


@pytest.mark.parametrize(
    "code",
    [
        COUNT,
        "import yolo_attn\n" + COUNT,
        COUNT + "import yolo_attn\n" + COUNT,
        "import yolo_attn, ultralytics\n" + COUNT,
    ],
    ids=["never imported", "imported before", "imported after", "imported first"],
)
def test_any_order_ends_in_exactly_one_patch(code: str, site: Path) -> None:
    done = python(code, path=(site,))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "patches 1 finders 1"


def test_a_site_folder_processed_twice_arms_once(site: Path) -> None:
    done = python(COUNT, path=(site, site))
    assert done.stdout.strip().splitlines()[-1] == "patches 1 finders 1"


def test_a_notebook_that_imported_ultralytics_before_the_install_is_served(site: Path) -> None:
    code = f"import ultralytics.nn.tasks\nsys.path.insert(0, {str(site)!r})\nimport yolo_attn\n" + COUNT
    done = python("import sys\n" + code, YOLO_ATTN_AUTOLOAD="0")
    assert done.stdout.strip().splitlines()[-1] == "patches 1 finders 1", done.stderr


def test_the_switch_turns_it_off(site: Path) -> None:
    done = python(COUNT, path=(site,), YOLO_ATTN_AUTOLOAD="0")
    assert done.stdout.strip() == "patches 0 finders 0"


def test_a_stranger_sees_and_pays_nothing(site: Path) -> None:
    code = STRANGER + "\nprint([m for m in sys.modules if m.split('.')[0] in ('yolo_attn', 'torch', 'ultralytics')])"
    done = python("import sys\n" + code, path=(site,))
    assert (done.stdout, done.stderr) == ("[1]\n[]\n", "")


def remove_all(site: Path) -> None:
    shutil.rmtree(site / "yolo_attn")


def remove_half(site: Path) -> None:
    shutil.rmtree(site / "yolo_attn" / "patches")
    (site / "yolo_attn" / "registry.py").unlink()


def break_syntax(site: Path) -> None:
    (site / "yolo_attn" / "registry.py").write_text("def (")


def remove_boot(site: Path) -> None:
    (site / "yolo_attn_boot.py").unlink()


def empty_boot(site: Path) -> None:
    (site / "yolo_attn_boot.py").write_text("raise SystemError('torn')")


DAMAGE = [remove_all, remove_half, break_syntax, remove_boot, empty_boot]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_damage_never_troubles_a_stranger(damage, site: Path) -> None:
    damage(site)
    done = python(STRANGER, path=(site,))
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1]\n", "")


@pytest.mark.parametrize("damage", [remove_all, break_syntax], ids=lambda f: f.__name__)
def test_damage_leaves_stock_ultralytics_working(damage, site: Path) -> None:
    damage(site)
    code = """
from ultralytics.nn.tasks import DetectionModel
print(sum(p.numel() for p in DetectionModel("yolov8n.yaml", verbose=False).parameters()))
"""
    done = python(code, path=(site,))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "3157200"
    warnings = done.stderr.count("yolo_attn is installed but broken")
    assert warnings == (0 if damage is remove_all else 1)


def test_pth_line_is_guarded_and_sorts_after_editable_installs() -> None:
    names = sorted(
        ["__editable__.yolo_attn.pth", "_yolo_attn.pth", "_editable_impl_yolo_attn.pth", "yolo_attn_boot.pth"]
    )
    assert names[-1] == "yolo_attn_boot.pth"
    lines = [x for x in (STARTUP / "yolo_attn_boot.pth").read_text().splitlines() if x and not x.startswith("#")]
    assert len(lines) == 1 and lines[0].startswith("import ") and "except" in lines[0]
    assert all(repr(target) in lines[0] for target in boot.TARGETS)
    assert (STARTUP / "yolo_attn_boot.start").read_text().split() == ["yolo_attn_boot:arm"]


def test_the_hook_leaves_no_trace_in_the_module(site: Path) -> None:
    code = "import inspect, ultralytics.nn.tasks as t\n"
    code += "print(type(t.__loader__).__name__, type(t.__spec__.loader).__name__)"
    done = python(code + "; print(inspect.getsource(t)[:1] != '')", path=(site,))
    assert done.stdout.split()[:2] == ["SourceFileLoader", "SourceFileLoader"], done.stderr


def test_a_copying_finder_does_not_loop(site: Path) -> None:
    """Other hooks ask the finders after them for the spec; ours must answer and not ask back."""
    code = """
import sys, importlib.util
class Other:
    busy = False
    def find_spec(self, name, path=None, target=None):
        if self.busy or name != "ultralytics.nn.tasks": return None
        self.busy = True
        try: return importlib.util.find_spec(name)
        finally: self.busy = False
sys.meta_path.insert(0, Other())
"""
    done = python(code + COUNT, path=(site,))
    assert done.stdout.strip().splitlines()[-1].startswith("patches 1"), done.stderr


def test_in_a_zip_archive_an_import_applies_the_patches_and_the_blocks_build(site: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "app"), "zip", site, "yolo_attn")
    code = (
        f"import sys; sys.path.insert(0, {archive!r})\nimport yolo_attn; assert '.zip' in yolo_attn.__file__\n" + COUNT
    )
    code += """
from ultralytics.nn.tasks import DetectionModel
d = {"nc": 1, "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "SAM", []]], "head": [[[1], 1, "Detect", ["nc"]]]}
print(type(DetectionModel(d, verbose=False).model[1]).__name__)
"""
    done = python(code)
    assert done.stdout.strip().splitlines()[-2:] == ["patches 1 finders 1", "SAM"], done.stderr


def test_an_older_copy_of_the_hook_is_replaced(site: Path) -> None:
    """An editable checkout that was updated keeps the start-up files of its installation until the next one."""
    boot_file = site / "yolo_attn_boot.py"
    boot_file.write_text(boot_file.read_text().replace('    "ultralytics.engine.trainer",\n', ""))
    (site / "yolo_attn_boot.pth").write_text("import yolo_attn_boot; yolo_attn_boot.arm()\n")
    code = """
import ultralytics.nn.tasks, ultralytics.engine.trainer
from yolo_attn import patches
print({s.name: s.state for s in patches.status()}["optimizer"])
"""
    done = python(code + COUNT, path=(site,))
    assert done.stdout.strip().splitlines()[-2:] == ["live", "patches 1 finders 1"], done.stderr


def test_blocks_of_another_package_are_known_everywhere(site: Path) -> None:
    (site / "theirs.py").write_text(
        "import torch, yolo_attn\n"
        "@yolo_attn.register(paper='https://example.org/paper')\n"
        "class Theirs(torch.nn.Identity):\n"
        "    def __init__(self, c1: int) -> None:\n"
        "        super().__init__()\n"
    )
    for name, target in (("theirs", "theirs"), ("torn", "no_such_module")):
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[yolo_attn.blocks]\nx = {target}\n")
    code = """
from ultralytics.nn.tasks import DetectionModel
d = {"nc": 1, "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Theirs", []]], "head": [[[1], 1, "Detect", ["nc"]]]}
print(type(DetectionModel(d, verbose=False).model[1]).__name__)
"""
    done = python(code, path=(site,))
    assert done.stdout.strip().splitlines()[-1] == "Theirs", done.stderr
    assert "no_such_module" in done.stderr and "do not load" in done.stderr
