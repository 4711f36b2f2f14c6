"""What a model detects, with the position of the head that says so, and gradients back to any row.

Ultralytics' heads return decoded, ranked boxes, in a form that differs between releases. Here the maps that enter the
head pass through its own box and class convolutions once more, which keeps the position and the gradient of each
detection. Oriented boxes are used without their angle.

Shapes  H W height and width of a level's map, c classes, r bins per side of a box
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .watching import head_inputs

#: Candidates of a level before the suppression, and the overlap above which the lower score is dropped.
CANDIDATES, OVERLAP = 300, 0.7
Box = tuple[float, float, float, float]


class Detection(NamedTuple):
    """One detected object.

    Attributes:
        level: Index of the head's input that it comes from.
        row: Position in that map.
        column: Position in that map.
        cls: Class.
        score: 0 to 1.
        box: Left, top, right and bottom in pixels of the model's input, within it.
    """

    level: int
    row: int
    column: int
    cls: int
    score: float
    box: Box


class Evidence(NamedTuple):
    """A level's predictions.

    Attributes:
        logits_cHW: One logit per class and position.
        sides_4HW: Distances from the position to left, top, right and bottom, in steps of the map.
    """

    logits_cHW: Tensor
    sides_4HW: Tensor


def missing_boxes(net: Any) -> str:
    """Why a model has no boxes to look at; "" where it has."""
    from ultralytics.nn.modules import Detect

    head = net.model[-1]
    if not isinstance(head, Detect) or not hasattr(head, "dfl") or hasattr(head, "savpe") or hasattr(head, "cv4_text"):
        return f"its head, {type(head).__name__}, predicts no boxes"
    return ""


def evidence(head: Any, maps: list[Tensor]) -> list[Evidence]:
    """The predictions of a detection head from its inputs.

    Args:
        head: `net.model[-1]`.
        maps: The inputs of one image, (1, C, H, W) each.
    """
    one2one = getattr(head, "end2end", False)
    box_convs, class_convs = (head.one2one_cv2, head.one2one_cv3) if one2one else (head.cv2, head.cv3)
    found = []
    for x_1CHW, box_conv, class_conv in zip(maps, box_convs, class_convs, strict=True):
        sides_NHW = box_conv(x_1CHW)[0]
        if head.reg_max > 1:
            bins_r = torch.arange(head.reg_max, device=sides_NHW.device, dtype=sides_NHW.dtype)
            sides_NHW = torch.einsum("srhw,r->shw", sides_NHW.unflatten(0, (4, head.reg_max)).softmax(1), bins_r)
        found.append(Evidence(class_conv(x_1CHW)[0], sides_NHW))
    return found


def detect(net: Any, x_1CHW: Tensor, conf: float = 0.25, limit: int = 50) -> list[Detection]:
    """The objects that a model detects in one image, best first, after non-maximum suppression.

    Args:
        net: The model, in evaluation mode.
        x_1CHW: The image.
        conf: Least score.
        limit: Most objects.

    Returns:
        Nothing for models without boxes, such as classifiers.
    """
    if missing_boxes(net):
        return []
    with torch.no_grad():
        levels = evidence(net.model[-1], head_inputs(net, x_1CHW))
    found = []
    height, width = x_1CHW.shape[2:]
    for level, (logits_cHW, sides_4HW) in enumerate(levels):
        stride = x_1CHW.shape[-1] / logits_cHW.shape[-1]
        scores_HW, classes_HW = (z.cpu() for z in logits_cHW.sigmoid().max(0))
        at_N2 = (scores_HW >= conf).nonzero()
        at_N2 = at_N2[scores_HW[tuple(at_N2.T)].argsort(descending=True)[:CANDIDATES]]
        for (i, j), sides in zip(at_N2.tolist(), sides_4HW.cpu()[:, at_N2[:, 0], at_N2[:, 1]].T.tolist(), strict=True):
            left, top, right, bottom = (stride * side for side in sides)
            x, y = stride * (j + 0.5), stride * (i + 0.5)
            box = (max(x - left, 0.0), max(y - top, 0.0), min(x + right, width), min(y + bottom, height))
            found.append(Detection(level, i, j, int(classes_HW[i, j]), float(scores_HW[i, j]), box))
    return suppressed(found)[:limit]


def suppressed(found: list[Detection]) -> list[Detection]:
    """Non-maximum suppression by class, best first."""
    from ultralytics.utils.nms import TorchNMS

    if not found:
        return []
    columns = zip(*((d.box, d.score, d.cls) for d in found), strict=True)
    boxes_N4, scores_N, classes_N = (torch.tensor(x, dtype=torch.float32) for x in columns)
    apart_N4 = boxes_N4 + classes_N[:, None] * (boxes_N4.max() + 1)  # boxes of different classes do not overlap
    return [found[i] for i in TorchNMS.nms(apart_N4, scores_N, OVERLAP)]


def positions_in(boxes: list[Detection], map_size: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """Which positions of a map have their centre in a box, booleans.

    Args:
        boxes: The boxes.
        map_size: Height and width of the map.
        size: Height and width of the model's input, in pixels.
    """
    height, width = map_size
    y_H1 = (torch.arange(height)[:, None] + 0.5) * size[0] / height
    x_1W = (torch.arange(width)[None] + 0.5) * size[1] / width
    mask_HW = torch.zeros(height, width, dtype=torch.bool)
    for d in boxes:
        left, top, right, bottom = d.box
        mask_HW |= (x_1W >= left) & (x_1W < right) & (y_H1 >= top) & (y_H1 < bottom)
    return mask_HW


def energy_inside(map_HW: Tensor, boxes: list[Detection], size: tuple[int, int]) -> float:
    """Share of a map's sum that lies in boxes; the map is not negative, and its positions divide the input evenly."""
    mask_HW = positions_in(boxes, tuple(map_HW.shape), size).to(map_HW.device)
    return float(map_HW[mask_HW].sum() / map_HW.sum())
