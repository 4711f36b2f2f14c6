#!/usr/bin/env bash
# What the five blocks do for mAP at scale n: stock, cost-matched stock and 5 seeds, on two datasets, from weights and from
# scratch. About two hours on two cores; the same command goes on where an earlier one ended.
#
#   benchmarks/audit/run.sh data/bccd-mini/data.yaml data/weights/yolov8n.pt FOLDER
#
# bccd-mini is 40 + 20 pictures of the BCCD dataset (blood cells, 3 classes); shapes.yaml draws itself. The numbers of epochs
# are what two cores finish in that time, and were chosen with the stock model alone.
set -euo pipefail
bccd=$1 weights=$2 out=$3
models=yolov8n,yolov8n-sam,yolov8n-hilo,yolov8n-sk,yolov8n-attnconv,yolov8n-acmix
same="models=$models seeds=5 batch=4 nbs=4 mosaic=0 jobs=2 threads=1 device=cpu"
detect="yolo-attn bench detect"

$detect $same data="$bccd" imgsz=320 epochs=6 pretrained="$weights" out="$out/bccd-mini-pretrained"
$detect $same data="$bccd" imgsz=320 epochs=14 out="$out/bccd-mini-scratch"
$detect $same data=shapes.yaml imgsz=160 epochs=4 fraction=0.5 pretrained="$weights" out="$out/shapes-pretrained"
$detect $same data=shapes.yaml imgsz=160 epochs=7 fraction=0.5 optimizer=AdamW lr0=0.003 out="$out/shapes-scratch"

# The published reports hold no pictures of datasets that are not ours.
for run in bccd-mini-pretrained bccd-mini-scratch; do yolo-attn bench report "$out/$run" samples=0; done
