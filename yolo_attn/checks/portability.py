"""Checks of what leaves the process: copies, checkpoints, traces, exported files, other devices."""

from __future__ import annotations

import copy
import io
import pickle

import torch
from torch import Tensor, nn

from ..registry import Block
from .check import Check, NotChecked, blame, require
from .forward import equal
from .subject import CHANNELS, Subject, build, inputs, run

OTHER_SIZES = ((10, 14), (7, 9), (16, 16), (5, 3))


class _Flat(nn.Module):
    """Tracing and export need tensors, not lists, as arguments."""

    def __init__(self, block: Block, module: nn.Module) -> None:
        super().__init__()
        self.module, self.block = module, block

    def forward(self, *xs: Tensor) -> Tensor:
        return run(self.block, self.module, list(xs))


def _deepcopy(s: Subject) -> None:
    module = build(s.block).train()
    run(s.block, module, inputs(s.block, 2, 9, 10, grad=True)).mean().backward()
    try:
        copies = {"deepcopy": copy.deepcopy(module), "pickle": pickle.loads(pickle.dumps(module))}
    except Exception as e:
        raise blame(e, module) from None
    xs = inputs(s.block, 1, 8, 6)
    with torch.no_grad():
        want = run(s.block, module.eval(), xs)
        for way, copied in copies.items():
            require(torch.equal(run(s.block, copied.eval(), xs), want), f"{way} changes the results")


def _trace(s: Subject) -> None:
    module = _Flat(s.block, build(s.block)).eval()
    traced = torch.jit.trace(module, tuple(inputs(s.block, 1, 8, 12)), check_trace=False)
    for h, w in OTHER_SIZES:
        xs = inputs(s.block, 2, h, w)
        with torch.no_grad():
            equal(traced(*xs), module(*xs), f"a trace of 8x12 at {h}x{w}")


def _onnx(s: Subject) -> None:
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise NotChecked('needs ONNX Runtime: pip install "yolo-attn[export]"') from e
    module = _Flat(s.block, build(s.block)).eval()
    xs = inputs(s.block, 1, 8, 12)
    names = [f"x{i}" for i in range(len(xs))]
    file = io.BytesIO()
    torch.onnx.export(
        module,
        tuple(xs),
        file,  # type: ignore[arg-type]
        opset_version=17,
        dynamo=False,
        input_names=names,
        output_names=["y"],
        dynamic_axes={k: {0: "b", 2: "h", 3: "w"} for k in [*names, "y"]},
    )
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for h, w in OTHER_SIZES:
        xs = inputs(s.block, 2, h, w)
        (got,) = session.run(None, {k: x.numpy() for k, x in zip(names, xs, strict=True)})
        with torch.no_grad():
            equal(torch.from_numpy(got), module(*xs), f"ONNX at {h}x{w}", atol=5e-5, rtol=1e-3)


def _compile(s: Subject) -> None:
    torch._dynamo.reset()
    module = build(s.block).eval()
    # The eager back end checks capture without a graph break; it does not need a C++ compiler.
    compiled = torch.compile(_Flat(s.block, module), backend="eager", fullgraph=True)
    for h, w in ((8, 12), (7, 9)):
        xs = inputs(s.block, 1, h, w)
        with torch.no_grad():
            equal(compiled(*xs), run(s.block, module, xs), f"torch.compile at {h}x{w}")


def _meta(s: Subject) -> None:
    with torch.device("meta"):
        module = build(s.block).eval()
        xs = [torch.empty(1, CHANNELS, 8, 8) for _ in range(2 if s.block.many else 1)]
        y = run(s.block, module, xs)
    require(y.is_meta and y.shape[:2] == (1, CHANNELS), f"the output is {tuple(y.shape)} on {y.device}")


DEEPCOPY = Check(
    "deepcopy",
    "deepcopy and pickle after a forward pass",
    "The EMA of the weights deep-copies the model before epoch 1, and every checkpoint pickles it.",
    "Keep no result of forward on self: return it, or read it with a hook. Replace lambdas and local functions by "
    "methods or nn.Module.",
    _deepcopy,
)
TRACE = Check(
    "trace",
    "a TorchScript trace is correct at other sizes",
    "A trace keeps Python numbers as constants, so the exported file is wrong at other image sizes, without an error.",
    "Compute sizes from x.shape at every call, without int(), float() or .item(), and do not branch on values.",
    _trace,
)
ONNX = Check(
    "onnx",
    "an ONNX file with dynamic axes is correct at other sizes",
    "`yolo export format=onnx dynamic=True` writes a file that fails or is wrong at other sizes.",
    "As for trace; avoid operators that ONNX opset 17 lacks, such as adaptive pooling to variable sizes.",
    _onnx,
)
COMPILE = Check(
    "compile",
    "torch.compile without a graph break",
    "compile=True falls back to slow Python code at every graph break.",
    "Do not print, call .item() or numpy, or branch on values in forward.",
    _compile,
)
META = Check(
    "meta",
    "builds and runs on the meta device",
    "Tools that measure a model without memory build it there.",
    "Create tensors with the device of x or of a parameter, and do not read values in the constructor.",
    _meta,
)
