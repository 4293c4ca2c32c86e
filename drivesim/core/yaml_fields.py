"""YAML read by hand-written schemas: every complaint names file, line, field and the valid choices."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was most likely meant to be; None = nothing is close."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return found[0] if found else None


@dataclass(kw_only=True, slots=True)
class Field:
    """One value of a YAML file, with the place where it stands. Reads raise ValueError with that place."""

    file: str  # as shown to the person
    path: str  # such as boxes[1].class; empty = the whole file
    node: yaml.Node

    @classmethod
    def from_file(cls, path: Path) -> Field:
        """The whole of a YAML file.

        Raises:
            ValueError: it is no text, no YAML, or empty.
            OSError: it cannot be opened.
        """
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a text file") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ValueError(f"{path}:{line}: not valid YAML: {error.problem}") from error
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not valid YAML: {error}") from error
        if node is None:
            raise ValueError(f"{path}:1: the file is empty")
        return cls(file=str(path), path="", node=node)

    def error(self, message: str) -> ValueError:
        """The complaint about this value, to be raised."""
        where = f"{self.path}: " if self.path else ""
        return ValueError(f"{self.file}:{self.node.start_mark.line + 1}: {where}{message}")

    def mapping(self, valid: Sequence[str], required: Sequence[str] = ()) -> dict[str, Field]:
        """The fields of a mapping; a key outside `valid`, a repeated or a missing one is refused."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"expected a mapping with the keys {', '.join(valid)}")
        fields: dict[str, Field] = {}
        for key_node, value_node in self.node.value:
            name = str(key_node.value)
            path = f"{self.path}.{name}" if self.path else name
            # A complaint about a key points at the key's own line, not at its value's.
            key = Field(file=self.file, path=path, node=key_node)
            if name not in valid:
                guess = nearest(name, valid)
                hint = f"; did you mean '{guess}'?" if guess else ""
                raise key.error(f"unknown key '{name}'{hint} valid: {', '.join(valid)}".replace("' valid", "'; valid"))
            if name in fields:
                raise key.error("the key stands there twice")
            fields[name] = Field(file=self.file, path=path, node=value_node)
        for name in required:
            if name not in fields:
                raise self.error(f"the key '{name}' is missing; required: {', '.join(required)}")
        return fields

    def items(self) -> list[Field]:
        """The members of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error("expected a list")
        return [
            Field(file=self.file, path=f"{self.path}[{index}]", node=node) for index, node in enumerate(self.node.value)
        ]

    def text(self) -> str:
        """A scalar as written."""
        if not isinstance(self.node, yaml.ScalarNode) or not self.node.value:
            raise self.error("expected a word")
        return str(self.node.value)

    def choice(self, valid: Sequence[str], kind: str) -> str:
        """One word of `valid`; `kind` is what the message calls it."""
        word = self.text()
        if word not in valid:
            raise self.error(f"unknown {kind} '{word}'; valid: {', '.join(valid)}")
        return word

    def number(self) -> float:
        """A finite number."""
        value = self._scalar()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.error(f"expected a number, not {self._shown()}")
        return float(value)

    def count(self) -> int:
        """A whole number, zero or more."""
        value = self._scalar()
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(f"expected a whole number of zero or more, not {self._shown()}")
        return value

    def numbers(self, names: Sequence[str]) -> list[float]:
        """A list of numbers, one for each name, such as left, top, right, bottom."""
        if not isinstance(self.node, yaml.SequenceNode) or len(self.node.value) != len(names):
            raise self.error(f"expected {len(names)} numbers: [{', '.join(names)}]")
        return [item.number() for item in self.items()]

    def _scalar(self) -> object:
        if not isinstance(self.node, yaml.ScalarNode):
            return None
        try:
            return yaml.safe_load(yaml.serialize(self.node))
        except (yaml.YAMLError, ValueError) as error:  # a tag that is not YAML's own, or a date that is none
            raise self.error(f"cannot be read as a value: {self._shown()}") from error

    def _shown(self) -> str:
        return f"'{self.node.value}'" if isinstance(self.node, yaml.ScalarNode) else f"a {self.node.id}"
