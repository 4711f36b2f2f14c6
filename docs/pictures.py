"""The diagrams of the papers' pages: the data flow of each block, with shapes, as plain SVG.

`python docs/make.py` writes them to docs/img. Without a drawing library, the files are the same on every machine.
"""

# ruff: noqa: RUF001

from __future__ import annotations

from collections.abc import Sequence
from html import escape

FILL = {"map": "#dbe9f9", "op": "#ffffff", "weight": "#fde3c4", "vector": "#dff0d8", "note": "none"}
LINE = {"map": "#3b6ea5", "op": "#666666", "weight": "#c07a1f", "vector": "#4a8a3a", "note": "none"}
HEADS = ("#7fb0e0", "#f2b36b", "#8fc97f", "#d79ac9")
Point = tuple[float, float]


class Box:
    """A rectangle on the canvas; arrows end at the midpoints of its sides."""

    def __init__(self, x: float, y: float, w: float, h: float) -> None:
        self.x, self.y, self.w, self.h = x, y, w, h
        self.left, self.right = (x, y + h / 2), (x + w, y + h / 2)
        self.top, self.bottom = (x + w / 2, y), (x + w / 2, y + h)


class Canvas:
    """SVG under construction.

    Args:
        width: Pixels.
        height: Pixels.
        title: What the picture shows, for readers who cannot see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            'role="img" font-family="Helvetica, Arial, DejaVu Sans, sans-serif">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0,0.5 L8,4 L0,7.5 z" fill="#444"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        ]

    def box(self, x: float, y: float, w: float, h: float, text: str = "", shape: str = "", kind: str = "op") -> Box:
        """A rounded box with lines of text in its middle and, smaller, a shape below them."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5" fill="{FILL[kind]}" stroke="{LINE[kind]}"/>'
        )
        lines = [(line, 13.0, "#111") for line in text.split("\n") if line]
        lines += [(line, 11.0, "#555") for line in shape.split("\n") if line]
        step = 16
        at = y + h / 2 - step * (len(lines) - 1) / 2
        for line, size, colour in lines:
            self.text(x + w / 2, at + size * 0.35, line, size, colour)
            at += step
        return Box(x, y, w, h)

    def text(
        self, x: float, y: float, text: str, size: float = 12, colour: str = "#333", anchor: str = "middle"
    ) -> None:
        """One line of text; (x, y) is on its base line."""
        style = f'font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>')

    def heading(self, x: float, y: float, text: str, colour: str = "#222") -> None:
        """A bold heading of a part of the diagram."""
        style = f'font-size="14" font-weight="bold" fill="{colour}"'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>')

    def arrow(self, *points: Point, tip: bool = True) -> None:
        """A line through the points, with an arrowhead at the last."""
        line = " ".join(f"{x:g},{y:g}" for x, y in points)
        end = ' marker-end="url(#tip)"' if tip else ""
        self.parts.append(f'<polyline points="{line}" fill="none" stroke="#444" stroke-width="1.3"{end}/>')

    def thread(self, start: Point, end: Point, colour: str) -> None:
        """A thin coloured line: one of many that go the same way."""
        ends = f'x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}"'
        self.parts.append(f'<line {ends} stroke="{colour}" stroke-width="1.2"/>')

    def sign(self, x: float, y: float, text: str) -> Box:
        """An operation between two maps: a circle with a sign."""
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="13" fill="#fff" stroke="#444"/>')
        self.text(x, y + 5.5, text, 16, "#111")
        return Box(x - 13, y - 13, 26, 26)

    def cells(self, x: float, y: float, rows: Sequence[str], side: float, colours: dict[str, str]) -> Box:
        """A grid of squares; each letter of a row selects a colour."""
        for i, row in enumerate(rows):
            for j, letter in enumerate(row):
                self.parts.append(
                    f'<rect x="{x + j * side:g}" y="{y + i * side:g}" width="{side:g}" height="{side:g}" '
                    f'fill="{colours[letter]}" stroke="#8a9bb0" stroke-width="0.6"/>'
                )
        return Box(x, y, side * len(rows[0]), side * len(rows))

    def frame(self, x: float, y: float, w: float, h: float, colour: str = "#222", width: float = 1.8) -> None:
        """An outline without filling."""
        style = f'fill="none" stroke="{colour}" stroke-width="{width:g}"'
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" {style}/>')

    def svg(self) -> str:
        """The whole file."""
        return "\n".join([*self.parts, "</svg>", ""])


