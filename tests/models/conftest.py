"""Tiny public checkpoints, written once a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.tiny_stable_diffusion import KINDS, save_tiny


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Diffusers folders by kind, not to be changed."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: save_tiny(root / kind, kind) for kind in KINDS}
