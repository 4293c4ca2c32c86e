"""Real and toytown driving data: sources of clips, what is wrong with them, caches and batches for training."""

from __future__ import annotations

from drivesim.data.nuscenes import NuScenesConfig, NuScenesSource
from drivesim.data.prepare import PrepareConfig, Report, prepare
from drivesim.data.source import ClipSource, Drive, Problem, ProblemKind
from drivesim.data.videos import VideoFolderConfig, VideoFolderSource

__all__ = [
    "ClipSource",
    "Drive",
    "NuScenesConfig",
    "NuScenesSource",
    "PrepareConfig",
    "Problem",
    "ProblemKind",
    "Report",
    "VideoFolderConfig",
    "VideoFolderSource",
    "make_source",
    "prepare",
]


def make_source(config: NuScenesConfig | VideoFolderConfig) -> ClipSource:
    """The source that a config describes."""
    if isinstance(config, NuScenesConfig):
        return NuScenesSource(config)
    if isinstance(config, VideoFolderConfig):
        return VideoFolderSource(config)
    raise ValueError(f"{type(config).__name__} is no data config; expected NuScenesConfig or VideoFolderConfig")