def window(k: int, side: int) -> list[str]:
    """A side x side grid with a k x k window ("w") around its centre ("c")."""
    c, r = side // 2, k // 2
    return [
        "".join("c" if (i, j) == (c, c) else "w" if max(abs(i - c), abs(j - c)) <= r else "." for j in range(side))
        for i in range(side)
    ]


def smt() -> str:
    """Scale-aware modulation."""
    c = Canvas(860, 430, "Scale-aware modulation: values times factors that are made from context at several scales")
    x = c.box(16, 200, 66, 46, "x", "C × H × W", "map")
    v = c.box(112, 40, 84, 46, "v = Wᵥ x", "C × H × W", "map")
    s = c.box(112, 200, 84, 46, "s = Wₛ x", "C × H × W", "map")
    c.arrow(x.right, s.left)
    c.arrow((97, 223), (97, 63), v.left)
    c.heading(232, 108, "mixed convolution")
    c.arrow(s.right, (212, 223), tip=False)
    for i, colour in enumerate(HEADS):
        y, k = 122 + i * 74, 3 + 2 * i
        grid = c.cells(232, y, window(k, 9), 7, {"c": "#333", "w": colour, ".": "#fff"})
        head = c.box(308, y + 8, 104, 46, f"DWConv {k}×{k}", "C/h × H × W", "op")
        c.arrow((212, 223), (212, grid.left[1]), (grid.x - 1, grid.left[1]))
        c.arrow((grid.x + grid.w, grid.left[1]), head.left)
        for g in range(4):
            c.thread(head.right, (454, 146 + g * 62 + i * 12), colour)
    c.heading(454, 108, "scale-aware aggregation")
    for g in range(4):  # groups: one channel of every head
        for i, colour in enumerate(HEADS):
            c.cells(454, 140 + g * 62 + i * 12, ["."], 12, {".": colour})
        c.frame(454, 140 + g * 62, 12, 48)
    c.text(470, 418, "C/h groups: one channel of every head", 11, "#555")
    intra = c.box(500, 190, 76, 66, "W_intra\nBN, GELU", "r C × H × W")
    inter = c.box(594, 200, 66, 46, "W_inter", "C × H × W")
    for g in range(4):
        c.arrow((466, 164 + g * 62), (intra.x, 205 + g * 12))
    c.text(538, 275, "mixes the scales", 11, "#555")
    c.text(538, 289, "within a group", 11, "#555")
    c.text(627, 263, "mixes groups", 11, "#555")
    c.arrow(intra.right, inter.left)
    m = c.box(680, 200, 72, 46, "m", "C × H × W", "weight")
    c.arrow(inter.right, m.left)
    c.text(716, 263, "the modulator", 11, "#555")
    times = c.sign(716, 63, "×")
    c.arrow(m.top, times.bottom)
    c.arrow(v.right, times.left)
    proj = c.box(748, 40, 44, 46, "W")
    out = c.box(808, 40, 42, 46, "y", "", "map")
    c.text(829, 102, "C × H × W", 11, "#555")
    c.arrow(times.right, proj.left)
    c.arrow(proj.right, out.left)
    return c.svg()


