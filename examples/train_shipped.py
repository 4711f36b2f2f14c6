"""Train a shipped model on the built-in dataset, look at its score, and export it."""

import sys

from ultralytics import YOLO  # nothing of yolo_attn needs importing

epochs, imgsz = (int(x) for x in (sys.argv[1:3] or (40, 160)))
model = YOLO("yolov8n-sam.yaml")
model.train(data="shapes.yaml", epochs=epochs, imgsz=imgsz, batch=16, workers=2, plots=False)
print("mAP50", round(model.val(data="shapes.yaml", imgsz=imgsz, plots=False).box.map50, 3))
print("exported to", model.export(format="onnx", imgsz=imgsz))
