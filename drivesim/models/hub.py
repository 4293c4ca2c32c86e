"""Where a checkpoint that a user names lies: a folder, a file, or a hub id through diffusers' cache."""

from __future__ import annotations

import re
from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_CONFIGS = ["*.json", "*.txt"]


def find_source(source: str | Path, *, has_weights: bool = True) -> Path:
    """The folder or file of a checkpoint; a hub id is downloaded once, without pickles.

    Args:
        source: a folder, a file or a hub id.
        has_weights: whether weights are needed; False = of a hub id configs and tokenizer alone are downloaded.

    Raises:
        FileNotFoundError: nothing is there by that name, or the hub cannot be reached; says how to give a folder.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not is_hub_id(source):
        raise FileNotFoundError(f"{source}: no such folder or file, and no hub id (OWNER/NAME)")
    try:
        return Path(
            _downloaded(str(source)) if has_weights else snapshot_download(str(source), allow_patterns=_CONFIGS)
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{source}: no such folder or file here, and as a hub id it cannot be had: "
            f"{_first_cause(error)}. Give a folder that holds a copy of the checkpoint in its place"
        ) from error


def is_hub_id(source: str | Path) -> bool:
    """Whether what is not here may be a checkpoint of the hub, OWNER/NAME, and no mistake in a path of here."""
    return _HUB_ID.fullmatch(str(source)) is not None and not Path(source).expanduser().parent.is_dir()


def _first_cause(error: BaseException) -> str:
    """What went wrong to begin with, in a line: the hub's libraries wrap it in advice on their own settings."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".")


def _downloaded(hub_id: str) -> str:
    unused = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    folder: str = DiffusionPipeline.download(hub_id, use_safetensors=True, **unused)
    return folder
