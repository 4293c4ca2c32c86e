"""What several trainings of temporal layers begin with: a tiny image model, and two seconds of a town."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivesim.data import NuScenesConfig, make_source
from drivesim.data.source import ClipSource
from drivesim.toytown import TownConfig, write_nuscenes
from tests.families.tiny_family import write_tiny_family


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_family(tmp_path_factory.mktemp("family") / "tiny")


@pytest.fixture(scope="module")
def short_town(tmp_path_factory: pytest.TempPathFactory) -> ClipSource:
    root = tmp_path_factory.mktemp("town")
    write_nuscenes(TownConfig(num_scenes=1, duration_s=2.0, fps=4.0, key_fps=4.0, size_hw=(32, 64)), root)
    return make_source(NuScenesConfig(root=str(root), version="v1.0-toytown", val_share=0))
