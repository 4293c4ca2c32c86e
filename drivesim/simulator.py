"""The simulator for use from Python: load a model, design a start frame, roll out futures, or videos from prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from drivesim.conditioning.driving import DrivingConditions
from drivesim.core.devices import check_device
from drivesim.core.motion import MotionSegment
from drivesim.core.picture import check_size, crop_to_aspect, resize_area, save_png
from drivesim.core.run_folder import claim_folder
from drivesim.core.scene import Scene
from drivesim.core.seeds import torch_generator
from drivesim.families.drive import DriveFacts
from drivesim.families.driving import DrivingModel
from drivesim.families.folder import family_of, find_model
from drivesim.families.memory import MemoryConfig
from drivesim.families.preview import SamplingStep
from drivesim.families.prompts import Prompts
from drivesim.families.stages import StagesConfig, TextStagesConfig
from drivesim.families.text import TextModel
from drivesim.families.text_parts import FAMILY
from drivesim.families.text_sources import Sources
from drivesim.rollout.pools import torch_threads
from drivesim.rollout.run import RolloutConfig
from drivesim.rollout.start import Start, start_latents
from drivesim.rollout.text import NO_START
from drivesim.rollout.world import World
from drivesim.viz.overlays import draw_boxes

BOXES_SCALE = 4  # boxes are drawn over a copy so many times as large: names stay readable


class Simulator:
    """A simulator around one model: of driving, or of videos from prompts.

    Args:
        model: the networks; `Simulator.from_pretrained` loads them.
    """

    def __init__(self, model: DrivingModel | TextModel):
        self.model = model

    def __repr__(self) -> str:
        height, width = self.size_hw
        return f"Simulator({self.model.name!r}, {height} x {width} at {self.fps:g} fps)"

    @classmethod
    def from_pretrained(
        cls,
        folder_or_name: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        stages: StagesConfig | TextStagesConfig | None = None,
        memory: MemoryConfig | None = None,
        **text: Any,
    ) -> Simulator:
        """Loads a model folder, or one that ships with the package, such as "toytown".

        Args:
            folder_or_name: which.
            device: where the networks go.
            dtype: of the weights.
            stages: which stages behind the prediction run, and how; None = all that the model has.
            memory: how to need less of it; None = no change.
            text: of a text-to-video model what `TextModel.from_pretrained` takes beside these, such as key_frames,
                size_hw, samplings; and image, upscaler, base_text, lora in place of the model's own (`Sources`).

        Raises:
            ValueError: no such model, or a folder that is not whole: says which part.
        """
        check_device(device)
        if "weights" in text:
            raise ValueError(f"weights={text['weights']}: from Python it is dtype=torch.{text['weights']}")
        if family_of(find_model(folder_or_name)) == FAMILY:
            own = {name: text.pop(name) for name in ("image", "upscaler", "base_text", "lora") if name in text}
            if not isinstance(stages, TextStagesConfig | None):
                raise ValueError(f"{folder_or_name}: a text-to-video model takes stages=TextStagesConfig(...)")
            return cls(
                TextModel.from_pretrained(
                    folder_or_name,
                    device=device,
                    dtype=dtype,
                    stages=stages,
                    memory=memory,
                    sources=Sources(**own),
                    **text,
                )  # fmt: skip
            )
        if text:
            raise ValueError(f"{folder_or_name}: a driving model takes no {', '.join(sorted(text))}")
        if not isinstance(stages, StagesConfig | None):
            raise ValueError(f"{folder_or_name}: a driving model takes stages=StagesConfig(...)")
        return cls(
            DrivingModel.from_pretrained(folder_or_name, device=device, dtype=dtype, stages=stages, memory=memory)
        )

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
        if not isinstance(self.model, DrivingModel):
            raise ValueError(f"model {self.model.name!r} makes videos from prompts; scenes are for driving models")
        if not isinstance(scene, Scene):
            raise ValueError(f"scene is {scene!r}; expected a Scene, such as Scene.load('conf/scenes/cut_in.yaml')")
        conditions = DrivingConditions.of_pictures(
            [scene.picture_boxes(self.size_hw)], self.size_hw, [scene.is_night], [scene.count_cars()]
        )
        latents = self.model.design(conditions, [torch_generator(seed, scene.name, index, "design")])
        frame_HWC = self.model.picture(latents[0], key=(seed, scene.name, index, "design"))
        return Start(
            name=scene.name,
            frame_HWC=frame_HWC,
            conditions=DriveFacts(is_night=scene.is_night),
            latents_CHW=latents[0].cpu(),
        )

    def claim_designs(self, folder: Path, scene: Scene, *, seed: int = 0) -> None:
        """Notes what a folder of start frames is made by: frames of one folder are of one scene, model and seed.

        Raises:
            ValueError: the folder holds others; names what differs.
        """
        digest = hashlib.sha256(repr(scene).encode()).hexdigest()
        claim_folder(
            folder, {"model": self.model.fingerprint, "scene": scene.name, "scene_sha256": digest, "seed": seed}
        )

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
        start: NDArray[np.uint8] | Start | None = None,
        *,
        prompt: str | Sequence[str] | Prompts | None = None,
        negative_prompt: str = "",
        seconds: float | None = None,
        minutes: float | None = None,
        seed: int = 0,
        future: int = 0,
        is_night: bool | None = None,
        motion: Sequence[MotionSegment] = (),
        name: str | None = None,
        on_step: Callable[[SamplingStep], None] | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Streams a future of a start frame, or a video of a prompt; memory does not grow with its length.

        Args:
            start: of a driving model what `Simulator.start` gives; or uint8 RGB (H, W, 3), at least the size of the
                model's start frames, that is cropped to their shape and resized. A text-to-video model's video opens
                with it; None = prompts alone.
            prompt: of a text-to-video model: one, several over the video's time, or `Prompts` with times and a subject.
            negative_prompt: what guidance leads away from; ignored with `Prompts`, which have their own.
            seconds: length, or
            minutes: length. A driving model needs one of the two; a text-to-video model's length is that of its key
                frames, of which these may leave out the last ones.
            seed: run seed.
            future: futures of one start frame differ by this number alone.
            is_night: None = that of the start, unknown for a picture.
            motion: segments (`core.motion`) of how the ego car is to drive from the start frame on, of a driving model
                that was trained to be told; () = the model chooses.
            name: of the start frame, part of the key of every random number; None = that of the start, "start" for a
                picture, "text" without one.
            on_step: of a text-to-video model: called after each step of sampling, with a preview of what is made.

        Yields:
            Chunks of frames, uint8 (T, H, W, 3).

        Raises:
            ValueError: neither or both lengths given, a frame that is too small, or what the model does not take.
        """
        said = self._said(prompt, negative_prompt, DriveFacts(is_night=is_night, motion=tuple(motion)))
        num_frames = self._num_frames(seconds, minutes)
        if future < 0:
            raise ValueError(f"rollout: future={future}; must be 0 or more")
        start = self._begin(start, name, said, listens=on_step is not None)
        world = World(
            self.model,
            run_seed=seed,
            start_name=name or start.name,
            conditions=said.over(start.said(future)) if isinstance(said, DriveFacts) else said or start.said(future),
            num_frames=num_frames,
        )
        state = world.reset(start_latents(start, self.model), future)
        while state.num_frames < num_frames:
            if isinstance(self.model, TextModel):  # of another rollout that is advanced in turn it is another's
                self.model.on_step = on_step
            state, frames = world.step(state)
            yield frames

    def _begin(
        self,
        start: NDArray[np.uint8] | Start | None,
        name: str | None,
        said: Prompts | DriveFacts | None,
        *,
        listens: bool,
    ) -> Start:
        """The start of a rollout; refuses what the model does not take, before anything is made."""
        if isinstance(self.model, TextModel):
            self.model.facts(start.conditions if said is None and isinstance(start, Start) else said)
        elif listens:
            raise ValueError("rollout: on_step is for text-to-video models; a driving model tells of whole chunks")
        elif start is None:
            raise ValueError("rollout: a driving model needs a start frame")
        elif isinstance(said, DriveFacts):
            self.model.facts(said)
        return start if isinstance(start, Start) else self._start_of_picture(start, name)

    def _said(
        self, prompt: str | Sequence[str] | Prompts | None, negative_prompt: str, drive: DriveFacts
    ) -> Prompts | DriveFacts | None:
        """What is said of a video, as its model's family understands it; None = nothing."""
        if isinstance(self.model, DrivingModel):
            if prompt is not None or negative_prompt:
                raise ValueError(f"model {self.model.name!r} is a driving model, which takes no prompt")
            return drive
        if drive != DriveFacts():
            what = "motion" if drive.motion else "is_night"
            raise ValueError(
                f"model {self.model.name!r} makes videos from prompts: {what} is for driving models; say it in the "
                'prompt, such as prompt="a drive at night"'
            )
        if prompt is None or isinstance(prompt, Prompts):
            return prompt
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        return Prompts(prompts=texts, negative_prompt=negative_prompt)

    def _num_frames(self, seconds: float | None, minutes: float | None) -> int:
        both = seconds is not None and minutes is not None
        if both or (isinstance(self.model, DrivingModel) and seconds is None and minutes is None):
            raise ValueError("rollout: give either seconds or minutes")
        length_s = 60.0 * minutes if minutes is not None else seconds
        config = RolloutConfig(seconds=length_s)
        config.validate()
        return config.num_frames(self.model)

    def _start_of_picture(self, frame_HWC: NDArray[np.uint8] | None, name: str | None) -> Start:
        if frame_HWC is None:
            return Start(name=name or NO_START, frame_HWC=None)
        if not isinstance(frame_HWC, np.ndarray) or frame_HWC.ndim != 3 or frame_HWC.shape[2] != 3:
            found = f"of shape {frame_HWC.shape}" if isinstance(frame_HWC, np.ndarray) else repr(frame_HWC)
            raise ValueError(
                f"start is {found}; expected an array (H, W, 3), or a Start: Simulator.start(scene) of a scene, "
                "rollout.start.start_from_file(path, simulator.model.start_hw) of a picture or a video"
            )
        if frame_HWC.dtype != np.uint8:
            raise ValueError(f"start has numbers of type {frame_HWC.dtype}; expected uint8, 0 to 255")
        height, width = self.model.start_hw
        part, _ = crop_to_aspect(frame_HWC, width / height)
        check_size(part, (height, width), name or "start")
        return Start(name=name or "start", frame_HWC=resize_area(part, (height, width)))
