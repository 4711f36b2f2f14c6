"""Models as expressions: options, several blocks, sweeps, and what a malformed one is told."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_attn.commands.bench_detect import DETECT, PLACES
from yolo_attn.detect import models, places
from yolo_attn.errors import UsageError
from yolo_attn.yamls import Generated, ModelError, expression
from yolo_attn.yamls.expression import Insertion, build, expand, is_expression, parse, read_models, split

PLAIN = st.text("abcP345=.", min_size=1, max_size=4)
NESTED = st.recursive(
    PLAIN,
    lambda inner: st.tuples(st.sampled_from(["()", "[]", "{}"]), st.lists(inner, min_size=1, max_size=3)).map(
        lambda made: made[0][0] + ",".join(made[1]) + made[0][1]
    ),
)


@given(st.lists(NESTED, min_size=1, max_size=4))
def test_a_list_splits_at_the_commas_that_no_bracket_encloses(parts: list[str]) -> None:
    assert split(",".join(parts)) == parts


@given(st.lists(st.lists(PLAIN, min_size=2, max_size=3), max_size=3))
def test_sweeps_combine_to_the_product_of_their_alternatives(sweeps: list[list[str]]) -> None:
    text = "-".join("{" + ",".join(sweep) + "}" for sweep in sweeps)
    assert expand(text) == ["-".join(choice) for choice in itertools.product(*sweeps)]


def test_an_expression_is_read_into_its_insertions() -> None:
    assert parse("sk(kernels=[3,5], groups=8)@P4+backbone.P5&timm:se@neck@csp") == [
        Insertion("sk", {"kernels": [3, 5], "groups": 8}, "P4,backbone.P5", None),
        Insertion("timm:se", {}, "neck", "csp"),
    ]
    assert parse("fla(position=null,resize=sequence)@P4")[0].options == {"position": None, "resize": "sequence"}
    assert parse("mlca(local_weight=1e-1)@after:9")[0].options == {"local_weight": 0.1}


def test_blocks_are_inserted_from_left_to_right(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def insert(base: object, *arguments: object, **options: object) -> Generated:
        calls.append((base, *arguments, options))
        return Generated({}, str(len(calls)), {}, [])

    monkeypatch.setattr(expression, "build_yaml", insert)
    assert expression.build("yolov8", "sk(kernels=[3,5])@P4&cbam@P5@csp").text == "2"
    first = ("yolov8", "sk", "P4", None, None, {"kernels": [3, 5]})
    assert calls == [first, (Generated({}, "1", {}, []), "cbam", "P5", None, "csp", {})]


def test_the_models_of_a_benchmark_carry_their_options_in_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "cost", lambda *_: (0, 0.0))
    entries = DETECT.parse(["models=yolov8n,sk(groups={8,16})@neck,sk@P4&cbam@P5", "data=shapes.yaml"])["models"]
    assert entries == ("yolov8n", "sk(groups=8)@neck", "sk(groups=16)@neck", "sk@P4&cbam@P5")
    found = models.read_models(entries, models.stock_of(entries), models.Size(64))
    assert [m.name for m in found] == ["yolov8n", *(f"yolov8n-{entry}" for entry in entries[1:])]
    groups = [row[3][-1]["groups"] for m in found[1:3] for row in m.d["head"] if row[2] == "SK"]
    assert groups == [8] * 3 + [16] * 3


def test_bench_places_takes_the_options_of_its_block() -> None:
    assert PLACES.parse(["block=sk(groups=8)", "data=shapes.yaml"])["block"] == "sk(groups=8)"
    found = places.places_of("sk(groups=8)", "yolov8n", ("P5",), ("row",))
    assert found == ["sk(groups=8)@backbone.P5@row", "sk(groups=8)@neck.P5@row", "sk(groups=8)@P5@row"]


@pytest.mark.parametrize("text", ["yolov8n-sam", "my/model.yaml", "runs/a(1)/me@home/m.yaml"])
def test_names_and_files_are_no_expressions(text: str) -> None:
    assert not is_expression(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sk(groups=8@neck", "'(' without its closing ')'"),
        ("sk)@neck", "')' without its opening bracket"),
        ("sk([8)]@neck", "')' where ']' is expected"),
        ("sk(groups={8})@neck", "the sweep {8} needs two or more alternatives"),
        ("sk(groups={8,})@neck", "the sweep {8,} needs two or more alternatives"),
        ("{a,b,c,d,e}{a,b,c,d,e}{a,b,c,d,e}@P4", "means 125 models, over 100"),
        ("sk@P4,,cbam@P4", "has an empty name between its commas"),
        ("sk(groups={8,8})@P4", "names 'sk(groups=8)@P4' twice"),
    ],
)
def test_a_malformed_list_of_models_is_refused_before_anything_is_built(text: str, says: str) -> None:
    with pytest.raises(UsageError) as e:
        DETECT.parse([f"models={text}", "data=shapes.yaml"])
    assert f"models={text} " in str(e.value) and says in str(e.value)
    with pytest.raises(ValueError):
        read_models(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sk(groups=8)", "sk(groups=8) has no place; write sk(groups=8)@neck"),
        ("sk@P4&cbam", "cbam has no place; write cbam@neck"),
        ("sk@P4&", "nothing is no insertion"),
        ("@P4", "@P4 is no insertion"),
        ("sk@@csp", "sk@@csp is no insertion"),
        ("sk@P4@csp@x", "sk@P4@csp@x is no insertion"),
        ("sk(groups=8)x@P4", "sk(groups=8)x@P4 is no insertion"),
        ("sk(groups)@P4", "sk(groups): groups is not option=value; write sk(groups=8)@neck"),
        ("sk(place=P4)@P4", "place is no option of a block"),
        ("sk(groups=8,groups=4)@P4", "gives groups twice"),
        ("sk(kernels=[3)@P4", "has ')' where ']' is expected"),
        ("sk(heads=4)@P4", "SKAttention has no option 'heads'. Its options: kernels="),
        ("skk@P4", "block=skk: no such block. Did you mean"),
        ("sk@P9", "place=P9: no such place"),
    ],
)
def test_a_wrong_expression_names_the_value_the_reason_and_the_remedy(text: str, says: str) -> None:
    with pytest.raises(ModelError) as e:
        build("yolov8", text)
    assert says in str(e.value)
