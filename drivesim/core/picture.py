"""Single pictures: load what a person gives, crop to the models' shape, resize, save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from drivesim.core.files import atomic_path

_EIGHT_BIT_MODES = ("RGB", "L", "P", "1", "CMYK", "YCbCr")
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


def load_picture(path: str | Path, min_size_hw: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """One picture as uint8 RGB (H, W, 3), turned upright as its camera noted it.

    Args:
        path: A file in any format that Pillow reads.
        min_size_hw: Smallest height and width in pixels; None = any.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no picture, damaged, an alpha channel, more than 8 bits a channel, too small.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            if image.mode in _ALPHA_MODES or "transparency" in image.info:
                raise ValueError(f"{path}: has an alpha channel (mode {image.mode}); save it without transparency")
            if image.mode not in _EIGHT_BIT_MODES:
                raise ValueError(f"{path}: mode {image.mode}; expected 8 bits a channel, RGB or grey")
            if _has_16_bits(image):  # Pillow calls these RGB, too, and drops the lower byte
                raise ValueError(f"{path}: 16 bits a channel; expected 8, RGB or grey")
            picture = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, IsADirectoryError) as error:
        raise ValueError(f"{path}: not a picture (JPEG, PNG, WebP, BMP, ... expected)") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: picture cannot be read: {error}") from error
    if min_size_hw is not None:
        check_size(picture, min_size_hw, str(path))
    return picture


def _has_16_bits(image: Image.Image) -> bool:
    """Whether a file that was opened and not yet decoded holds 16 bits a channel, by the form of its raw data."""
    tiles: list[Any] = getattr(image, "tile", [])
    return any(";16" in str(tile[3]) for tile in tiles)


def check_size(frame_HWC: NDArray[np.uint8], min_size_hw: tuple[int, int], name: str) -> None:
    """Raises ValueError when a picture is smaller than `min_size_hw` on a side."""
    height, width = frame_HWC.shape[:2]
    if height < min_size_hw[0] or width < min_size_hw[1]:
        raise ValueError(
            f"{name}: picture of {width} x {height} pixels is too small; "
            f"at least {min_size_hw[1]} x {min_size_hw[0]} (width x height) is needed"
        )


def crop_to_aspect(frame: NDArray[np.uint8], aspect: float = 2.0) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The largest centred part of width / height = `aspect`.

    Args:
        frame: (..., H, W, 3); a picture or a clip.
        aspect: Width over height.

    Returns:
        A view of the part, and its (top, left) corner in pixels.
    """
    height, width = frame.shape[-3:-1]
    new_height = min(height, max(1, round(width / aspect)))
    new_width = min(width, max(1, round(height * aspect)))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return frame[..., top : top + new_height, left : left + new_width, :], (top, left)


def resize_area(frames: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames (..., H, W, 3) at another size: area average when shrinking, bicubic when growing.

    The area average is what keeps thin lane markings and far cars from flickering.
    """
    height, width = frames.shape[-3:-1]
    if (height, width) == tuple(size_hw):
        return frames
    shrinks = size_hw[0] <= height and size_hw[1] <= width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    flat = frames.reshape(-1, height, width, 3)
    resized = np.empty((len(flat), *size_hw, 3), dtype=np.uint8)
    for index, frame in enumerate(flat):
        resized[index] = cv2.resize(frame, (size_hw[1], size_hw[0]), interpolation=interpolation)
    return resized.reshape(*frames.shape[:-3], *size_hw, 3)


def save_png(path: str | Path, frame_HWC: NDArray[np.uint8]) -> None:
    """Writes a uint8 RGB picture (H, W, 3) as PNG, whole or not at all."""
    if frame_HWC.dtype != np.uint8 or frame_HWC.ndim != 3 or frame_HWC.shape[2] != 3:
        raise ValueError(f"a picture is uint8 (H, W, 3), this is {frame_HWC.dtype} {frame_HWC.shape}")
    with atomic_path(path) as temporary:
        Image.fromarray(frame_HWC).save(temporary, format="PNG")