def litv2() -> str:
    """HiLo attention."""
    c = Canvas(
        860, 400, "HiLo: some heads attend within small windows, the others to a map averaged over these windows"
    )
    tones = {"a": "#9cc3ec", "b": "#f4c28a", "c": "#a9d79b", "d": "#e2b1d5", "q": "#333333"}
    rows = ["aabbaabb", "aabbaabb", "ccddccdd", "ccddccdd"] * 2
    x = c.cells(20, 140, rows, 15, tones)
    for i in range(4):
        for j in range(4):
            c.frame(20 + 30 * j, 140 + 30 * i, 30, 30, width=1.4)
    c.text(80, 282, "x: C × H × W", 13, "#111")
    c.text(80, 300, "windows of s × s", 11, "#555")
    c.text(80, 316, "C = h d, h heads", 11, "#555")
    c.arrow((x.x + x.w + 4, 200), (160, 200), (160, 80), (186, 80))
    c.arrow((160, 200), (160, 336), (206, 336))

    c.heading(190, 24, "Hi-Fi: h − l heads, each window by itself", "#1f4e79")
    for i in range(2):
        for j in range(4):
            top, left = 42 + 44 * i, 192 + 42 * j
            tone = "abcd"[j] if i == 0 else "cdab"[j]
            c.cells(left, top, [tone + tone, "q" + tone if (i, j) == (0, 0) else tone + tone], 16, tones)
    c.text(192, 148, "a position (black) attends to the s² positions of its window", 11, "#555", "start")
    hi = c.box(420, 46, 186, 68, "softmax(q kᵀ / √d) v", "q, k, v: s² positions\nper window and head")
    c.arrow((364, 80), hi.left)
    hi_out = c.box(640, 57, 122, 46, "W", "(h − l) d × H × W")
    c.arrow(hi.right, hi_out.left)

    c.heading(190, 196, "Lo-Fi: l = α h heads, all positions attend to the pooled map", "#1f4e79")
    query = c.cells(192, 212, ["." * 8] * 3 + ["...q...."] + ["." * 8] * 4, 8, {".": "#eef3f9", "q": "#333333"})
    c.text(224, 292, "q: H W positions", 11, "#555")
    pooled = c.cells(208, 312, ["abab", "cdcd"] * 2, 12, tones)
    c.text(232, 378, "k, v: H W / s² averages", 11, "#555")
    lo = c.box(420, 286, 186, 68, "softmax(q kᵀ / √d) v", "q: H W, k, v: H W / s²\nnever stored as a matrix")
    c.arrow((query.x + query.w + 4, 244), (340, 244), (340, 308), (420, 308))
    c.arrow((pooled.x + pooled.w + 4, 336), (420, 336))
    c.arrow((160, 244), (190, 244))
    lo_out = c.box(640, 297, 122, 46, "W", "l d × H × W")
    c.arrow(lo.right, lo_out.left)

    c.cells(780, 140, ["."], 26, {".": "#dbe9f9"})
    c.parts.append('<rect x="780" y="140" width="26" height="60" fill="#9cc3ec" stroke="#3b6ea5"/>')
    c.parts.append('<rect x="780" y="200" width="26" height="60" fill="#dbe9f9" stroke="#3b6ea5"/>')
    c.arrow(hi_out.right, (793, 80), (793, 138))
    c.arrow(lo_out.right, (793, 320), (793, 262))
    c.text(816, 196, "y", 13, "#111", "start")
    c.text(816, 212, "C × H", 11, "#555", "start")
    c.text(816, 226, "× W", 11, "#555", "start")
    c.text(770, 196, "concatenated", 11, "#555", "end")
    c.text(770, 210, "by channels", 11, "#555", "end")
    return c.svg()


