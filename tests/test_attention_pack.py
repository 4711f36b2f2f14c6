"""The example of a block pack: found by its entry point, equal to the papers' formulas, held to every promise."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from jobs import python, run
from torch.nn import functional as F

from yolo_attn import checks, registry
from yolo_attn.commands import list_blocks
from yolo_attn.yamls.request import find_block

PACK = Path(__file__).resolve().parents[1] / "examples" / "attention_pack"
ROWS = ("SimAMRow", "EMARow", "GAMRow")
OPERATORS = ("SimAM", "EfficientMultiScaleAttention", "GlobalAttentionMechanism")
#: Compiling takes seconds a block.
PROMISES = [pytest.param(c, marks=[pytest.mark.slow] * (c.name == "compile"), id=c.name) for c in checks.CONTRACT]


def entry_points() -> str:
    """The entry points of the pack's pyproject.toml, as an installed package has them."""
    (section,) = re.findall(
        r'^\[project\.entry-points\."yolo_attn\.blocks"\]\n(.*?)\n\n',
        (PACK / "pyproject.toml").read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    return "[yolo_attn.blocks]\n" + section.replace('"', "") + "\n"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The pack, registered because its metadata lie on the path, as if pip had installed it."""
    site = tmp_path_factory.mktemp("site")
    info = site / "attention_pack-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: attention-pack\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(entry_points())
    registry.load_builtins()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PACK)
        patch.syspath_prepend(site)
        patch.setattr(registry, "_blocks", dict(registry._blocks))
        patch.setattr(registry, "_loaded", False)
        registry.load_builtins()
        yield sys.modules["attention_pack"]
    for name in [name for name in sys.modules if name.startswith("attention_pack")]:
        del sys.modules[name]


def test_the_list_and_the_commands_know_the_blocks(pack: ModuleType) -> None:
    listed = {entry.rows[0]: entry.operator.name for entry in list_blocks.entries()}
    assert [listed[row] for row in ROWS] == list(OPERATORS)
    assert [find_block(name)[0].name for name in ("simam", "ema", "gam")] == list(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("check", PROMISES)
def test_the_blocks_keep_every_promise(pack: ModuleType, check: checks.Check, name: str) -> None:
    block = registry.require(name)
    declared = pytest.raises((checks.CheckFailed, RuntimeError, ValueError))
    with declared if check.name in block.exceptions else contextlib.nullcontext():
        check.run(checks.Subject(block))


@pytest.mark.parametrize("row", ROWS)
def test_a_row_leaves_its_input_unchanged_before_training(pack: ModuleType, row: str) -> None:
    x = torch.randn(2, 16, 5, 4)
    assert torch.equal(registry.require(row).cls(16).eval()(x), x)


def test_simam_minimises_the_energy_of_the_paper(pack: ModuleType) -> None:
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    want = torch.empty_like(x)
    for c in range(2):
        values = x[0, c].flatten()
        mean, variance = values.mean(), values.var(unbiased=False)
        energy = 4 * (variance + 1e-4) / ((x[0, c] - mean) ** 2 + 2 * variance + 2e-4)  # equation 5
        want[0, c] = x[0, c] * torch.sigmoid(1 / energy)
    torch.testing.assert_close(pack.SimAM(2)(x), want, atol=1e-6, rtol=1e-6)


def test_ema_weighs_each_group_by_both_scales(pack: ModuleType) -> None:
    ema = pack.EfficientMultiScaleAttention(12, groups=3).double()
    x = torch.randn(2, 12, 5, 3, dtype=torch.float64)
    want = []
    for g in x.split(4, 1):
        matrix = ema.conv1x1.weight[:, :, 0, 0]
        rows = torch.einsum("dc,bch->bdh", matrix, g.mean(3)) + ema.conv1x1.bias[:, None]
        columns = torch.einsum("dc,bcw->bdw", matrix, g.mean(2)) + ema.conv1x1.bias[:, None]
        wide = g * torch.sigmoid(rows)[..., None] * torch.sigmoid(columns)[:, :, None]
        wide = F.instance_norm(wide, eps=1e-5)  # one group per channel, with a new layer's scale and shift
        near = F.conv2d(g, ema.conv3x3.weight, ema.conv3x3.bias, padding=1)
        weights = [torch.softmax(scale.mean((2, 3)), 1) for scale in (wide, near)]
        attended = torch.einsum("bc,bchw->bhw", weights[0], near) + torch.einsum("bc,bchw->bhw", weights[1], wide)
        want.append(g * torch.sigmoid(attended)[:, None])
    torch.testing.assert_close(ema(x), torch.cat(want, 1))


def test_gam_gates_channels_at_every_position_and_then_positions(pack: ModuleType) -> None:
    gam = pack.GlobalAttentionMechanism(8, reduction=2).double().eval()
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    first, second = gam.channels[0], gam.channels[2]
    hidden = F.linear(x.permute(0, 2, 3, 1), first.weight[:, :, 0, 0], first.bias).relu()
    gated = x * torch.sigmoid(F.linear(hidden, second.weight[:, :, 0, 0], second.bias)).permute(0, 3, 1, 2)
    conv1, conv2 = gam.positions[0], gam.positions[3]
    scale = (1 + 1e-5) ** -0.5  # of a new BatchNorm
    hidden = (F.conv2d(gated, conv1.weight, conv1.bias, padding=3) * scale).relu()
    want = gated * torch.sigmoid(F.conv2d(hidden, conv2.weight, conv2.bias, padding=3) * scale)
    torch.testing.assert_close(gam(x), want)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("SimAM", {"regularisation": 0.0}, "regularisation=0.0 must be above 0"),
        ("EfficientMultiScaleAttention", {"groups": 5}, "c1=16 must be a multiple of groups=5"),
        ("GlobalAttentionMechanism", {"reduction": 17}, "reduction=17 must be from 1 to c1=16"),
    ],
)
def test_an_invalid_option_is_refused_with_its_value(pack: ModuleType, name: str, options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        getattr(pack, name)(16, **options)


@pytest.mark.slow
def test_the_installed_package_is_known_in_a_fresh_process(tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", site, PACK)
    run(*pip, cwd=tmp_path)
    code = "import yolo_attn; print(*(b.name for b in yolo_attn.list_blocks()))"
    assert set(ROWS) <= set(python(code, cwd=tmp_path, PYTHONPATH=str(site)).split())
