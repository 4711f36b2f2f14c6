"""What every registered block promises (`yolo_attn.registry.PROMISES`), held against every registered block.

A block that declares an exception must really fail there: an exception that no longer holds is a failing test.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modules import BLOCKS, CHANNELS, build, inputs, run

from yolo_attn import registry


def promise(name: str):
    """Parametrise over blocks; a declared exception turns the test round."""

    def decorate(check):
        def test(block: registry.Block) -> None:
            if name not in block.exceptions:
                check(block)
                return
            try:
                check(block)
            except Exception:
                return
            pytest.fail(
                f"{block.name} declares an exception to {name!r} ({block.exceptions[name]}) but keeps the promise"
            )

        test.__name__ = check.__name__
        test.__doc__ = check.__doc__
        return pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)(test)

    return decorate


@promise("any_size")
def test_any_shape_in_right_shape_out(block: registry.Block) -> None:
    module = build(block).eval()

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(b=st.integers(1, 3), h=st.integers(1, 23), w=st.integers(1, 23))
    def check(b: int, h: int, w: int) -> None:
        with torch.no_grad():
            y = run(block, module, inputs(block, b, h, w))
        assert y.shape == (b, CHANNELS, -(-h // block.stride), -(-w // block.stride))
        assert y.isfinite().all()

    check()
    for h, w in ((38, 30), (19, 15), (3, 8), (1, 1)):
        with torch.no_grad():
            y = run(block, module, inputs(block, 1, h, w))
        assert y.shape[2:] == (-(-h // block.stride), -(-w // block.stride)) and y.isfinite().all()


@promise("single_image")
def test_one_image_trains(block: registry.Block) -> None:
    module = build(block).train()
    for h, w in ((1, 1), (7, 5)):
        xs = [x.requires_grad_() for x in inputs(block, 1, h, w)]
        run(block, module, xs).square().mean().backward()
        assert all(x.grad is not None and x.grad.isfinite().all() for x in xs)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_every_parameter_gets_a_gradient(block: registry.Block) -> None:
    module = build(block).train()
    run(block, module, inputs(block, 2, 12, 14)).square().mean().backward()
    dead = [k for k, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not dead


@promise("independent")
def test_eval_does_not_mix_images(block: registry.Block) -> None:
    module = build(block).eval()
    xs = inputs(block, 3, 9, 11)
    with torch.no_grad():
        together = run(block, module, xs)
        alone = torch.cat([run(block, module, [x[i : i + 1] for x in xs]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


@promise("half")
def test_half_precision_is_finite_at_scale_100(block: registry.Block) -> None:
    module = build(block).eval()
    xs = inputs(block, 2, 10, 12, scale=100.0)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        assert run(block, module, xs).isfinite().all()
    with torch.no_grad():
        y = run(block, copy.deepcopy(module).half(), [x.half() for x in xs])
    assert y.dtype == torch.float16 and y.isfinite().all()


@promise("bfloat16")
def test_bfloat16_autocast_is_finite_and_trains(block: registry.Block) -> None:
    module = build(block).train()
    xs = inputs(block, 2, 10, 12, scale=100.0)
    with torch.autocast("cpu", torch.bfloat16):
        y = run(block, module, xs)
    assert y.isfinite().all()
    y.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


@promise("deepcopy")
def test_deepcopy_and_pickle_after_a_forward(block: registry.Block) -> None:
    module = build(block).train()
    run(block, module, inputs(block, 2, 9, 10)).mean().backward()
    module.eval()
    xs = inputs(block, 1, 8, 6)
    with torch.no_grad():
        want = run(block, module, xs)
        assert torch.equal(run(block, copy.deepcopy(module), xs), want)
        assert torch.equal(run(block, pickle.loads(pickle.dumps(module)), xs), want)


class _Flat(torch.nn.Module):
    """Tracing and export want tensors, not lists, as arguments."""

    def __init__(self, block: registry.Block, module: torch.nn.Module) -> None:
        super().__init__()
        self.module, self.block = module, block

    def forward(self, *xs: torch.Tensor) -> torch.Tensor:
        return run(self.block, self.module, list(xs))


OTHER_SIZES = ((10, 14), (7, 9), (16, 16), (5, 3))


@promise("trace")
def test_trace_is_right_at_other_sizes(block: registry.Block) -> None:
    module = _Flat(block, build(block)).eval()
    traced = torch.jit.trace(module, tuple(inputs(block, 1, 8, 12)), check_trace=False)
    for h, w in OTHER_SIZES:
        xs = inputs(block, 2, h, w)
        with torch.no_grad():
            torch.testing.assert_close(traced(*xs), module(*xs), atol=2e-5, rtol=1e-4)


@promise("onnx")
def test_onnx_is_right_at_other_sizes(block: registry.Block) -> None:
    import onnxruntime as ort

    module = _Flat(block, build(block)).eval()
    xs = inputs(block, 1, 8, 12)
    names = [f"x{i}" for i in range(len(xs))]
    file = io.BytesIO()
    torch.onnx.export(
        module,
        tuple(xs),
        file,
        opset_version=17,
        dynamo=False,
        input_names=names,
        output_names=["y"],
        dynamic_axes={k: {0: "b", 2: "h", 3: "w"} for k in [*names, "y"]},
    )
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for h, w in OTHER_SIZES:
        xs = inputs(block, 2, h, w)
        (got,) = session.run(None, {k: x.numpy() for k, x in zip(names, xs, strict=True)})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(got), module(*xs), atol=5e-5, rtol=1e-3)


@promise("compile")
def test_compile_sees_one_graph(block: registry.Block) -> None:
    torch._dynamo.reset()
    module = build(block).eval()
    # The eager back end checks capture without a graph break; it does not need a C++ compiler.
    compiled = torch.compile(_Flat(block, module), backend="eager", fullgraph=True)
    for h, w in ((8, 12), (7, 9)):
        xs = inputs(block, 1, h, w)
        with torch.no_grad():
            torch.testing.assert_close(compiled(*xs), run(block, module, xs), atol=2e-5, rtol=1e-4)


@promise("channels_last")
def test_channels_last_gives_equal_numbers(block: registry.Block) -> None:
    module = build(block).eval()
    xs = inputs(block, 2, 9, 12)
    with torch.no_grad():
        want = run(block, module, xs)
        got = run(
            block,
            copy.deepcopy(module).to(memory_format=torch.channels_last),
            [x.contiguous(memory_format=torch.channels_last) for x in xs],
        )
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


@promise("meta")
def test_meta_device_builds_and_runs(block: registry.Block) -> None:
    with torch.device("meta"):
        module = build(block).eval()
        xs = [torch.empty(1, CHANNELS, 8, 8) for _ in range(2 if block.many else 1)]
        y = run(block, module, xs)
    assert y.is_meta and y.shape[:2] == (1, CHANNELS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_watched_submodules_exist(block: registry.Block) -> None:
    submodules = dict(build(block).named_modules())
    assert set(block.watch) <= set(submodules)
