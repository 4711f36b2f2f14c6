"""Draw the predictions of a trained model on the built-in dataset, for the README.

    yolo train model=yolov8n-sam.yaml pretrained=yolov8n.pt data=shapes.yaml imgsz=160 epochs=12 batch=8
    python docs/predictions.py runs/detect/train/weights/best.pt

Writes docs/img/predictions.jpg: the first eight validation images with their predicted boxes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset

COLUMNS, IMAGES, SIDE = 4, 8, 320


def main(weights: str) -> None:
    """Predict, tile and write.

    Args:
        weights: Path of a trained detection model.
    """
    folder = Path(check_det_dataset("shapes.yaml")["val"])
    tiles = []
    for path in sorted(folder.glob("*.png"))[:IMAGES]:
        image = cv2.resize(cv2.imread(str(path)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        result = YOLO(weights).predict(image, imgsz=160, conf=0.4, verbose=False)[0]
        tiles.append(result.plot(line_width=2, font_size=11))
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, IMAGES, COLUMNS)]
    out = Path(__file__).parent / "img" / "predictions.jpg"
    cv2.imwrite(str(out), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/predictions.py WEIGHTS.pt")
    main(sys.argv[1])
