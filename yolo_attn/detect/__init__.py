"""`yolo-attn bench detect`: does a block help? Several seeds, the stock model, and a stock model of the same cost.

    yolo-attn bench detect models=yolov8n,yolov8n-sam,hilo@neck data=shapes.yaml seeds=5 epochs=30 imgsz=320

A *cell* is one entry of the table model x dataset x seed. Its *run*, a training and a validation, has a process of its
own. Results are files in one folder, so the same command resumes after any interruption. `docs/detect.md` explains how
to read the report.

    arguments, models, controls, data   the command line becomes a plan
    plan, power, planning               models, datasets, the identity of every cell; how many seeds it needs
    run, executors                      the driver, and where runs take place: this machine, or a Ray cluster
    work, cell, resplit                 one run: the process that watches it, the one that trains, the split of a seed
    store, status, durations            the results folder: written and watched; remaining times
    results, curves, sizes, overall     the results folder: read; average precision of sizes; several datasets
    costs, places                       latency; the table of `bench places`
"""
