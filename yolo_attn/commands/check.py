"""`yolo-attn check`: does a block keep what Ultralytics needs, from batch one to checkpoints?"""

from __future__ import annotations

import contextlib
import json as json_format
import sys
from collections import Counter

from ..errors import UsageError
from .parser import SWITCH, Argument, Command


def run(target: str, json: bool, fix: bool) -> int:
    """Print the report; 0 if no check failed, 1 otherwise."""
    from .. import checks
    from ..checks import targets

    report, failed = [], 0
    shown = sys.stderr if json else sys.stdout  # Ultralytics prints to standard output
    with contextlib.redirect_stdout(shown), targets.opened(target, fix) as subjects:
        if fix and not subjects[0].registration:
            raise UsageError("fix=1: nothing to write; the block is registered.")
        for subject in subjects:
            results = []
            if not json:
                print(f"{subject.block.name} ({subject.block.origin})")
            for result in checks.examine(subject, checks.CHECKS):
                results.append(result)
                if not json:
                    print("\n".join(_lines(result, subject.registration)), flush=True)
            failed += sum(r.state == "failed" for r in results)
            if not json:
                states = Counter(r.state for r in results)
                print(f"\n{', '.join(f'{n} {state}' for state, n in states.items())}")
            report.append({"block": subject.block.name, "results": [r.as_dict for r in results]})
    if fix:
        print(f"wrote {targets.registration_file(targets.split(target)[0])}", file=sys.stderr)
    if json:
        print(json_format.dumps({"target": target, "passed": not failed, "blocks": report}, indent=1))
    return 1 if failed else 0


def _lines(result: object, registration: str) -> list[str]:
    """A result as lines of the table."""
    from ..checks import Result

    assert isinstance(result, Result)
    lines = [f"  {result.state:<8}{result.check:<14}{result.title}"]
    indent = " " * 10
    if result.message:
        lines.append(f"{indent}{result.message}")
    if result.where:
        lines.append(f"{indent}at {result.where}")
    if result.why:
        lines += [f"{indent}why: {result.why}", f"{indent}-> {result.remedy}"]
    if result.check == "registered" and result.state == "failed":
        lines += ["", *(f"{indent}    {line}".rstrip() for line in registration.splitlines()), ""]
    return lines


COMMAND = Command(
    "check",
    "Check a block: sizes, precisions, copies, export, all scales, a checkpoint in a fresh process, and its cost.",
    run,
    Argument(
        "target",
        "my_blocks.py:MyBlock, the name of a row, or a model YAML",
        required=True,
        positional=True,
    ),
    Argument("json", "1 prints the results as JSON", SWITCH, default=False),
    Argument(
        "fix", "1 writes my_blocks_registered.py, which makes the class a row of model YAMLs", SWITCH, default=False
    ),
    notes="The class may come from anywhere: a constructor with other names than c1 gets an adapter of three lines.\n\n"
    "Exit code 1: a check failed. A slow block passes.",
)
