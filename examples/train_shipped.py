"""Train a shipped model on the built-in dataset, validate it, and export it.

python train_shipped.py [epochs imgsz data]
"""

import sys

from ultralytics import YOLO  # yolo_attn needs no import

if __name__ == "__main__":
    epochs, imgsz, data = sys.argv[1:] or ("24", "160", "shapes.yaml")
    model = YOLO("yolov8n-sam.yaml")
    model.train(data=data, epochs=int(epochs), imgsz=int(imgsz), batch=8, nbs=8, mosaic=0, plots=False)
    print("mAP50", round(model.val(data=data, imgsz=int(imgsz), plots=False).box.map50, 3))
    print("exported to", model.export(format="onnx", imgsz=int(imgsz)))
