"""Other Ultralytics releases: train, load, predict, export and the doctor, each in its own environment."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest
from jobs import run, tiny_dataset
from test_jobs import EXPORT, USE, image

pytestmark = pytest.mark.compat
ROOT = Path(__file__).resolve().parent.parent
RELEASES = ("8.3.200", "8.3.253", "8.4.60", "8.4.141", "")  # "" is the newest

TRAIN = """
import os, sys
from ultralytics import YOLO
YOLO(sys.argv[1]).train(data=sys.argv[2], imgsz=64, epochs=1, batch=4, workers=0, plots=False, project=os.getcwd())
"""

TORCHSCRIPT = """
import sys, torch
from ultralytics import YOLO
traced = torch.jit.load(YOLO(sys.argv[1]).export(format="torchscript", imgsz=64))
model = YOLO(sys.argv[1]).model.eval()
x = torch.rand(1, 3, 64, 64)
with torch.no_grad():
    torch.testing.assert_close(traced(x), model(x)[0], atol=1e-2, rtol=1e-3)
print("exported")
"""

PRETRAINED = """
import sys, torch
from ultralytics import YOLO
stock = YOLO("yolov8n.yaml")
stock.save("stock.pt")
stock = YOLO("stock.pt").model.float().eval()
ours = YOLO("yolov8n-sam.yaml").load("stock.pt").model.float().eval()
x = torch.rand(1, 3, 64, 96)
with torch.no_grad():
    assert torch.equal(ours(x)[0], stock(x)[0])
print("lossless")
"""

LEARNS = """
import os, sys
from ultralytics import YOLO
import yolo_attn
model, rates = YOLO("yolov8n-sam.yaml"), []
yolo_attn.transfer(model, "stock.pt")

def note(trainer):
    names = {id(p): k for k, p in trainer.model.named_parameters()}
    lr = {names[id(p)]: g["lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    rates.append(lr["model.5.bn.weight"] / lr["model.4.cv1.bn.weight"])

def stop(trainer):
    raise KeyboardInterrupt

model.add_callback("on_train_epoch_end", note)
model.add_callback("on_model_save", stop)
try:
    model.train(data=sys.argv[1], imgsz=64, epochs=2, batch=4, nbs=4, workers=0, plots=False, project=os.getcwd(),
                name="i")
except KeyboardInterrupt:
    resumed = YOLO("i/weights/last.pt")
    resumed.add_callback("on_train_epoch_end", note)
    resumed.train(resume=True)
assert len(rates) == 2 and all(abs(r - 10) < 1e-6 for r in rates), rates
assert len(open("i/gates.csv").read().splitlines()) == 3
print("learns")
"""


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: r or "newest")
def test_release(release: str, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=tmp_path)
    site = next(venv.glob("lib/python*/site-packages"))
    # The heavy packages come from this environment, as a plain path: its start-up files are not processed.
    (site / "zz_borrowed.pth").write_text(sysconfig.get_path("purelib"))
    python = venv / "bin" / "python"
    pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps")
    run(*pip, "-I", f"ultralytics=={release}" if release else "ultralytics", cwd=tmp_path)
    run(*pip, "--no-build-isolation", "-e", ROOT, cwd=tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    text = run(python, "-m", "yolo_attn", "doctor", cwd=work)
    assert text.rstrip().endswith("healthy") and (not release or f"ultralytics {release} at {site}" in text)
    data = tiny_dataset(tmp_path)
    text = run(python, "-c", TRAIN, "yolov8n-sam.yaml", data, cwd=work)
    assert ("SPPF without its first activation" in text) is (release == "8.4.60")
    best = next(work.rglob("best.pt"))
    assert "predicted" in run(python, "-c", USE, best, image(data), cwd=work)
    # 8.3.200 asks PyTorch 2.9 and later for the new ONNX exporter, without its dependency and at opset 9: stock models
    # fail there too, with ModuleNotFoundError for onnxscript.
    export = TORCHSCRIPT if release == "8.3.200" else EXPORT
    assert "exported" in run(python, "-c", export, best, cwd=work)
    assert "lossless" in run(python, "-c", PRETRAINED, cwd=work)
    assert "learns" in run(python, "-c", LEARNS, data, cwd=work)
