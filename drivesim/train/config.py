"""What a person can choose about a training run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum

from drivesim.conditioning.driving import ConditionerConfig
from drivesim.core.devices import check_accelerator, number_type
from drivesim.core.limits import check_at_least
from drivesim.data.batches import CropConfig
from drivesim.data.module import DataModuleConfig
from drivesim.diffusion.settings import PredictionSamplingConfig, SamplingConfig, ScheduleConfig
from drivesim.models.build import AutoencoderConfig, BackboneConfig, InterpolationConfig, TemporalConfig
from drivesim.models.text_build import TextEncoderConfig
from drivesim.models.upsampler import UpsamplerConfig, UpsamplerTemporalConfig
from drivesim.models.video_decoder import VideoDecoderConfig
from drivesim.train.autoencoder import AutoencoderLossConfig
from drivesim.train.consistency import ConsistencyConfig
from drivesim.train.dreambooth import DreamBoothConfig
from drivesim.train.interpolation import InterpolationLossConfig
from drivesim.train.latent_ldm import ImageLossConfig, PredictionLossConfig
from drivesim.train.optim import OptimConfig
from drivesim.train.text_config import TextInterpolationConfig, TextLossConfig, TextTemporalConfig, TextUpscalerConfig
from drivesim.train.upsampler import UpsamplerLossConfig
from drivesim.train.video_decoder import VideoDecoderLossConfig


class StageName(str, Enum):
    """Training stages of each family, in the order they build on each other."""

    AUTOENCODER = "autoencoder"
    IMAGE = "image"
    PREDICTION = "prediction"
    INTERPOLATION = "interpolation"
    VIDEO_DECODER = "video_decoder"
    IMAGE_UPSAMPLER = "image_upsampler"
    UPSAMPLER = "upsampler"
    TEXT_BASE = "text_base"  # a small text-to-image model from nothing
    TEXT_IMAGE = "text_image"  # spatial layers of a checkpoint on frames of the videos
    TEXT_KEY_FRAMES = "text_key_frames"  # temporal layers in a frozen text-to-image model
    TEXT_INTERPOLATION = "text_interpolation"  # all weights of a U-Net that fills in frames
    TEXT_VIDEO_DECODER = "text_video_decoder"  # layers over time in the decoder of a checkpoint
    TEXT_IMAGE_UPSCALER = "text_image_upscaler"  # a small x4 upscaler of single frames from nothing
    TEXT_UPSCALER = "text_upscaler"  # temporal layers in a frozen x4 upscaler
    DISTIL_INTERPOLATION = "distil_interpolation"  # an interpolation that needs few steps
    DISTIL_UPSCALER = "distil_upscaler"  # an x4 upscaler that needs few steps
    DREAMBOOTH = "dreambooth"  # one subject in all weights of a text-to-image model
    DREAMBOOTH_LORA = "dreambooth_lora"  # one subject in low-rank changes

    @property
    def is_text(self) -> bool:
        """Whether it is a stage of the text family."""
        return self.value.startswith(("text_", "distil_", "dreambooth"))

    @property
    def can_checkpoint_gradients(self) -> bool:
        """Whether it reads `trainer.gradient_checkpointing`."""
        return self.is_text and self not in (StageName.TEXT_VIDEO_DECODER, StageName.DREAMBOOTH_LORA)

    @property
    def weighs_boxes(self) -> bool:
        """Whether it reads `text_loss.box_weight`."""
        return self in (StageName.TEXT_BASE, StageName.TEXT_IMAGE, StageName.TEXT_KEY_FRAMES)

    @property
    def drops_text(self) -> bool:
        """Whether it reads `text_loss.drop_text`: DreamBooth keeps its captions, a decoder is told none."""
        return self.is_text and self not in (
            StageName.DREAMBOOTH,
            StageName.DREAMBOOTH_LORA,
            StageName.TEXT_VIDEO_DECODER,
        )


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")  # of Lightning's
_SHORT = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}  # its older names


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """How long and on what."""

    max_steps: int = 1000  # optimizer steps
    accumulate: int = 1  # micro-batches of one optimizer step
    accelerator: str = "auto"  # Lightning's: auto, cpu, gpu
    devices: int = 1  # how many, on all machines together: a process each
    num_nodes: int = 1  # machines that share the devices alike and see the same disk; see the README
    precision: str = "32-true"  # Lightning's; bf16-mixed on a GPU
    num_threads: int = 1  # torch threads of a process; two processes of two threads on two cores stall
    checkpoint_every: int = 200  # steps between checkpoints
    validate_every: int = 200  # steps between validations
    picture_every: int = 500  # steps between sample pictures
    log_every: int = 10  # steps between log rows
    progress: bool = True  # progress bar
    gradient_checkpointing: bool = False  # layers are computed again in the backward pass: less memory, more time

    def __post_init__(self) -> None:
        self.precision = _SHORT.get(self.precision, self.precision)
        if self.precision not in PRECISIONS:
            raise ValueError(f"trainer.precision={self.precision}; valid: {', '.join(PRECISIONS)}")
        counts = ("max_steps", "accumulate", "num_threads")  # devices: below
        intervals = ("checkpoint_every", "validate_every", "picture_every", "log_every")
        check_at_least(1, "trainer.", **{name: getattr(self, name) for name in counts + intervals})
        if self.num_nodes < 1 or self.devices < 1 or self.devices % self.num_nodes:
            raise ValueError(
                f"trainer.devices={self.devices} on trainer.num_nodes={self.num_nodes}: devices are those of all "
                "machines together, and must be 1 or more on each, the same number"
            )

    @property
    def devices_per_node(self) -> int:
        """Devices of one machine."""
        return self.devices // self.num_nodes

    def check_machine(self, out: str | None) -> None:
        """Raises ValueError where this machine lacks devices, or its processes an `out` in common."""
        check_accelerator(self.accelerator, self.devices, self.num_nodes)
        if out is None and self.devices > 1 and (self.num_nodes > 1 or "RANK" in os.environ):
            raise ValueError(
                f"out is not given: the processes of trainer.devices={self.devices} are started one by one, and each "
                "would name a folder by its own clock; give out=FOLDER"
            )


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """One stage of one model family."""

    stage: StageName = StageName.AUTOENCODER  # what to train
    name: str = "model"  # name of the model, written into its index
    init: str | None = None  # model folder with the earlier parts; None = autoencoder stage from nothing
    joins: list[str] = field(default_factory=list)  # further model folders whose parts the exported model gets, too
    warm_start: str | None = None  # model folder whose weights of this stage's parts to begin with; None = fresh
    seed: int = 0  # of data order, noise and fresh weights
    size_hw: list[int] = field(default_factory=lambda: [64, 128])  # of the pictures, before they are upsampled
    fps: float = 4.0  # key frames a second; of the upsampler's clips, their rate
    cache_fps: float = 4.0  # rate at which a source is cached; a whole multiple of fps
    cache_dir: str = "runs/cache"  # frames and latents, shared by runs
    position_tables: bool = False  # exported temporal layers hold frame positions as numbers: smaller, the same results
    weights: str = "float32"  # type of the exported weights: float32, float16, bfloat16
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)  # read by stage autoencoder
    backbone: BackboneConfig = field(default_factory=BackboneConfig)  # by stages image, text_base, text_image_upscaler
    conditioner: ConditionerConfig = field(default_factory=ConditionerConfig)  # read by stage image
    temporal: TemporalConfig = field(default_factory=TemporalConfig)  # read by stage prediction
    interpolation: InterpolationConfig = field(default_factory=InterpolationConfig)  # read by stage interpolation
    upsampler: UpsamplerConfig = field(default_factory=UpsamplerConfig)  # read by both stages of the upsampler
    upsampler_temporal: UpsamplerTemporalConfig = field(default_factory=UpsamplerTemporalConfig)  # by stage upsampler
    video_decoder: VideoDecoderConfig = field(default_factory=VideoDecoderConfig)  # read by stage video_decoder
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)  # by text_base, text_image_upscaler
    text_temporal: TextTemporalConfig = field(default_factory=TextTemporalConfig)  # read by stage text_key_frames
    text_interpolation: TextInterpolationConfig = field(default_factory=TextInterpolationConfig)  # by that stage
    text_upscaler: TextUpscalerConfig = field(default_factory=TextUpscalerConfig)  # read by the stages of the upscaler
    dreambooth: DreamBoothConfig = field(default_factory=DreamBoothConfig)  # read by both stages of DreamBooth
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)  # read by both stages of distillation
    text_loss: TextLossConfig = field(default_factory=TextLossConfig)  # of the text family
    crop: CropConfig = field(default_factory=CropConfig)  # read by the stages that learn from pictures
    autoencoder_loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)  # stage autoencoder
    image_loss: ImageLossConfig = field(default_factory=ImageLossConfig)  # stage image
    prediction_loss: PredictionLossConfig = field(default_factory=PredictionLossConfig)  # stage prediction
    interpolation_loss: InterpolationLossConfig = field(default_factory=InterpolationLossConfig)  # stage interpolation
    upsampler_loss: UpsamplerLossConfig = field(default_factory=UpsamplerLossConfig)  # both stages of the upsampler
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)  # noise; fixed by stages image, image_upsampler
    video_decoder_loss: VideoDecoderLossConfig = field(default_factory=VideoDecoderLossConfig)  # stage video_decoder
    design_sampling: SamplingConfig = field(default_factory=SamplingConfig)  # default of the exported model
    predict_sampling: PredictionSamplingConfig = field(default_factory=PredictionSamplingConfig)  # likewise
    interpolate_sampling: SamplingConfig = field(default_factory=SamplingConfig)  # default of the exported model
    upsample_sampling: SamplingConfig = field(default_factory=SamplingConfig)  # default of the exported model
    optim: OptimConfig = field(default_factory=OptimConfig)  # optimizer
    loader: DataModuleConfig = field(default_factory=DataModuleConfig)  # batches
    trainer: TrainerConfig = field(default_factory=TrainerConfig)  # length, device, intervals

    def __post_init__(self) -> None:
        stage = StageName(self.stage)
        if stage is not StageName.AUTOENCODER and self.init is None:
            raise ValueError(f"stage={stage.value} needs init=FOLDER, the model of the stage before")
        num_items, devices = self.loader.num_val_items, self.trainer.devices
        if num_items < devices:
            raise ValueError(
                f"loader.num_val_items={num_items} for trainer.devices={devices}: each device validates on items of "
                f"its own, so there must be as many or more; set loader.num_val_items={devices}"
            )
        given, num_frames = max(self.prediction_loss.given), self.temporal.num_frames
        if stage is StageName.PREDICTION and given >= num_frames:
            raise ValueError(
                f"prediction_loss.given={self.prediction_loss.given}: clips of temporal.num_frames={num_frames} leave "
                f"nothing to predict after {given}; the most is {num_frames - 1}"
            )
        if self.trainer.gradient_checkpointing and not stage.can_checkpoint_gradients:
            able = ", ".join(other.value for other in StageName if other.can_checkpoint_gradients)
            raise ValueError(f"trainer.gradient_checkpointing=true: stage {stage.value} cannot; those that can: {able}")
        for name, reads in {"box_weight": "weighs_boxes", "drop_text": "drops_text"}.items():
            value = getattr(self.text_loss, name)
            if value not in (0, getattr(TextLossConfig(), name)) and not getattr(stage, reads):
                able = ", ".join(other.value for other in StageName if getattr(other, reads))
                raise ValueError(
                    f"text_loss.{name}={value}: stage {stage.value} does not read it, so leave it out or make it 0; "
                    f"those that do: {able}"
                )
        number_type(self.weights)