def sknet() -> str:
    """Selective Kernel."""
    c = Canvas(860, 370, "Selective Kernel: branches with different kernels, a softmax over them for every channel")
    x = c.box(16, 159, 66, 46, "x", "C × H × W", "map")
    c.heading(118, 28, "split")
    c.heading(372, 28, "fuse")
    c.heading(590, 28, "select")
    maps = []
    for i, k in enumerate((3, 5)):
        y = 60 + i * 196
        grid = c.cells(118, y - 1, window(k, 7), 7, {"c": "#333", "w": HEADS[i], ".": "#fff"})
        conv = c.box(182, y, 92, 48, f"Conv {k}×{k}", "BN, ReLU")
        f = c.box(292, y, 62, 48, f"f{'₁₂'[i]}", "C × H × W", "map")
        c.arrow(x.right, (100, 182), (100, grid.left[1]), (grid.x - 1, grid.left[1]))
        c.arrow(grid.right, conv.left)
        c.arrow(conv.right, f.left)
        maps.append(f)
    c.text(146, 180, "one branch for each", 11, "#555", "start")
    c.text(146, 194, "of the K kernel sizes", 11, "#555", "start")
    add = c.sign(323, 182, "+")
    c.arrow(maps[0].bottom, add.top)
    c.arrow(maps[1].top, add.bottom)
    s = c.box(372, 158, 78, 48, "s", "C × 1 × 1", "vector")
    c.arrow(add.right, s.left)
    c.text(411, 223, "mean over", 11, "#555")
    c.text(411, 237, "the map", 11, "#555")
    z = c.box(480, 158, 72, 48, "z", "D × 1 × 1", "vector")
    c.arrow(s.right, z.left)
    c.text(516, 223, "D = max(C / r, L)", 11, "#555")
    # The weights: for each channel two shares that make one.
    c.text(640, 132, "a", 13, "#111")
    for j, share in enumerate((34, 12, 26, 40, 20, 8, 30)):
        left = 598 + j * 12
        c.parts.append(f'<rect x="{left}" y="138" width="12" height="{share}" fill="{HEADS[0]}" stroke="#fff"/>')
        c.parts.append(
            f'<rect x="{left}" y="{138 + share}" width="12" height="{88 - share}" fill="{HEADS[1]}" stroke="#fff"/>'
        )
    c.frame(598, 138, 84, 88, "#c07a1f", 1.4)
    c.arrow(z.right, (596, 182))
    c.text(640, 242, "for every channel a", 11, "#555")
    c.text(640, 256, "softmax over kernels", 11, "#555")
    c.text(640, 270, "K × C × 1 × 1", 11, "#555")
    times = [c.sign(720, f.right[1], "×") for f in maps]
    c.arrow(maps[0].right, times[0].left)
    c.arrow(maps[1].right, times[1].left)
    c.arrow((682, 160), (720, 160), times[0].bottom)
    c.arrow((682, 204), (720, 204), times[1].top)
    total = c.sign(770, 182, "+")
    c.arrow(times[0].right, (770, times[0].right[1]), total.top)
    c.arrow(times[1].right, (770, times[1].right[1]), total.bottom)
    c.text(706, 149, "a₁", 12, "#111")
    c.text(706, 222, "a₂", 12, "#111")
    out = c.box(800, 158, 46, 48, "y", "", "map")
    c.text(823, 222, "C × H × W", 11, "#555")
    c.arrow(total.right, out.left)
    c.text(430, 350, "y = a₁ f₁ + a₂ f₂ + …, with a₁ + a₂ + … = 1 in every channel: the weights depend on the image.")
    return c.svg()


def cloformer() -> str:
    """AttnConv."""
    c = Canvas(
        860, 430, "AttnConv: local branches weigh values by their own context, a global branch attends to averages"
    )
    x = c.box(16, 192, 66, 46, "x", "C × H × W", "map")
    c.heading(120, 26, "local branch, one for each kernel size", "#1f4e79")
    qkv = c.box(120, 96, 70, 46, "q, k, v", "1×1 conv", "map")
    c.arrow(x.right, (100, 215), (100, 119), qkv.left)
    grid = c.cells(208, 92, window(5, 7), 8, {"c": "#333", "w": HEADS[1], ".": "#fff"})
    c.text(236, 164, "DWConv k×k", 11, "#555")
    c.text(236, 178, "gathers each", 11, "#555")
    c.text(236, 192, "neighbourhood", 11, "#555")
    c.arrow(qkv.right, (grid.x - 1, 119))
    outs = []
    for i, name in enumerate("qkv"):
        b = c.box(296, 50 + 52 * i, 52, 38, name, "", "map")
        c.arrow((264, 120), (280, 120), (280, b.left[1]), b.left)
        outs.append(b)
    dot = c.sign(378, 95, "×")
    c.arrow(outs[0].right, (378, 69), dot.top)
    c.arrow(outs[1].right, (378, 121), dot.bottom)
    amap = c.box(412, 66, 134, 58, "1×1, swish, 1×1", "AttnMap, then · 1/√d")
    c.arrow(dot.right, amap.left)
    w = c.box(572, 66, 84, 58, "w", "tanh: −1 … 1", "weight")
    c.arrow(amap.right, w.left)
    c.text(614, 54, "m × H × W: per position and channel", 11, "#555")
    times = c.sign(690, 173, "×")
    c.arrow(w.right, (690, 95), times.top)
    c.arrow(outs[2].right, times.left)
    c.text(500, 166, "m × H × W, the channels of the branch's heads", 11, "#555")

    c.heading(120, 236, "global branch", "#1f4e79")
    tones = {"a": "#9cc3ec", "b": "#f4c28a", "c": "#a9d79b", "d": "#e2b1d5"}
    q = c.box(120, 260, 70, 46, "q", "1×1 conv", "map")
    c.arrow((100, 215), (100, 283), q.left)
    fine = c.cells(120, 328, ["aabb", "aabb", "ccdd", "ccdd"], 15, tones)
    c.arrow((100, 283), (100, 358), (118, 358))
    coarse = c.cells(224, 343, ["ab", "cd"], 15, tones)
    c.arrow(fine.right, (222, 358))
    c.text(150, 404, "windows of s × s", 11, "#555")
    c.text(240, 404, "averages", 11, "#555")
    kv = c.box(290, 335, 70, 46, "k, v", "1×1 conv", "map")
    c.arrow(coarse.right, kv.left)
    att = c.box(420, 288, 190, 66, "softmax(q kᵀ / √d) v", "q: H W, k, v: H W / s²\nnever stored as a matrix")
    c.arrow(q.right, (392, 283), (392, 308), (420, 308))
    c.arrow(kv.right, (392, 358), (392, 336), (420, 336))
    join = c.box(722, 196, 26, 70, "", "", "map")
    c.arrow(times.right, (735, 173), join.top)
    c.arrow(att.right, (735, 321), join.bottom)
    c.text(712, 228, "concatenated", 11, "#555", "end")
    c.text(712, 242, "by channels", 11, "#555", "end")
    proj = c.box(762, 208, 36, 46, "1×1")
    y = c.box(814, 208, 36, 46, "y", "", "map")
    c.text(824, 272, "C × H × W", 11, "#555")
    c.arrow(join.right, proj.left)
    c.arrow(proj.right, y.left)
    return c.svg()


