"""What a person asks of a text-to-video model: prompts, a start frame, and checkpoints of their own."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivesim.diffusion.settings import KeyFrameOverrides, TextOverrides
from drivesim.families.prompts import Prompts
from drivesim.families.stages import TextStagesConfig
from drivesim.families.text_sources import Sources
from drivesim.rollout.run import ModelRolloutConfig
from drivesim.rollout.start import Start, start_from_file

NO_START = "text"  # the name of a start without a frame: the same noise for every prompt of a seed


@dataclass(kw_only=True, slots=True)
class TextRolloutCommand(ModelRolloutConfig):
    """Videos from prompts."""

    model: str = "toytown_text"  # name of a shipped model, or a model folder
    prompt: str | None = None  # what the video shows
    prompts: list[str] = field(default_factory=list)  # in place of prompt: several over time; ["a, b","c"]
    prompt_times_s: list[float] = field(default_factory=list)  # when each of prompts is reached; [] = spread evenly
    negative_prompt: str = ""  # what guidance leads away from
    subject: str | None = None  # rare word of a personal subject (image=FOLDER), left out for the temporal layers
    start: str | None = None  # picture or video whose frame opens the video; None = prompts alone
    start_s: float = 0.0  # of a video: the time of its frame
    futures: int = 1  # videos; they differ by their number in the key of the noise
    seconds: float | None = None  # length; None = what key_frames make
    key_frames: int | None = None  # of one video; None = as many as seconds ask for, or as the model was trained on
    size_hw: list[int] | None = None  # height and width before upscaling; None = the model's own
    image: str | None = None  # text-to-image checkpoint in place of the model's own, such as a DreamBooth folder
    upscaler: str | None = None  # x4-upscaler checkpoint in place of the model's
    base_text: str | None = None  # checkpoint whose text encoder tells temporal layers; None = the model's own image
    lora: list[str] = field(default_factory=list)  # LoRA weights to fuse into image: paths, shipped names; or PATH@0.7
    sampler: KeyFrameOverrides = field(default_factory=KeyFrameOverrides)  # group sampler, of key frames
    stages: TextStagesConfig = field(default_factory=TextStagesConfig)  # which stages follow, and how they are sampled

    preview: bool = False  # keep a rough picture of what is being made in preview.png; pool=here alone
    out: str | None = None  # run folder; None = runs/rollout/TIME

    def sources(self) -> Sources:
        """Checkpoints that take the place of the model's own."""
        return Sources(image=self.image, upscaler=self.upscaler, base_text=self.base_text, lora=self.lora)

    def samplings(self) -> dict[str, TextOverrides]:
        """What to sample otherwise than the model, by stage."""
        return {
            "key_frames": self.sampler,
            "interpolate": self.stages.interpolate_sampler,
            "upscale": self.stages.upsample_sampler,
        }

    def said(self) -> Prompts:
        """The prompts over time.

        Raises:
            ValueError: none, one that is empty, or what contradicts itself.
        """
        if self.prompt is not None and self.prompts:
            raise ValueError("prompt and prompts: give one of the two")
        prompts = self.prompts if self.prompt is None else [self.prompt]
        return Prompts(
            prompts=prompts,
            times_s=self.prompt_times_s,
            negative_prompt=self.negative_prompt,
            subject=self.subject,
        )

    def begin(self, start_hw: tuple[int, int]) -> Start:
        """The start: the prompts, and the frame that opens the video where one is given.

        Args:
            start_hw: height and width of the model's start frames.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: as `said` and `start_from_file`.
        """
        said = self.said()
        if self.start is None and self.start_s:
            raise ValueError(f"start_s={self.start_s:g} without start; give the video that it is a time of")
        if self.start is None:
            return Start(name=NO_START, frame_HWC=None, conditions=said)
        return start_from_file(self.start, start_hw, start_s=self.start_s, conditions=said)
