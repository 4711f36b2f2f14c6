"""`block_lr`: the factor on the learning rate of new blocks.

A residual row starts as the identity: the gain of its last BatchNorm is zero. In a fine-tuning at the learning rate of
the pretrained layers that gain hardly moves, and the model stays what it was without the block. Blocks that replace a
row start with random weights in the path of the signal, and fall behind the layers around them. Block parameters that
start new among pretrained layers therefore get parameter groups of their own (measurements: docs/fine-tuning.md):

    lr of a new group = block_lr x lr of the group that Ultralytics put the parameter into

Everything else of the group (momentum, weight decay, its part in the warm-up) is copied, and the schedule multiplies
each group's initial rate, so the factor holds from the first step to the last. The groups are appended: Ultralytics'
own keep their indices. (Releases up to 8.3.253 recognise the bias group by its index 0. There the biases of new blocks
warm up from zero, like all other parameters, instead of from `warmup_bias_lr`.)

The factor is the first of these that is given:

    1. `yolo_attn.block_lr(3)`, or the environment variable YOLO_ATTN_BLOCK_LR=3, which child processes inherit
    2. the top-level key `block_lr` of the model's YAML
    3. `DEFAULT`
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from torch import nn, optim

from ..weights import new_parameters
from ..yamls.learning_rate import KEY, VARIABLE, checked

DEFAULT = 10.0
_CHOICE = "yolo_attn_block_lr"  # attribute of a trainer
Choice = tuple[float, tuple[str, ...]]  # factor, names of the parameters that it applies to


def block_lr(factor: float | None = None) -> None:
    """Set the factor on the learning rate of new blocks, for this process and those that it starts.

    Args:
        factor: A positive number; 1 trains new blocks like all other layers. None leaves the choice to the model's YAML
            again.

    Raises:
        UsageError: The factor is not a positive finite number.
    """
    if factor is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = str(checked(factor, KEY))


def factor_of(model: nn.Module) -> float:
    """The factor that a training of `model` uses.

    Raises:
        UsageError: The environment variable or the YAML's key is not a positive finite number.
    """
    if os.environ.get(VARIABLE, "").strip():
        return checked(os.environ[VARIABLE], VARIABLE)
    yaml: Any = getattr(model, "yaml", None)
    if isinstance(yaml, dict) and yaml.get(KEY) is not None:
        return checked(yaml[KEY], f"{KEY} in {yaml.get('yaml_file') or 'the model YAML'}")
    return DEFAULT


def split_groups(optimizer: optim.Optimizer, parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Move parameters to groups of their own, with `factor` times the learning rate of the groups they come from.

    Args:
        optimizer: Has no state yet.
        parameters: What to move.
        factor: On the learning rate.
    """
    chosen = {id(p) for p in parameters}
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in chosen]
        if moved:
            group["params"] = [p for p in group["params"] if id(p) not in chosen]
            rates: dict[str, Any] = {k: group[k] * factor for k in ("lr", "initial_lr") if k in group}
            optimizer.add_param_group({**group, **rates, "params": moved})


def apply(trainer: Any, model: nn.Module, optimizer: optim.Optimizer) -> None:
    """Give the new block parameters of a model that is about to be trained their learning rate.

    Stock models, a factor of 1 and trainings from scratch leave the optimizer untouched. A resumed training repeats
    the choice that its checkpoint records.

    Args:
        trainer: Ultralytics' trainer.
        model: What it trains, wrapped or not.
        optimizer: What it just built for it.

    Raises:
        UsageError: The factor that the user gave is not a positive finite number.
    """
    from ultralytics.utils import LOGGER

    net = unwrapped(model)
    if not new_parameters.block_parameters(net):
        return
    # Some releases build the optimizer again when a batch does not fit into memory; the choice stays.
    choice = trainer.__dict__.get(_CHOICE)
    if choice is None:
        choice = trainer.__dict__[_CHOICE] = _resumed(trainer, net) if trainer.resume else _choose(net)
        new_parameters.record_choice(net, *choice)
        if ema := getattr(trainer, "ema", None):  # up to 8.3.253 the model is copied first; checkpoints hold the copy
            new_parameters.record_choice(unwrapped(ema.ema), *choice)
    factor, names = choice
    if factor == 1 or not names:
        return
    parameters = dict(net.named_parameters())
    split_groups(optimizer, [parameters[name] for name in names if name in parameters], factor)
    LOGGER.info(
        f"yolo_attn: {len(names)} parameters of new blocks train at {factor:g} times the learning rate "
        f"(block_lr: docs/fine-tuning.md)"
    )


def unwrapped(model: Any) -> Any:
    """The model inside wrappers of DDP, compilation and distillation; a teacher's blocks are not trained."""
    from ultralytics.utils.torch_utils import unwrap_model

    net = unwrap_model(model)
    return getattr(net, "student_model", net)


def chosen(trainer: Any) -> Choice:
    """Factor and parameter names that `apply` chose for a trainer; (1, ()) before that."""
    return trainer.__dict__.get(_CHOICE, (1.0, ()))


def _choose(net: nn.Module) -> Choice:
    """Factor and parameters of a new training."""
    from ultralytics.utils import LOGGER

    factor, names = factor_of(net), new_parameters.recorded(net) or ()
    if names:
        return factor, names
    if os.environ.get(VARIABLE, "").strip():
        LOGGER.info(f"yolo_attn: block_lr={factor:g} does not apply: no block here is new among pretrained layers")
    return 1.0, ()


def _resumed(trainer: Any, net: nn.Module) -> Choice:
    """Factor and parameters of the training that is resumed; the state of its optimizer fits no other groups."""
    earlier = new_parameters.choice(net)
    if earlier is None:  # up to 8.4.60 a resumed run fills the model from `pretrained=` again
        from ultralytics.nn.tasks import torch_safe_load

        checkpoint, _ = torch_safe_load(str(trainer.args.model))
        earlier = new_parameters.choice(checkpoint.get("ema") or checkpoint["model"])
    return (float(earlier["block_lr"]), tuple(earlier["names"])) if earlier else (1.0, ())
