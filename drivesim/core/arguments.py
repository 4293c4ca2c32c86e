"""What people type behind a command, where Hydra's grammar would not take it as it is meant."""

from __future__ import annotations

import re
from collections.abc import Sequence

PROSE = ("prompt", "negative_prompt")  # keys whose values are sentences


def compare_key(arguments: Sequence[str]) -> list[str]:
    """The arguments of `evaluate` with `--compare A B` as the key that it stands for; Hydra would refuse the flag.

    Raises:
        ValueError: fewer than two folders behind it.
    """
    if "--compare" not in arguments:
        return list(arguments)
    at = arguments.index("--compare")
    folders = [text for text in arguments[at + 1 : at + 3] if not text.startswith("-")]
    if len(folders) < 2:
        raise ValueError("--compare takes two folders of earlier evaluations: drivesim evaluate --compare A B")
    quoted = [text.replace("\\", "\\\\").replace("'", "\\'") for text in folders]
    return [*arguments[:at], "compare=['{}','{}']".format(*quoted), *arguments[at + 3 :]]


def quoted_prose(argument: str) -> str:
    """A prompt as Hydra takes it: commas, colons and apostrophes in it are no grammar. What is quoted stays."""
    key, _, value = argument.partition("=")
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if key not in PROSE or value in ("", "null") or is_quoted or value.startswith("${"):
        return argument
    # Hydra reads backslashes as escapes right before a quote alone.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"{key}='{escaped}'"
