"""The simulator for use from Python: load a model, design a start frame, roll out futures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from drivesim.conditioning.driving import DrivingConditions
from drivesim.core.picture import check_size, crop_to_aspect, resize_area, save_png
from drivesim.core.scene import Scene
from drivesim.core.seeds import torch_generator
from drivesim.families.driving import DrivingModel
from drivesim.families.stages import StagesConfig
from drivesim.rollout.pools import torch_threads
from drivesim.rollout.start import Start, start_latents
from drivesim.rollout.world import World
from drivesim.viz.overlays import draw_boxes

BOXES_SCALE = 4  # boxes are drawn over a copy so many times as large: names stay readable


class Simulator:
    """A driving simulator around one model.

    Args:
        model: the networks; `Simulator.from_pretrained` loads them.
    """

    def __init__(self, model: DrivingModel):
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        folder_or_name: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        stages: StagesConfig | None = None,
    ) -> Simulator:
        """Loads a model folder, or one that ships with the package, such as "toytown".

        Args:
            folder_or_name: which.
            device: where the networks go.
            dtype: of the weights.
            stages: which stages behind the prediction run, and how; None = all that the model has.

        Raises:
            ValueError: no such model, or a folder that is not whole: says which part.
        """
        return cls(DrivingModel.from_pretrained(folder_or_name, device=device, dtype=dtype, stages=stages))

    @property
    def fps(self) -> float:
        """Frames a second of a rollout."""
        return self.model.fps

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.model.size_hw

    def design(self, scene: Scene, *, seed: int = 0, index: int = 0) -> NDArray[np.uint8]:
        """A start frame, uint8 (H, W, 3), for a scene. Same seed and index, same frame."""
        frame_HWC = self.start(scene, seed=seed, index=index).frame_HWC
        assert frame_HWC is not None
        return frame_HWC

    def start(self, scene: Scene, *, seed: int = 0, index: int = 0) -> Start:
        """The same with its latents, from which a rollout starts without encoding the frame again."""
        conditions = DrivingConditions.of_pictures(
            [scene.picture_boxes(self.size_hw)], self.size_hw, [scene.is_night], [scene.count_cars()]
        )
        latents = self.model.design(conditions, [torch_generator(seed, scene.name, index, "design")])
        frame_HWC = self.model.picture(latents[0], key=(seed, scene.name, index, "design"))
        return Start(name=scene.name, frame_HWC=frame_HWC, conditions=scene.is_night, latents_CHW=latents[0].cpu())

    def design_into(self, folder: Path, scene: Scene, *, seed: int = 0, num_frames: int = 1) -> None:
        """Writes a scene's file, its start frames, and copies with the boxes drawn over them."""
        scene.save(folder / "scene.yaml")
        boxes = scene.picture_boxes(self.size_hw)
        for index in range(num_frames):
            with torch_threads(1):  # another number rounds sums differently: bytes would depend on the machine's cores
                frame_HWC = self.design(scene, seed=seed, index=index)
            save_png(folder / f"frame_{index:03d}.png", frame_HWC)
            save_png(folder / f"frame_{index:03d}_boxes.png", draw_boxes(frame_HWC, boxes, BOXES_SCALE))

    def rollout(
        self,
        start: NDArray[np.uint8] | Start,
        *,
        seconds: float | None = None,
        minutes: float | None = None,
        seed: int = 0,
        future: int = 0,
        is_night: bool | None = None,
        name: str | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Streams a future of a start frame; memory does not grow with its length.

        Args:
            start: what `Simulator.start` gives; or uint8 RGB (H, W, 3), at least the model's size, that is cropped to
                the model's shape and resized.
            seconds: length, or
            minutes: length. One of the two is needed.
            seed: run seed.
            future: futures of one start frame differ by this number alone.
            is_night: None = that of the start, unknown for a picture.
            name: of the start frame, part of the key of every random number; None = that of the start, "start" for a
                picture.

        Yields:
            Chunks of frames, uint8 (T, H, W, 3).

        Raises:
            ValueError: neither or both lengths given, or a frame that is too small.
        """
        if (seconds is None) == (minutes is None):
            raise ValueError("rollout: give either seconds or minutes")
        num_frames = max(1, round((seconds if seconds is not None else 60.0 * (minutes or 0.0)) * self.fps))
        if not isinstance(start, Start):
            start = self._start_of_picture(start, name or "start")
        world = World(
            self.model,
            run_seed=seed,
            start_name=name or start.name,
            conditions=start.conditions if is_night is None else is_night,
            num_frames=num_frames,
        )
        state = world.reset(start_latents(start, self.model), future)
        while state.num_frames < num_frames:
            state, frames = world.step(state)
            yield frames

    def _start_of_picture(self, frame_HWC: NDArray[np.uint8], name: str) -> Start:
        height, width = self.size_hw
        part, _ = crop_to_aspect(frame_HWC, width / height)
        check_size(part, self.size_hw, name)
        return Start(name=name, frame_HWC=resize_area(part, self.size_hw))
