"""Thousands of random mistakes in model YAMLs: nearly all are refused with a message, none with a raw error."""

from __future__ import annotations

import pytest
import row_mutations

from yolo_attn import RegistryError


def report(left: list) -> str:
    return "\n".join(f"{kind}: {case.changes}: {type(e).__name__}: {e}" for case, kind, e in left)


def test_the_same_seed_gives_the_same_models() -> None:
    first, again, other = (list(row_mutations.cases(50, seed)) for seed in (1, 1, 2))
    assert [c.changes for c in first] == [c.changes for c in again] != [c.changes for c in other]


@pytest.mark.parametrize("name", ["SAM", "C2fHiLoAttn", "AFF", "CloFormerMaps", "Level", "DTM"])
def test_the_base_models_build(name: str) -> None:
    case = row_mutations.Case(row_mutations.base(row_mutations.registry.require(name)), set(), [])
    assert row_mutations.outcome(case) == ("built", None)


def test_a_raw_error_counts_as_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is worth something: without the checks of types most mutations end in raw errors."""
    monkeypatch.setattr("yolo_attn.rows.options.fit", lambda value, annotation: value)
    counted, left = row_mutations.count(150, seed=3)
    assert counted["raw"] > 15 and any(isinstance(e, RegistryError) is False or e.__cause__ for _, _, e in left)


def test_a_sample_of_mistakes_is_refused_or_builds() -> None:
    counted, left = row_mutations.count(200, seed=4)
    assert counted["raw"] <= 2 and counted["elsewhere"] == 0, report(left)
    assert counted["refused"] > 100 and counted["built"] > 5


@pytest.mark.slow
def test_at_most_one_percent_of_3000_mistakes_ends_in_a_raw_error() -> None:
    counted, left = row_mutations.count(3000, seed=0)
    assert counted["raw"] <= 30 and counted["elsewhere"] == 0, report(left)
