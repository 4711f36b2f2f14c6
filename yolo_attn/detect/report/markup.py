"""Markup that cannot be broken by what is put into it: text is escaped unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

VOID = frozenset(("br", "image", "img", "meta", "rect", "use", "circle", "path", "line", "polygon"))


class Html(str):
    """Markup."""

    __slots__ = ()


def text(value: Any) -> Html:
    """A value as markup; None is nothing."""
    if isinstance(value, Html):
        return value
    return Html("" if value is None else html.escape(str(value)))


def join(parts: Iterable[Any], between: str = "") -> Html:
    """Parts one after the other."""
    return Html(text(between).join(text(p) for p in parts))


def el(name: str, *children: Any, **attributes: Any) -> Html:
    """An element.

    Args:
        name: Its tag.
        children: Text, which is escaped, or markup.
        attributes: Underlines at the end are dropped, others become hyphens; None and False leave an attribute out.
    """
    words = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(f" {key}" if value is True else f' {key}="{html.escape(str(value))}"')
    opening = f"{name}{''.join(words)}"
    if name in VOID and not children:
        return Html(f"<{opening}/>")
    return Html(f"<{opening}>{join(children)}</{name}>")
