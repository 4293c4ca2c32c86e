"""Training items as a pure function of (seed, item number), and batches of them.

Axes: B batch, T frames, C channels, H height, W width, N boxes, 4 = left, top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from drivesim.core.boxes import UNKNOWN
from drivesim.core.seeds import numpy_generator
from drivesim.data.captions import collate_texts, mirrored, text_bytes
from drivesim.data.conditions import Conditions
from drivesim.data.frames import FrameCache
from drivesim.data.latents import LatentCache
from drivesim.data.windows import CaptionWeight, Windows, tell_left_out

Item = dict[str, Tensor]
Batch = dict[str, Tensor]


@dataclass(kw_only=True, slots=True)
class CropConfig:
    """Training on pieces of pictures: many steps for the price of one, and more of them where objects are."""

    size_hw: list[int] = field(default_factory=list)  # height and width of a piece in pixels; [] = whole pictures
    on_boxes: float = 0.5  # share of the pieces that lie around a box, where there is one

    def __post_init__(self) -> None:
        if len(self.size_hw) not in (0, 2) or any(side < 1 for side in self.size_hw):
            raise ValueError(f"crop.size_hw={self.size_hw}, expected [height, width] in pixels, or [] for none")


class FrameDataset(Dataset[Item]):
    """Random pictures, or short clips of them, for the autoencoder.

    Item i holds `frames_TCHW` float32 in [-1, 1] and the conditions; it depends on (seed, i) alone,
    for any i >= 0.
    """

    def __init__(
        self,
        cache: FrameCache,
        *,
        seed: int,
        num_frames: int = 1,
        fps: float | None = None,
        flip: bool = True,
        crop: CropConfig | None = None,
        align_px: int = 1,
        caption_weights: Sequence[CaptionWeight] = (),
    ) -> None:
        """Finds the windows.

        Args:
            cache: The frames.
            seed: Of the choice of windows.
            num_frames: Frames an item.
            fps: Their rate, a whole fraction of the cache's; None = the cache's.
            flip: Mirror half of the items left to right.
            crop: Take pieces of the pictures, the same piece of all frames of a clip; None = whole pictures.
            align_px: Corners of pieces lie on multiples of this, so that a piece of a picture made smaller is the same
                as a smaller picture of the piece.
            caption_weights: How often clips come; () = all alike.

        Raises:
            ValueError: a rate that the cache does not hold, no window long enough, pieces larger than the pictures,
                sizes that `align_px` does not divide, or caption weights that mean nothing.
        """
        self.cache, self.seed, self.flip = cache, seed, flip
        self.crop = crop if crop is not None and crop.size_hw else None
        if self.crop is not None and any(c > s for c, s in zip(self.crop.size_hw, cache.size_hw, strict=True)):
            raise ValueError(f"crop.size_hw={self.crop.size_hw} is larger than the pictures, {list(cache.size_hw)}")
        for what, size in (("crop.size_hw", self.crop.size_hw if self.crop else []), ("pictures of", cache.size_hw)):
            if any(side % align_px for side in size):
                raise ValueError(f"{what} {list(size)} (height, width): both must divide by {align_px} pixels")
        self.align_px = align_px
        sides = {w.word: w.weight for w in caption_weights if w.word in ("left", "right")}
        if flip and sides.get("left", 1.0) != sides.get("right", 1.0):
            raise ValueError("caption_weights: pictures are mirrored, so left and right come alike; weigh them alike")
        self.windows = Windows(cache.conditions, cache.fps, num_frames, fps, caption_weights)
        tell_left_out([self.windows])

    def __len__(self) -> int:
        return len(self.windows)

    def where(self, index: int) -> tuple[str, NDArray[np.int64], bool]:
        """Drive, frame numbers, and whether item `index` is mirrored."""
        rng = numpy_generator(self.seed, "frames", index)
        drive, frames = self.windows.choose(rng)
        return drive, frames, self.flip and bool(rng.integers(2))

    def __getitem__(self, index: int) -> Item:
        drive, frames, is_flipped = self.where(index)
        pictures_TCHW = torch.from_numpy(self.cache.read(drive, frames)).permute(0, 3, 1, 2)
        item = _condition_item(self.cache.conditions[drive], frames)
        item |= _caption_item(self.cache.conditions[drive], frames, (self.seed, index), is_flipped)
        if is_flipped:
            pictures_TCHW = pictures_TCHW.flip(-1)
            item["boxes_TN4"] = _mirrored(item["boxes_TN4"], item["classes_TN"])
        if self.crop is not None:
            top, left = self._corner(index, item, self.crop)
            height, width = self.crop.size_hw
            pictures_TCHW = pictures_TCHW[..., top : top + height, left : left + width]
            item = _cropped(item, (top, left), (height, width), self.cache.size_hw)
        return {"frames_TCHW": pictures_TCHW.float() / 127.5 - 1.0, **item}

    def _corner(self, index: int, item: Item, crop: CropConfig) -> tuple[int, int]:
        """Top and left of the piece: anywhere, or around the middle of a box of the first frame."""
        rng = numpy_generator(self.seed, "crop", index)
        room = np.array(self.cache.size_hw) - crop.size_hw
        anywhere = rng.integers(room // self.align_px + 1) * self.align_px
        boxes_N4 = item["boxes_TN4"][0][item["classes_TN"][0] != UNKNOWN].numpy()
        if rng.random() >= crop.on_boxes or not len(boxes_N4):
            return int(anywhere[0]), int(anywhere[1])
        left, top, right, bottom = boxes_N4[rng.integers(len(boxes_N4))]
        middle = np.array([top + bottom, left + right]) / 2 * self.cache.size_hw
        # A quarter of the piece's size to and fro, so that a box is not always in the middle.
        corner = middle + (rng.uniform(-0.25, 0.25, 2) - 0.5) * crop.size_hw
        corner = np.clip(np.round(corner / self.align_px) * self.align_px, 0, room)
        return int(corner[0]), int(corner[1])


class LatentClipDataset(Dataset[Item]):
    """Random clips of latents: `latents_TCHW` float32, the conditions, and `rate`, the number of the clip's rate.

    `motion_T2` is how the ego car came to each frame (`core.motion`).

    Item i depends on (seed, i) alone, for any i >= 0.
    """

    def __init__(
        self,
        cache: LatentCache,
        *,
        seed: int,
        num_frames: int,
        rates: Sequence[float] = (),
        caption_weights: Sequence[CaptionWeight] = (),
    ) -> None:
        """Finds the windows.

        Args:
            cache: The latents.
            seed: Of the choice of rates and windows.
            num_frames: Frames an item.
            rates: Frame rates, each as likely; whole fractions of the cache's. () = the cache's alone.
            caption_weights: How often clips come; () = all alike.

        Raises:
            ValueError: a rate that the cache does not hold, no window long enough, or a word that no caption holds.
        """
        self.cache, self.seed = cache, seed
        self.windows = [
            Windows(cache.conditions, cache.fps, num_frames, rate, caption_weights) for rate in rates or [cache.fps]
        ]
        tell_left_out(self.windows)

    def __len__(self) -> int:
        return sum(len(windows) for windows in self.windows)

    def where(self, index: int) -> tuple[str, NDArray[np.int64], int]:
        """Drive, frame numbers, and number of the rate of item `index`."""
        rng = numpy_generator(self.seed, "clip", index)
        rate = int(rng.integers(len(self.windows))) if len(self.windows) > 1 else 0
        return *self.windows[rate].choose(rng), rate

    def __getitem__(self, index: int) -> Item:
        drive, frames, rate = self.where(index)
        conditions = self.cache.conditions[drive]
        motion_T2 = torch.from_numpy(conditions.motion_at(frames, 1 / self.windows[rate].fps))
        item = {"latents_TCHW": self.cache.read(drive, frames), "rate": torch.tensor(rate), "motion_T2": motion_T2}
        return item | _condition_item(conditions, frames) | _caption_item(conditions, frames, (self.seed, index))


def _condition_item(conditions: Conditions, frames: NDArray[np.int64]) -> Item:
    boxes_TN4, classes_TN = conditions.at(frames)
    return {
        "boxes_TN4": torch.from_numpy(boxes_TN4),
        "classes_TN": torch.from_numpy(classes_TN),
        "num_cars_T": torch.from_numpy(conditions.num_cars_T[frames]),
        "is_night": torch.tensor(conditions.is_night),
        "has_boxes": torch.tensor(conditions.has_boxes),
    }


def _caption_item(
    conditions: Conditions, frames: NDArray[np.int64], key: tuple[int, int], is_flipped: bool = False
) -> Item:
    """`caption_L`: the bytes of one phrasing, drawn anew for each item; nothing where there are no captions."""
    if conditions.captions is None:
        return {}
    text = conditions.captions.draw(int(frames[0]), numpy_generator(key[0], "caption", key[1]))
    return {"caption_L": text_bytes(mirrored(text) if is_flipped else text)}


def _mirrored(boxes_TN4: Tensor, classes_TN: Tensor) -> Tensor:
    left, top, right, bottom = boxes_TN4.unbind(-1)
    mirrored = torch.stack([1 - right, top, 1 - left, bottom], dim=-1)
    return torch.where((classes_TN == UNKNOWN)[..., None], boxes_TN4, mirrored)  # padding stays zero


def _cropped(item: Item, corner: tuple[int, int], size_hw: tuple[int, int], picture_hw: tuple[int, int]) -> Item:
    """The conditions of a piece: boxes as shares of it, those beside it left out, number of cars unknown."""
    offset = torch.tensor([corner[1], corner[0], corner[1], corner[0]])
    picture = torch.tensor([picture_hw[1], picture_hw[0], picture_hw[1], picture_hw[0]])
    piece = torch.tensor([size_hw[1], size_hw[0], size_hw[1], size_hw[0]])
    boxes = ((item["boxes_TN4"] * picture - offset) / piece).clamp(0, 1)
    is_seen = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(dim=-1) & (item["classes_TN"] != UNKNOWN)
    return {
        **item,
        "boxes_TN4": torch.where(is_seen[..., None], boxes, torch.zeros_like(boxes)),
        "classes_TN": torch.where(is_seen, item["classes_TN"], UNKNOWN),
        "num_cars_T": torch.full_like(item["num_cars_T"], UNKNOWN),
    }


def collate(items: Sequence[Item]) -> Batch:
    """One batch of items.

    Returns:
        `latents_BTCHW` float32, or `frames_BTCHW` float32 in [-1, 1]; `boxes_BTN4` float32 shares of
        the picture; `classes_BTN` int64, -1 = padding; `num_cars_BT` int64, -1 = unknown;
        `is_night_B` int64, 0 day, 1 night, -1 unknown; `has_boxes_B` bool, False = not known; with latents
        `rate_B` int64, the number of the clip's frame rate, and `motion_BT2` float32 (`core.motion`), NaN = unknown;
        with captions `caption_BL` uint8, their UTF-8 bytes, which `captions.texts_of` reads. N is the largest count in
        the batch and 0 where no item has a box.
    """
    most = max(item["classes_TN"].shape[1] for item in items)
    pictures = "latents" if "latents_TCHW" in items[0] else "frames"
    boxes = [pad(item["boxes_TN4"], (0, 0, 0, most - item["boxes_TN4"].shape[1])) for item in items]
    classes = [pad(item["classes_TN"], (0, most - item["classes_TN"].shape[1]), value=UNKNOWN) for item in items]
    of_clips = {"rate": "rate_B", "motion_T2": "motion_BT2"}
    rates = {new: torch.stack([item[name] for item in items]) for name, new in of_clips.items() if name in items[0]}
    has_captions = "caption_L" in items[0]
    captions = {"caption_BL": collate_texts([item["caption_L"] for item in items])} if has_captions else {}
    return {
        **rates,
        **captions,
        f"{pictures}_BTCHW": torch.stack([item[f"{pictures}_TCHW"] for item in items]),
        "boxes_BTN4": torch.stack(boxes),
        "classes_BTN": torch.stack(classes),
        "num_cars_BT": torch.stack([item["num_cars_T"] for item in items]),
        "is_night_B": torch.stack([item["is_night"] for item in items]),
        "has_boxes_B": torch.stack([item["has_boxes"] for item in items]),
    }
