"""Upsampling in pixels, with the driving models: portions of frames for `families.portions`.

Axes: T frames, C channels, H W pixels of the large picture, h w pixels of the small one, Y X of the large one whose
pixels are folded to channels, as it is denoised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivesim.core.seeds import Key, torch_generator
from drivesim.diffusion.objective import add_noise
from drivesim.diffusion.sampling import noise_of, sample
from drivesim.diffusion.schedule import DDIMScheduler
from drivesim.diffusion.settings import SamplingConfig
from drivesim.families.folder import INDEX, sampling_of
from drivesim.models.autoencoder import to_levels
from drivesim.models.upsampler import Upsampler

FRAMES_AT_ONCE = 8  # of an upsampler without temporal layers


@dataclass(kw_only=True, slots=True)
class UpsamplingModel:
    """An upsampler and how it is run."""

    networks: Upsampler
    schedule: DDIMScheduler  # the upsampler's own
    sampling: SamplingConfig  # sampler and steps; there is no guidance, because nothing could be left out
    noise_level: int  # diffusion step whose noise small frames get; the network is told
    fps: float  # of the video, to name times
    overlap: int = 0  # frames of a portion that the one before it makes as well; cross-faded

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= self.portion // 2:
            raise ValueError(f"upsampler: overlap={self.overlap} of a portion of {self.portion}; at most half overlaps")
        last = self.schedule.config.num_train_timesteps - 1
        if not 0 <= self.noise_level <= last:
            raise ValueError(f"upsampler: noise_level={self.noise_level}, expected a diffusion step from 0 to {last}")

    @classmethod
    def from_parts(
        cls, parts: dict[str, Any], index: dict[str, Any], *, frame_by_frame: bool = False
    ) -> UpsamplingModel:
        """The upsampler of a model folder.

        Args:
            parts: what `families.folder.load_parts` gives.
            index: what `families.folder.read_index` gives.
            frame_by_frame: leave out the temporal layers, as models do that have none.

        Raises:
            ValueError: a model without an upsampler, or parts and index that do not fit together; names both sides.
        """
        temporal = None if frame_by_frame else parts.get("upsampler_temporal")
        own = _facts(index, "upsampler", ("scale", "patch_px", "detail_gain", "noise_level"))
        networks = Upsampler(parts["upsampler"], temporal, scale=own["scale"], detail_gain=own["detail_gain"])
        pairs = {"patch_px": (own["patch_px"], networks.patch_px)}
        portions = {"overlap": 0}
        if temporal is not None:
            portions = _facts(index, "upsampler_temporal", ("portion", "overlap"))
            pairs["frames of a portion"] = (portions["portion"], temporal.config.num_frames)
        for what, (one, other) in pairs.items():
            if one != other:
                raise ValueError(f"model {index['name']!r}: {what}: {one} in the index, {other} in the parts")
        return cls(
            networks=networks.eval().requires_grad_(False),
            schedule=parts["upsampler_scheduler"],
            sampling=sampling_of(index, "upsample_sampling", SamplingConfig),
            noise_level=own["noise_level"],
            fps=float(index["rates"][-1] if index.get("rates") else index["fps"]),
            overlap=portions["overlap"],
        )

    @property
    def portion(self) -> int:
        """Frames that are made at once."""
        video_unet = self.networks.video_unet
        return FRAMES_AT_ONCE if video_unet is None else int(video_unet.temporal.config.num_frames)

    @property
    def frame_by_frame(self) -> bool:
        """Whether frames of a portion are made without regard to each other."""
        return self.networks.video_unet is None

    @property
    def scale(self) -> int:
        """Pixels of the large picture to one of the small one, a side."""
        return self.networks.scale

    def none(self, low_TChw: Tensor) -> Tensor:
        """No large frame (0, C, Y, X)."""
        return low_TChw.new_zeros(0, *self.networks.folded_shape(low_TChw.shape[-2:]))

    def make(self, low_TChw: Tensor, *, first_frame: int, key: tuple[Key, ...], conditions: Any = None) -> Tensor:
        """Large frames (T, C, Y, X) of a portion; see `upsample_portion`. The networks are told of no conditions."""
        return upsample_portion(self, low_TChw, first_frame=first_frame, key=key)

    def pictures(self, made_TCYX: Tensor, *, first_frame: int) -> NDArray[np.uint8]:
        """uint8 RGB pictures (T, H, W, 3) of large frames, whatever their number."""
        return self.networks.pictures(to_levels(made_TCYX))


def _facts(index: dict[str, Any], key: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    """What a model's index says of a part, all of it."""
    facts: Any = index.get(key)
    if facts is None:
        raise ValueError(f"model {index['name']!r} has no {key}")
    missing = sorted(set(wanted) - set(facts)) if isinstance(facts, dict) else list(wanted)
    if missing:
        raise ValueError(f"model {index['name']!r}: {key} in {INDEX}: missing keys {', '.join(missing)}")
    return dict(facts)


@torch.no_grad()
def upsample_portion(model: UpsamplingModel, low_TChw: Tensor, *, first_frame: int, key: tuple[Key, ...]) -> Tensor:
    """Large frames of a portion of small ones, of any size that the U-Net's levels divide.

    A frame's noise depends on its own number in the video, so that portions that overlap begin from the same noise
    where they do.

    Args:
        model: its networks make every frame by itself where they have no temporal layers.
        low_TChw: small frames in [-1, 1]; at most a portion.
        first_frame: number of the first frame in its video.
        key: of the video's noise.

    Returns:
        Folded frames (T, C, Y, X), about in [-1, 1], on the networks' device; `UpsamplingModel.pictures` unfolds them.

    Raises:
        ValueError: small frames that the U-Net cannot halve as often as it has to.
    """
    networks = model.networks
    networks.check_low((low_TChw.shape[-2], low_TChw.shape[-1]))
    low = low_TChw.to(networks.unet.conv_in.weight)  # diffusers' `device` and `dtype` look through all modules
    generators = [torch_generator(*key, "upsample", first_frame + frame) for frame in range(len(low))]
    low_noise = noise_of(generators, low.shape[1:]).to(low)
    level = torch.tensor([model.noise_level], device=low.device)
    noised_low, _ = add_noise(low, low_noise, level.expand(len(low)), model.schedule)

    def denoise(x_TCYX: Tensor, step_T: Tensor) -> Tensor:
        return networks(x_TCYX[None], step_T[:1], noised_low[None], level)[0]  # type: ignore[no-any-return]

    shape = networks.folded_shape(low.shape[-2:])
    made = sample(denoise, shape, model.schedule, model.sampling, generators, device=low.device, dtype=low.dtype)
    return networks.from_diffused(made, low)
