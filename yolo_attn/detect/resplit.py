"""A split of its own for every seed, the same for all models: training and validation images, drawn again.

With one split, a verdict is about these validation images; with a split for each seed, it is about images like them.
The sizes of both parts stay those of the dataset.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np


def split_of_seed(files: Mapping[str, list[str]], seed: int) -> dict[str, list[str]]:
    """Files of train and val, drawn without replacement from both together; paths decide nothing but the order."""
    root = os.path.commonpath([os.path.dirname(f) for part in files.values() for f in part])
    every = sorted({f for part in files.values() for f in part}, key=lambda f: os.path.relpath(f, root))
    drawn = [every[i] for i in np.random.default_rng(seed).permutation(len(every))]
    return {"train": drawn[: len(files["train"])], "val": drawn[len(files["train"]) :]}


def write_split(data: str, seed: int, folder: Path) -> dict[str, str]:
    """Write the lists of images of a seed.

    Args:
        data: A dataset's YAML.
        seed: Of the run.
        folder: Where the lists go.

    Returns:
        train and val: the paths of the lists, for a dataset's YAML.
    """
    from ultralytics.data.base import BaseDataset
    from ultralytics.data.utils import check_det_dataset

    d = check_det_dataset(data)
    reader: Any = SimpleNamespace(fraction=1.0, prefix="")
    files = {part: BaseDataset.get_img_files(reader, d[part]) for part in ("train", "val")}
    lists = {}
    for part, chosen in split_of_seed(files, seed).items():
        path = folder / f"{part}.txt"
        path.write_text("".join(f"{Path(f).resolve().as_posix()}\n" for f in chosen), encoding="utf-8")
        lists[part] = str(path)
    return lists


def without_label_caches() -> None:
    """Read labels without Ultralytics' cache files in this process.

    A cache belongs to a folder of labels and holds one list of images: runs of other seeds would overwrite it.
    """
    from ultralytics.data import dataset

    def no_cache(path: Path) -> Any:
        raise FileNotFoundError(path)

    def not_saved(prefix: str, path: Path, cache: dict[str, Any], version: str) -> None:
        cache["version"] = version  # the reader of the labels removes it again

    vars(dataset).update(load_dataset_cache_file=no_cache, save_dataset_cache_file=not_saved)
