"""Headers of weight files are read before weights, and tell safetensors from pickles by more than a first byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drivesim.models.stored_weights import stored_shapes


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    """Lengths are multiples of 8: one file of 32 begins with byte 0x80."""
    path = tmp_path / "weights.safetensors"
    for length in range(0, 256, 8):
        save_file({"a": torch.zeros(2, 3)}, path, metadata={"padding": "x" * length})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert stored_shapes(path, "here") == {"a": (2, 3)}


def test_a_pickle_is_named_whatever_its_name(tmp_path: Path) -> None:
    for name, old in (("new.safetensors", False), ("old.safetensors", True)):
        torch.save({"a": torch.zeros(2, 3)}, tmp_path / name, _use_new_zipfile_serialization=not old)
        with pytest.raises(ValueError, match=f"here: {name} is a pickle"):
            stored_shapes(tmp_path / name, "here")
