"""A folder of captioned pictures as a source: every picture is a drive of one frame."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivesim.core.clip import Clip
from drivesim.core.files import sha256_file
from drivesim.core.picture import crop_to_aspect, load_picture, resize_area
from drivesim.data.captions import Captions
from drivesim.data.conditions import Conditions
from drivesim.data.source import Drive, Problem, ProblemKind, check_split

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FPS = 1.0  # that a single frame is said to have; ask for it, and any number of frames above one is refused


@dataclass(kw_only=True, slots=True)
class PictureFolderConfig:
    """A person's own pictures of one subject."""

    root: str  # folder
    caption: str  # of all of them but those beside which NAME.txt says another, such as "a photo of sks car"

    def __post_init__(self) -> None:
        """Refuses pictures that nothing is said of."""
        if not self.caption.strip():
            raise ValueError("data.caption is empty; say what the pictures show, such as 'a photo of sks car'")


class PictureFolder:
    """Pictures for training alone: none is held out of so few."""

    has_boxes = False
    mixes_rates = False
    has_captions = True

    def __init__(self, config: PictureFolderConfig) -> None:
        """Opens every picture once.

        Raises:
            ValueError: no such folder, no picture in it that can be read, or a caption that says nothing.
        """
        root = Path(config.root).expanduser()
        if not root.is_dir():
            raise ValueError(f"{root}: no such folder of pictures")
        self.config, self.name = config, root.resolve().name
        self._problems: list[Problem] = []
        self._paths: dict[str, Path] = {}
        self._captions: dict[str, str] = {}  # of pictures that have one of their own
        self._drives: list[Drive] = []
        for path in sorted(root.iterdir()):
            if path.suffix.lower() in PICTURE_SUFFIXES:
                self._open(path)
        for path in sorted(root.glob("*.txt")):
            if path.stem not in {Path(name).stem for name in self._paths}:
                detail = "no picture of that name; data.caption is what all others show"
                self._problems.append(Problem(where=path.name, kind=ProblemKind.MISSING_IMAGE, detail=detail))
        if not self._drives:
            first = f"; the first problem: {self._problems[0].detail}" if self._problems else ""
            raise ValueError(f"{root}: no picture that can be read ({' '.join(PICTURE_SUFFIXES)}){first}")

    def _open(self, path: Path) -> None:
        try:
            height, width = load_picture(path).shape[:2]
        except (ValueError, OSError) as error:
            self._problems.append(Problem(where=path.name, kind=ProblemKind.UNREADABLE, detail=str(error)))
            return
        self._paths[path.name] = path
        own = path.with_suffix(".txt")
        if own.is_file():
            self._captions[path.name] = _said(own, of=path.name)
        self._drives.append(
            Drive(name=path.name, split="train", duration_s=1 / FPS, fps=FPS, num_frames=1, size_hw=(height, width))
        )

    @property
    def fingerprint(self) -> str:
        """Over names, bytes and captions."""
        parts = [f"{name}:{sha256_file(path)}" for name, path in self._paths.items()]
        parts += [f"{name}:{caption}" for name, caption in self._captions.items()]
        return hashlib.sha256("|".join([self.config.caption, *parts]).encode()).hexdigest()

    def drives(self, split: str) -> list[Drive]:
        """See `ClipSource`."""
        check_split(split)
        return [drive for drive in self._drives if drive.split == split]

    def timestamps_s(self, drive: str) -> NDArray[np.float64]:
        """See `ClipSource`."""
        self._path(drive)
        return np.zeros(1)

    def problems(self) -> list[Problem]:
        """Pictures that cannot be read."""
        return list(self._problems)

    def read(self, drive: str, *, start_s: float, num_frames: int, fps: float, size_hw: tuple[int, int]) -> Clip:
        """See `ClipSource`; there is one frame, at 0 s."""
        path = self._path(drive)
        if num_frames != 1 or start_s != 0:
            raise ValueError(f"{drive}: a picture; {num_frames} frames from {start_s:g} s on cannot be had of it")
        cropped, _ = crop_to_aspect(load_picture(path), size_hw[1] / size_hw[0])
        frames_THWC = resize_area(cropped, size_hw)[None]
        return Clip(
            name=drive, drive=drive, frames_THWC=frames_THWC, fps=fps, timestamps_us=np.zeros(1, dtype=np.int64)
        )

    def captions(self, drive: str, conditions: Conditions, fps: float) -> Captions:
        """See `CaptionedSource`."""
        return Captions.same(len(conditions), [self._captions.get(drive, self.config.caption)])

    def _path(self, drive: str) -> Path:
        if drive not in self._paths:
            raise ValueError(f"{self.name}: no picture {drive!r}; there are {', '.join(list(self._paths)[:5])}")
        return self._paths[drive]


def _said(path: Path, of: str) -> str:
    """The text of a file beside a picture; ValueError where it is none."""
    try:
        said = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 text; it says what {of} shows, in place of data.caption") from error
    if not said:
        raise ValueError(f"{path} is empty; it says what {of} shows, in place of data.caption")
    return said
