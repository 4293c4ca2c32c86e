"""What a person can choose about the training of text models, beside what all trainings have."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class TextTemporalConfig:
    """Temporal layers of key frames (Table 8): one alpha for all frames, text in their cross-attention."""

    num_frames: int = 8  # frames of a training clip
    feed_forward_mult: int = 4  # width of the temporal feed-forward layers


@dataclass(kw_only=True, slots=True)
class TextInterpolationConfig:
    """Interpolation: a U-Net of its own with temporal layers (Table 8)."""

    num_frames: int = 5  # frames of one call: two given ones and those between
    rates: list[float] = field(default_factory=lambda: [7.5, 30.0])  # frames a second after each pass of one model
    max_noise_level: int = 250  # given frames are noised to a diffusion step drawn from 0 to this, and it is told
    feed_forward_mult: int = 4  # width of the temporal feed-forward layers

    def __post_init__(self) -> None:
        """Refuses what cannot be trained."""
        if self.max_noise_level < 1:
            raise ValueError(f"text_interpolation.max_noise_level is {self.max_noise_level}; it must be 1 or more")


@dataclass(kw_only=True, slots=True)
class TextUpscalerConfig:
    """Temporal layers of the x4 upscaler (Table 8)."""

    num_frames: int = 8  # frames of a portion
    overlap: int = 2  # frames of a portion that the one before it makes as well
    context_channels: int = 128  # channels that the small frames are convolved to
    feed_forward_mult: int = 4  # width of the temporal feed-forward layers
    max_noise_level: int = 250  # small frames are noised to a diffusion step drawn from 0 to this
    noise_level: int = 30  # diffusion step whose noise small frames get when sampling

    def __post_init__(self) -> None:
        """Refuses portions that are all overlap."""
        if not 0 <= self.overlap <= self.num_frames // 2:
            raise ValueError(
                f"text_upscaler: overlap={self.overlap} of num_frames={self.num_frames}; at most half overlaps"
            )


@dataclass(kw_only=True, slots=True)
class TextLossConfig:
    """What text models see, and what counts."""

    drop_text: float = 0.1  # share of samples whose caption is left out: the unconditional branch of guidance
    box_weight: float = 0.0  # how much more an error inside a box counts, where boxes are known; 0 = as outside

    def __post_init__(self) -> None:
        """Refuses shares that are none."""
        if not 0 <= self.drop_text <= 1:
            raise ValueError(f"text_loss.drop_text is {self.drop_text}; it is a share, 0 to 1")
