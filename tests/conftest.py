"""Hermetic settings: no network, no user settings, no autoinstall; set before Ultralytics is imported anywhere."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_home = Path(tempfile.mkdtemp(prefix="yolo-attn-tests-"))
os.environ.update(
    YOLO_OFFLINE="true",
    YOLO_AUTOINSTALL="false",
    YOLO_CONFIG_DIR=str(_home),
    MPLCONFIGDIR=str(_home),
    YOLO_VERBOSE="false",
)
os.environ.setdefault("OMP_NUM_THREADS", "2")


def _interpret_triton() -> None:
    """Triton reads this when it is imported: its kernels then run on the CPU."""
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


_interpret_triton()


def _place_font() -> None:
    """Ultralytics looks its label font up online unless a file of that name exists."""
    import matplotlib

    target = _home / "Ultralytics" / "Arial.ttf"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", target)


def _settle_folders() -> None:
    """By default Ultralytics puts data and runs beside the checkout that its environment lies in."""
    from ultralytics import settings

    settings.update({k: str(_home / k) for k in ("datasets_dir", "runs_dir", "weights_dir")})


_place_font()
_settle_folders()


def pytest_sessionfinish() -> None:
    """Leave nothing behind."""
    shutil.rmtree(_home, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The YAML of a dataset of a dozen images; tests do not change it."""
    from jobs import tiny_dataset

    return tiny_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium that records requests and messages of the console."""
    from chromium import started

    yield from started(tmp_path_factory.mktemp("profile"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Ultralytics' logger does not propagate; let pytest see it."""
    monkeypatch.setattr(logging.getLogger("ultralytics"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="ultralytics")
    return caplog
