"""The files of the built-in dataset: complete or absent, repaired, never those of somebody else."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from shapes_files import ROOT, YAMLS, contents

from yolo_attn import commands, shapes
from yolo_attn.errors import UsageError
from yolo_attn.shapes import labels, scene


def test_a_complete_dataset_is_left_alone(tmp_path):
    root = shapes.make(tmp_path / "shapes", train=3, val=2)
    (root / "labels" / "train.cache").write_text("of the user")
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert shapes.make(root, train=3, val=2) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_missing_files_are_written_again_and_other_files_kept(tmp_path):
    root = shapes.make(tmp_path / "shapes", train=3, val=2)
    before = contents(root)
    (root / "images/train/000001.png").unlink()
    (root / "labels/val/000000.txt").unlink()
    (root / "mine.png").write_text("of the user")
    shapes.make(root, train=3, val=2)
    assert contents(root) == before | {"mine.png": b"of the user"}
    assert os.listdir(tmp_path) == ["shapes"]


@pytest.mark.parametrize("task", ["segment", "classify"])
def test_damaged_files_are_written_again(tmp_path, task):
    root = shapes.make(tmp_path / "shapes", task, train=4, val=2)
    before = contents(root)
    images, label_files = sorted(root.rglob("*.png")), sorted(root.rglob("*.txt"))
    images[0].write_bytes(images[0].read_bytes()[:-100])
    images[1].write_bytes(b"")
    if task == "segment":
        label_files[2].write_bytes(b"")
        label_files[3].write_bytes(label_files[3].read_bytes()[:-10])
    untouched = images[-1].stat().st_mtime_ns
    shapes.make(root, task, train=4, val=2)
    assert contents(root) == before
    assert images[-1].stat().st_mtime_ns == untouched


def test_a_label_file_that_ends_after_a_whole_line_is_written_again(tmp_path):
    root = shapes.make(tmp_path / "shapes", train=4, val=2)
    before = contents(root)
    cut = next(p for p in sorted(root.rglob("*.txt")) if p.read_text().count("\n") > 1)
    cut.write_text(cut.read_text().splitlines(keepends=True)[0])
    shapes.make(root, train=4, val=2)
    assert contents(root) == before


def test_labels_that_a_user_added_stay(tmp_path):
    root = shapes.make(tmp_path / "shapes", train=4, val=2)
    edited = next(root.rglob("*.txt"))
    edited.write_text(edited.read_text() + "0 0.5 0.5 0.1 0.1\n")
    before = contents(root)
    shapes.make(root, train=4, val=2)
    assert contents(root) == before


def test_a_dataset_without_recorded_lengths_is_accepted_and_repaired(tmp_path):
    root = shapes.make(tmp_path / "shapes", train=4, val=2)
    before = contents(root)
    manifest = root / "shapes.json"
    recipe = json.loads(manifest.read_text())
    del recipe["bytes"]
    manifest.write_text(json.dumps(recipe))
    shapes.make(root, train=4, val=2)
    assert json.loads(manifest.read_text()) == recipe
    (root / "images/train/000001.png").write_bytes(b"")
    shapes.make(root, train=4, val=2)
    assert contents(root) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, error):
    real = scene.scene
    calls = []

    def third_time_fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(scene, "scene", third_time_fails)
    with pytest.raises(error):
        shapes.make(tmp_path / "shapes", train=3, val=2)
    assert os.listdir(tmp_path) == []


def python(code, *args, **kwargs):
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | kwargs.pop("env", {})
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=env, text=True, **kwargs)


MAKE = "import sys; from yolo_attn.shapes import make; make(sys.argv[1], train=int(sys.argv[2]), val=3)"


def start_a_long_run(root):
    """A process that writes a large dataset, once it has written a few images."""
    process = python(MAKE, root, 100_000)
    deadline = time.monotonic() + 60
    while not list(root.parent.glob(".shapes.making-*/images/train/000005.png")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_a_killed_run_leaves_no_dataset_and_the_next_run_removes_its_temporary_files(tmp_path):
    process = start_a_long_run(tmp_path / "shapes")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert all(p.name.startswith(".shapes.making-") for p in tmp_path.iterdir())
    shapes.make(tmp_path / "shapes", train=3, val=2)
    assert os.listdir(tmp_path) == ["shapes"]


def test_the_temporary_files_of_a_running_process_stay(tmp_path):
    process = start_a_long_run(tmp_path / "shapes")
    try:
        shapes.make(tmp_path / "shapes", train=3, val=2)
        assert len(list(tmp_path.glob(".shapes.making-*/images/train"))) == 1
    finally:
        process.kill()
        process.wait()


def test_processes_that_start_at_once_make_one_dataset(tmp_path):
    processes = [python(MAKE, tmp_path / "shapes", 30) for _ in range(4)]
    assert [p.wait(120) for p in processes] == [0] * 4
    assert os.listdir(tmp_path) == ["shapes"]
    assert len(list((tmp_path / "shapes/images").rglob("*.png"))) == 33


def test_a_temporary_folder_that_another_process_probes_is_not_used(tmp_path, monkeypatch):
    real, held = shapes._lock, []

    def probed(scratch):
        if not held:
            held.append(real(scratch))
            held[0].acquire()
        return real(scratch)

    monkeypatch.setattr(shapes, "_lock", probed)
    with shapes._scratch(tmp_path / "shapes") as scratch:
        assert held and held[0].lock_file != f"{scratch}.lock"


def test_the_slower_of_two_runs_accepts_the_result_of_the_faster_one(tmp_path, monkeypatch):
    root, real, nested = tmp_path / "shapes", scene.scene, []

    def overtaken(*args, **kwargs):
        if not nested:
            nested.append(1)
            shapes.make(root, train=3, val=2)
        return real(*args, **kwargs)

    monkeypatch.setattr(scene, "scene", overtaken)
    shapes.make(root, train=3, val=2)
    assert os.listdir(tmp_path) == ["shapes"] and len(contents(root)) == 11


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "shapes").mkdir()
    assert len(contents(shapes.make(tmp_path / "shapes", train=3, val=2))) == 11


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "segmnt"}, "task='segmnt' is none of .*Did you mean segment"),
        ({"train": 0}, "train=0 must be a whole number from 1"),
        ({"val": 2.5}, "val=2.5 must be a whole number"),
        ({"size": 8}, "size=8 must be a whole number from 32"),
        ({"seed": -1}, "seed=-1 must be a whole number from 0"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, kwargs, message):
    with pytest.raises(UsageError, match=message):
        shapes.make(tmp_path / "shapes", **kwargs)
    assert os.listdir(tmp_path) == []


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "holiday.jpg").write_text("mine")
    with pytest.raises(FileExistsError, match=r"was not made by yolo_attn\.shapes"):
        shapes.make(tmp_path)
    assert os.listdir(tmp_path) == ["holiday.jpg"]


def test_a_dataset_with_other_arguments_is_not_overwritten(tmp_path):
    root = shapes.make(tmp_path / "shapes", train=3, val=2)
    with pytest.raises(FileExistsError, match=r"train=4, there 3.*seed=7, there 0"):
        shapes.make(root, train=4, val=2, seed=7)
    manifest = root / "shapes.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 0}))
    with pytest.raises(FileExistsError, match="version=1, there 0"):
        shapes.make(root, train=3, val=2)
    manifest.write_text("{")
    with pytest.raises(FileExistsError, match="damaged"):
        shapes.make(root, train=3, val=2)


@pytest.mark.skipif(os.name == "nt", reason="resource limits are those of POSIX")
def test_a_full_disk_leaves_nothing_and_is_named(tmp_path):
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    code += "import sys; from yolo_attn import commands; sys.exit(commands.main(sys.argv[1:]))"
    process = python(code, "shapes", f"dir={tmp_path / 'shapes'}", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert "cannot be written to" in err and "File too large" in err and "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot be written to '.*file/shapes'.*datasets_dir"):
        shapes.make(tmp_path / "file" / "shapes")


def test_the_dataset_yamls_agree_with_the_generator():
    for task, name in YAMLS.items():
        config = yaml.safe_load((ROOT / "cfg" / name).read_text())
        assert config["path"] == shapes.FOLDERS[task]
        assert tuple(config["names"].values()) == labels.NAMES[task]
        assert list(config["names"]) == list(range(len(config["names"])))
        assert f'task="{task}"' in config["download"]
        if task == "pose":
            assert config["kpt_shape"] == [len(scene.KEYPOINTS), 3]
            assert all(tuple(names) == scene.KEYPOINTS for names in config["kpt_names"].values())


CHECK = """
import functools, os, sys
from pathlib import Path
from yolo_attn import shapes
shapes.make = functools.partial(shapes.make, train=7, val=7)
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_cls_dataset, check_det_dataset
from ultralytics.utils import DATASETS_DIR
for task, file in zip(sys.argv[1::2], sys.argv[2::2]):
    for _ in range(2):  # makes it, finds it
        data = check_det_dataset(file)
    assert data["path"] == Path(DATASETS_DIR).resolve() / shapes.FOLDERS[task], data["path"]
    for split in "train", "val":
        dataset = YOLODataset(img_path=data[split], data=data, task=task, imgsz=160, augment=False)
        sample = dataset[0]
        kept = sum(len(label["cls"]) for label in dataset.labels)
        written = sum(len(f.read_text().splitlines()) for f in (data["path"] / "labels" / split).glob("*.txt"))
        assert len(dataset) == 7 and kept == written, (task, len(dataset), kept, written)
