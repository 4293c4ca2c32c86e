"""Real and toytown driving data: sources of clips, what is wrong with them, caches and batches for training."""

from __future__ import annotations

from drivesim.data.captioned import CaptionedClips, CaptionedClipsConfig
from drivesim.data.nuscenes import CaptionedNuScenes, NuScenesConfig, NuScenesSource
from drivesim.data.pictures import PictureFolder, PictureFolderConfig
from drivesim.data.prepare import PrepareConfig, Report, prepare
from drivesim.data.source import ClipSource, Drive, Problem, ProblemKind
from drivesim.data.videos import VideoFolderConfig, VideoFolderSource

__all__ = [
    "CaptionedClips",
    "CaptionedClipsConfig",
    "CaptionedNuScenes",
    "ClipSource",
    "Drive",
    "NuScenesConfig",
    "NuScenesSource",
    "PictureFolder",
    "PictureFolderConfig",
    "PrepareConfig",
    "Problem",
    "ProblemKind",
    "Report",
    "VideoFolderConfig",
    "VideoFolderSource",
    "make_source",
    "prepare",
]


DataConfig = NuScenesConfig | VideoFolderConfig | CaptionedClipsConfig | PictureFolderConfig


def make_source(config: DataConfig) -> ClipSource:
    """The source that a config describes."""
    if isinstance(config, NuScenesConfig):
        return CaptionedNuScenes(config) if config.captions else NuScenesSource(config)
    if isinstance(config, CaptionedClipsConfig):
        return CaptionedClips(config)
    if isinstance(config, PictureFolderConfig):
        return PictureFolder(config)
    if isinstance(config, VideoFolderConfig):
        return VideoFolderSource(config)
    expected = "NuScenesConfig, VideoFolderConfig, CaptionedClipsConfig or PictureFolderConfig"
    raise ValueError(f"{type(config).__name__} is no data config; expected {expected}")
