"""Every way of installing gives the same working plugin, checked from an empty folder; uninstalling leaves nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent

CHECK = """
import sys
assert "yolo_attn" not in sys.modules
from ultralytics import YOLO
model = YOLO("yolov8n-sam.yaml")
assert any(type(m).__module__ == "yolo_attn.blocks.smt.operator" for m in model.model.modules())
from ultralytics.data import utils
assert utils.check_file("shapes.yaml").endswith("shapes.yaml")
from yolo_attn import patches
from yolo_attn.yamls import shipped as assets
assert len(assets.model_yamls()) >= 5, assets.folder()
assert all(s.state == "live" for s in patches.status())
assert {p.name for p in assets.model_yamls()} == set(sys.argv[1:])
print("works")
"""


def run(*command: str | Path, cwd: Path | None = None, ok: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=clean | env, timeout=600
    )
    if ok:
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A fresh environment that borrows the heavy packages of this one, but none of its start-up files."""
    return make_venv(tmp_path / "venv")


def make_venv(folder: Path, *options: str) -> Path:
    """The programs of such an environment, in `folder`."""
    run(sys.executable, "-m", "venv", *options, folder)
    site = next(folder.glob("lib/python*/site-packages"))
    # Appended last and as a plain path: its .pth files, and so an installed plugin, are not processed.
    (site / "zz_borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The project's tracked files, without whatever else lies in the checkout."""
    listed = run("git", "ls-files", cwd=ROOT).stdout.splitlines()
    folder = tmp_path / "source"
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def wheel_from_sdist(source: Path, out: Path) -> Path:
    run(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source
    )  # by default: sdist, then wheel from it
    return next(out.glob("*.whl"))


@pytest.mark.parametrize("way", ["pip", "pip -e", "uv", "uv -e", "sdist wheel"])
def test_installed_plugin_works_from_an_empty_folder(way: str, venv: Path, source: Path, tmp_path: Path) -> None:
    flags = ["--no-deps", "--no-build-isolation"]
    if way.startswith("uv"):
        install = [sys.executable, "-m", "uv", "pip", "install", "-q", "--python", venv / "python", *flags]
    else:
        install = [venv / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *flags]
    target = [wheel_from_sdist(source, tmp_path / "dist")] if way == "sdist wheel" else [source]
    run(*install, *(["-e"] if way.endswith("-e") else []), *target)
    empty = tmp_path / "empty"
    empty.mkdir()
    shipped = [p.name for p in sorted((source / "cfg").glob("yolo*.yaml"))]
    for options in ([], ["-I"]):  # -I: isolated, as some launchers start Python
        assert "works" in run(venv / "python", *options, "-c", CHECK, *shipped, cwd=empty).stdout
    assert run(venv / "yolo-attn", "version", cwd=empty).stdout.strip()

    uninstall = [sys.executable, "-m", "uv", "pip", "uninstall", "--python", venv / "python", "yolo-attn"]
    run(*(uninstall if way.startswith("uv") else [venv / "python", "-m", "pip", "uninstall", "-qy", "yolo-attn"]))
    site = next(venv.parent.glob("lib/python*/site-packages"))
    assert not [p for p in site.rglob("*yolo_attn*") if p.name != "__pycache__" and p.suffix != ".pyc"]
    done = run(venv / "python", "-c", "from ultralytics import YOLO; YOLO('yolov8n-sam.yaml')", cwd=empty, ok=False)
    assert done.returncode != 0 and "FileNotFoundError" in done.stderr


def test_the_start_up_file_works_in_a_user_site(source: Path, tmp_path: Path) -> None:
    """`pip install --user`, as on machines whose Python belongs to the administrator."""
    programs, user = make_venv(tmp_path / "venv", "--system-site-packages"), {"PYTHONUSERBASE": str(tmp_path / "user")}
    install = [programs / "python", "-m", "pip", "install", "-q", "--user", "--no-deps", "--no-build-isolation"]
    run(*install, "--ignore-installed", "--no-warn-script-location", source, **user)
    (start_up,) = (tmp_path / "user").glob("**/site-packages/yolo_attn_boot.pth")
    shipped = [p.name for p in sorted((source / "cfg").glob("yolo*.yaml"))]
    where = "import yolo_attn; print(yolo_attn.__file__)"
    found = run(programs / "python", "-c", f"{CHECK}\n{where}", *shipped, cwd=tmp_path, **user).stdout
    assert "works" in found and str(start_up.parent) in found


def test_a_moved_checkout_is_silent(venv: Path, source: Path, tmp_path: Path) -> None:
    run(venv / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", source)
    source.rename(tmp_path / "elsewhere")
    done = run(venv / "python", "-c", "print(1)", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("1\n", "")
    done = run(venv / "python", "-c", "from ultralytics import YOLO; YOLO('yolov8n.yaml'); print(2)", cwd=tmp_path)
    assert done.stdout.endswith("2\n") and "yolo_attn" not in done.stderr


def test_a_path_with_spaces_and_chinese_letters_works_also_in_the_c_locale(source: Path, tmp_path: Path) -> None:
    odd = tmp_path / "我的 detector"
    odd.mkdir()
    source = source.rename(odd / "yolo_attn 源码")
    venv = make_venv(odd / "venv")
    c, utf8 = {"LC_ALL": "C", "LANG": "C"}, {"LC_ALL": "C.UTF-8"}
    flags = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    shipped = [p.name for p in sorted((source / "cfg").glob("yolo*.yaml"))]
    # Python 3.11 and 3.12 cannot read the .pth of any editable install in such a path when LC_ALL=C.
    run(venv / "python", "-m", "pip", "install", "-q", *flags, "-e", source, **utf8)
    assert "works" in run(venv / "python", "-c", CHECK, *shipped, cwd=odd, **utf8).stdout
    run(venv / "python", "-m", "pip", "install", "-q", "--force-reinstall", *flags, source, **utf8)
    assert "works" in run(venv / "python", "-c", CHECK, *shipped, cwd=odd, **c).stdout
    command = (venv / "python", "-m", "yolo_attn")
    run(*command, "new", "block", "Mine", cwd=odd, **c)
    run(*command, "shapes", "task=detect", f"dir={odd / '数据'}", "train=4", "val=2", cwd=odd, **c)
    shapes = (source / "cfg" / "shapes.yaml").read_text(encoding="utf-8")
    (odd / "数据.yaml").write_text(shapes.replace("path: shapes ", f"path: {odd / '数据'} "), encoding="utf-8")
    train = """
import mine
from ultralytics import YOLO
from yolo_attn import build_yaml
build_yaml("yolov8", "Mine", "P5").save("yolov8-我的.yaml")
model = YOLO("yolov8n-我的.yaml")
model.train(data="数据.yaml", epochs=1, imgsz=64, batch=2, workers=0, plots=False, project="运行")
assert YOLO(model.trainer.best).predict("数据/images/val", imgsz=64)
"""
    (odd / "训练.py").write_text(train, encoding="utf-8")
    run(venv / "python", "训练.py", cwd=odd, **c)


def test_the_wheel_holds_the_package_and_nothing_else(source: Path, tmp_path: Path) -> None:
    wheel = wheel_from_sdist(source, tmp_path / "dist")
    if importlib.util.find_spec("twine"):  # what PyPI checks; the package is in the extra `dev`
        run(sys.executable, "-m", "twine", "check", "--strict", *wheel.parent.iterdir())
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
    tops = {n.split("/")[0] for n in names if ".dist-info" not in n}
    assert tops == {"yolo_attn", "yolo_attn_boot.py", "yolo_attn_boot.pth", "yolo_attn_boot.start"}
    assert any(n.startswith("yolo_attn/cfg/") for n in names) and any(n.startswith("yolo_attn/patches/") for n in names)