from yolo_attn import commands
assert commands.main(["shapes", "task=classify", "train=7", "val=7"]) == 0
data = check_cls_dataset("shapes-cls")
assert list(data["names"].values()) == sorted(shapes.scene.KINDS), data
print("all good")
"""


def test_ultralytics_generates_and_accepts_every_dataset(tmp_path):
    config = tmp_path / "config" / "Ultralytics"
    config.mkdir(parents=True)
    (config / "Arial.ttf").write_bytes((Path(os.environ["YOLO_CONFIG_DIR"]) / "Ultralytics/Arial.ttf").read_bytes())
    pairs = [v for task, name in YAMLS.items() for v in (task, ROOT / "cfg" / name)]
    env = {"YOLO_CONFIG_DIR": str(config.parent)}
    settle = "import sys; from ultralytics import settings; settings.update({'datasets_dir': sys.argv[1]})"
    assert python(settle, tmp_path / "datasets", cwd=tmp_path, env=env).wait(120) == 0
    process = python(CHECK, *pairs, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "all good" in output and "corrupt" not in output.replace("0 corrupt", "")
    assert sorted(p.name for p in (tmp_path / "datasets").iterdir()) == sorted(shapes.FOLDERS.values())


def test_the_command_makes_a_dataset_and_prints_how_to_train_on_it(tmp_path, capsys):
    arguments = ["task=classify", f"dir={tmp_path / 'here'}", "train=8", "val=7", "size=40", "seed=3"]
    assert commands.main(["shapes", *arguments]) == 0
    assert f"yolo classify train data={tmp_path / 'here'}" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "here/val").iterdir()) == sorted(scene.KINDS)
    assert len(list((tmp_path / "here/train").rglob("*.png"))) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tusk=pose"], "Did you mean task"),
        (["task=poze"], "Did you mean pose"),
        (["train=many"], "train=many must be a whole number"),
        (["size=4000"], "size=4000 must be a whole number from 32 to 2048"),
        (["train"], "train needs a value"),
    ],
)
def test_a_wrong_argument_exits_with_2_and_suggests_a_valid_one(arguments, message, capsys):
    assert commands.main(["shapes", *arguments]) == 2
    assert message in capsys.readouterr().err
