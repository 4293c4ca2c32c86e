"""Whether the values of a model's index are what their keys stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Key of the shift and scale of the latents that the networks were trained on; models of before there was one lack it.
LATENT_SCALE = "latent_scale"

Rule = tuple[str, Callable[[Any], bool]]  # what is expected, and whether a value is


def check_facts(path: Path, index: dict[str, Any]) -> None:
    """Raises ValueError for a value of another kind than its key's, naming file, key and what is expected.

    Args:
        path: of the index.
        index: its keys and values.
    """
    for key, rule in _RULES.items():
        if key in index:
            _check(path, key, index[key], rule)
    for key, rules in _INSIDE.items():
        if key not in index:
            continue
        facts = index[key]
        if not isinstance(facts, dict):
            raise ValueError(f"{path}: {key} is {facts!r}; expected keys and values")
        missing = sorted(set(rules) - set(facts))
        if missing:
            raise ValueError(f"{path.parent}: {key} in {path.name}: missing keys {', '.join(missing)}")
        for name, rule in rules.items():
            _check(path, f"{key}.{name}", facts[name], rule)


def _check(path: Path, key: str, value: Any, rule: Rule) -> None:
    expected, is_right = rule
    if not is_right(value):
        raise ValueError(f"{path}: {key} is {value!r}; expected {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are(rule: Callable[[Any], bool], values: Any, length: int | None = None) -> bool:
    return isinstance(values, list) and len(values) == (length or max(1, len(values))) and all(map(rule, values))


def _is_above_0(value: Any) -> bool:
    return _is_number(value) and value > 0


_ABOVE_0: Rule = ("a number above 0", _is_above_0)
_COUNT: Rule = ("a whole number above 0", _is_count)
_FROM_0: Rule = ("a whole number of 0 or more", lambda value: _is_count(value, 0))
_RULES: dict[str, Rule] = {
    "fps": _ABOVE_0,
    "size_hw": ("[height, width] in pixels", lambda value: _are(_is_count, value, 2)),
    "num_given": _COUNT,
    "rates": ("a list of frames a second, one a pass", lambda value: _are(_is_above_0, value)),
    LATENT_SCALE: (
        "[shift, scale] of the latents, the scale above 0",
        lambda value: _are(_is_number, value, 2) and value[1] > 0,
    ),
}
_INSIDE: dict[str, dict[str, Rule]] = {
    "video_decoder": {"fps": _ABOVE_0},
    "upsampler": {
        "scale": _COUNT,
        "patch_px": _COUNT,
        "detail_gain": ("a number above 0 or null", lambda value: value is None or _is_above_0(value)),
        "noise_level": _FROM_0,
    },
    "upsampler_temporal": {"portion": _COUNT, "overlap": _FROM_0},
}
