"""What a dataclass's source says of its fields: the comments behind them, which help on the command line shows."""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from enum import Enum
from functools import cache


@cache
def field_comments(of: type) -> dict[str, str]:
    """Comments by field, behind or above it, of a dataclass and its parents; choices of enums are added.

    Args:
        of: a dataclass whose source is there.
    """
    found: dict[str, str] = {}
    for parent in reversed(of.__mro__[:-1]):
        found |= _own_comments(parent)
    hints = typing.get_type_hints(of)
    for name, hint in hints.items():
        kinds = [kind for kind in (hint, *typing.get_args(hint)) if isinstance(kind, type) and issubclass(kind, Enum)]
        if kinds:
            choices = ", ".join(member.name for member in kinds[0])
            found[name] = "; ".join(filter(None, [found.get(name), f"one of {choices}"]))
    return found


def _own_comments(of: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(of))
    lines = source.splitlines()
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement in definition.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert statement.end_lineno is not None and statement.end_col_offset is not None
            behind = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode().strip()
            if not behind.startswith("# ") or behind.startswith("# type:"):
                behind = _above(lines, statement.lineno - 1)
            if behind:
                found[statement.target.id] = behind.removeprefix("# ")
    return found


def _above(lines: list[str], index: int) -> str:
    """The comment that ends in the line before this one, as one line; empty = none."""
    first = index
    while first > 0 and lines[first - 1].strip().startswith("# "):
        first -= 1
    return " ".join(line.strip().removeprefix("# ") for line in lines[first:index])
