"""Values from YAML files are held to type annotations; a misfit says what was expected and what to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Optional

import pytest

from yolo_attn.values import fit, fits, literal

FITTING = [
    (4, int),
    (4, float),
    (0.5, float),
    (True, bool),
    ("map", str),
    (None, Optional[int]),  # noqa: UP045 - the older spelling, too
    (None, int | None),
    ([3, 5], list[int]),
    ([3, 5], Sequence[int]),
    ((3, 5), list[int]),
    ([], list[int]),
    ([2, 2], tuple[int, int]),
    ([1, 2, 3], tuple[int, ...]),
    (7, int | tuple[int, int]),
    (["avg"], Sequence[str]),
    ({"heads": 4}, Mapping[str, Any]),
    ({"P4": {"heads": 4}}, Mapping[str, Mapping[str, Any]]),
    ("a", Literal["a", "b"]),
    (4, Annotated[int, "heads"]),
    (object(), Any),
    ("anything", "a name that nothing resolves"),
]

MISFITS = [
    ("4", int, "must be an integer, not the string '4'. Write 4 without quotes."),
    (4.0, int, "must be an integer, not 4.0. Write 4."),
    (4.5, int, "must be an integer, not 4.5."),
    (True, int, "must be an integer, not True."),
    (None, int, "must be an integer, not None."),
    ([4], int, "must be an integer, not [4]. Write 4."),
    ({"a": 1}, int, "must be an integer, not {'a': 1}."),
    ("1e-1", float, "not the string '1e-1'. Write 0.1: without a decimal point, YAML takes 1e-1 for a string."),
    (float("nan"), float, "must be a number, not nan."),
    (float("inf"), float, "must be a number, not inf."),
    (1, bool, "must be true or false, not 1. Write true."),
    ("true", bool, "not the string 'true'. Write true without quotes."),
    (5, str, "must be a string, not 5. Write '5' in quotes."),
    (3, list[int], "must be a list of integers, not 3. Write [3]."),
    (["3"], list[int], "must be a list of integers, not ['3']."),
    ("3", Sequence[int], "must be a list of integers, not the string '3'."),
    ([1, 2, 3], tuple[int, int], "must be a list of 2 integers, not [1, 2, 3]."),
    ("x", int | None, "must be an integer or None, not the string 'x'."),
    ("null", int | None, "Write null without quotes."),
    ("c", Literal["a", "b"], "must be one of 'a', 'b', not the string 'c'."),
    (["a"], Mapping[str, str], "must be a mapping, not ['a']."),
    ({1: "a"}, Mapping[str, str], "must be a mapping, not {1: 'a'}."),
]


@pytest.mark.parametrize(("value", "annotation"), FITTING)
def test_a_value_that_fits_is_returned(value: object, annotation: object) -> None:
    assert fits(value, annotation) and fit(value, annotation) is value


@pytest.mark.parametrize(("value", "annotation", "message"), MISFITS)
def test_a_misfit_says_what_was_expected_and_what_to_write(value: object, annotation: object, message: str) -> None:
    with pytest.raises(ValueError) as error:
        fit(value, annotation)
    assert message in str(error.value)


def test_the_string_none_is_none_where_none_fits() -> None:
    assert fit("None", int | None) is None
    assert fit("None", str | None) == "None"
    with pytest.raises(ValueError, match="must be an integer"):
        fit("None", int)


@pytest.mark.parametrize("text", ["map", "7x7", "a b", "(", "[" * 500, "__import__('os')"])
def test_a_string_that_spells_no_constant_stays_a_string(text: str) -> None:
    assert literal(text) == text