def acmix() -> str:
    """ACmix."""
    c = Canvas(860, 420, "ACmix: neighbourhood attention and a shift convolution, both made from the same projections")
    x = c.box(16, 182, 66, 46, "x", "C × H × W", "map")
    c.heading(16, 26, "stage I: projected once")
    c.heading(278, 26, "stage II: used twice")
    outs = []
    for i, name in enumerate("qkv"):
        b = c.box(120, 122 + 60 * i, 90, 46, f"{name} = W x", "C × H × W", "map")
        c.arrow(x.right, (98, 205), (98, b.left[1]), b.left)
        c.arrow(b.right, (232, b.right[1]), (232, 205), tip=False)
        outs.append(b)
    c.arrow((232, 205), (250, 205), (250, 104), (274, 104))
    c.arrow((250, 205), (250, 316), (274, 316))

    grid = c.cells(278, 60, window(7, 9), 10, {"c": "#333", "w": HEADS[0], ".": "#fff"})
    c.text(323, 166, "a position and its", 11, "#555")
    c.text(323, 180, "7 × 7 neighbours", 11, "#555")
    att = c.box(
        412, 68, 222, 74, "softmax(q (k − pe) / √D) v", "49 weights a cell and head\npe: learned code of position"
    )
    c.arrow((grid.x + grid.w + 2, 105), att.left)
    alpha = c.box(676, 82, 46, 46, "× α", "", "weight")
    c.arrow(att.right, alpha.left)

    fc = c.box(278, 293, 84, 46, "fc", "3h → 9 maps")
    c.text(320, 358, "shared by the", 11, "#555")
    c.text(320, 372, "C/h channels", 11, "#555")
    for i in range(9):  # the kernels: one at tap i, zero elsewhere
        r, k = divmod(i, 3)
        rows = ["".join("w" if (a, b) == (r, k) else "." for b in range(3)) for a in range(3)]
        c.cells(430 + 44 * k, 252 + 44 * r, rows, 11, {"w": HEADS[1], ".": "#fff"})
    c.arrow(fc.right, (426, 316))
    c.text(493, 396, "3×3 grouped convolution, initialised as", 11, "#555")
    c.text(493, 410, "the sum of nine shifts, then learned", 11, "#555")
    out = c.sign(604, 316, "Σ")
    c.arrow((556, 316), out.left)
    beta = c.box(676, 293, 46, 46, "× β", "", "weight")
    c.arrow(out.right, beta.left)

    add = c.sign(760, 205, "+")
    c.arrow(alpha.right, (760, 105), add.top)
    c.arrow(beta.right, (760, 316), add.bottom)
    y = c.box(792, 182, 56, 46, "y", "", "map")
    c.text(820, 245, "C × H × W", 11, "#555")
    c.arrow(add.right, y.left)
    c.text(699, 205, "α, β: learned,", 11, "#555")
    c.text(699, 219, "initially 0.5", 11, "#555")
    return c.svg()


PICTURES = {"smt": smt, "litv2": litv2, "sknet": sknet, "cloformer": cloformer, "acmix": acmix}
