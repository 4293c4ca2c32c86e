"""Real and toytown driving data: sources of clips, what is wrong with them, caches and batches for training."""

from __future__ import annotations

from pathlib import Path

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
    "is_there",
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


def is_there(config: DataConfig) -> bool:
    """Whether what a config names is on the disk, or is still to come."""
    if isinstance(config, CaptionedClipsConfig):
        if config.csv is not None:
            return Path(config.csv).expanduser().is_file()
        paths = [Path(pattern).expanduser() for pattern in config.tars]
        return all(any(path.parent.glob(path.name)) for path in paths)
    return Path(config.root, getattr(config, "version", "")).expanduser().is_dir()
