"""A small network of our own that sees what moves and what is there; scores by it need no download.

Legend: B clips, T frames, C channels, H x W pixels, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from drivesim.evaluate.network_files import load_weights, save_weights

INPUT_HW = (64, 128)

_LAGS = (1, 2, 4)  # frames over which change is measured

# How a clip can be played; telling these apart is what makes the features see motion.
PLAYBACKS = ("forward", "reversed", "shuffled", "frozen", "jittered", "blurred")


@dataclass(kw_only=True, slots=True)
class ClipNetworkConfig:
    """Sizes of a `ClipNetwork`."""

    channels: tuple[int, int, int, int] = (12, 24, 48, 96)  # of pictures 2, 4, 8 and 16 times smaller
    motion_channels: tuple[int, int, int] = (32, 48, 64)  # of the 3-D branch
    clip_features: int = 128  # D of a clip's vector
    frame_features: int = 96  # D of a frame's vector
    grid_hw: tuple[int, int] = (4, 8)  # cells of the map of where cars are


@dataclass(kw_only=True, slots=True)
class ClipPredictions:
    """What the heads say; training alone looks at them."""

    playback: Tensor  # (B, len(PLAYBACKS)) logits
    ego: Tensor  # (B, T, 2) way forward and yaw (left positive) since the frame before, scaled
    num_cars: Tensor  # (B, T) log(1 + cars)
    nearest: Tensor  # (B, T) 10 m / distance of the nearest car, 0 = none
    night: Tensor  # (B, T) logit
    occupancy: Tensor  # (B, T, grid height, grid width) logit of a car's box covering the cell's centre


class ClipNetwork(nn.Module):
    """A 2-D trunk for each frame and, from its 4 times smaller maps, a 3-D branch for motion.

    Any number of frames from 2 on, at any rate. Brightness and contrast are taken out by group norm.
    """

    def __init__(self, config: ClipNetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ClipNetworkConfig()
        self.playbacks = PLAYBACKS
        self.input_hw = INPUT_HW
        self.grid_hw = config.grid_hw
        c2, c4, c8, c16 = config.channels
        m1, m2, m3 = config.motion_channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, c2, 5, stride=2, padding=2),
            nn.GroupNorm(4, c2),
            nn.SiLU(),
            nn.Conv2d(c2, c4, 3, stride=2, padding=1),
            nn.GroupNorm(4, c4),
            nn.SiLU(),
        )
        self.frame_branch = nn.Sequential(
            nn.Conv2d(c4, c8, 3, stride=2, padding=1),
            nn.GroupNorm(8, c8),
            nn.SiLU(),
            nn.Conv2d(c8, c16, 3, stride=2, padding=1),
            nn.GroupNorm(8, c16),
            nn.SiLU(),
            nn.Conv2d(c16, c16, 3, padding=1),
            nn.SiLU(),
        )
        self.motion_branch = nn.Sequential(
            nn.Conv3d(c4, m1, 3, stride=(1, 2, 2), padding=1),
            nn.GroupNorm(8, m1),
            nn.SiLU(),
            nn.Conv3d(m1, m2, 3, padding=1),
            nn.GroupNorm(8, m2),
            nn.SiLU(),
            nn.Conv3d(m2, m3, 3, stride=(1, 2, 2), padding=1),
            nn.GroupNorm(8, m3),
            nn.SiLU(),
        )
        # Normed, or else one plain property such as night outweighs all others in a distance.
        norm = nn.LayerNorm(config.frame_features, elementwise_affine=False)
        self.frame_vector = nn.Sequential(nn.Linear(2 * c16, config.frame_features), norm)
        self.clip_vector = nn.Sequential(nn.Linear(3 * m3 + c16 + len(_LAGS) * c4, config.clip_features), nn.SiLU())
        self.playback_head = nn.Linear(config.clip_features, len(PLAYBACKS))
        self.ego_head = nn.Sequential(nn.Linear(2 * m3, 64), nn.SiLU(), nn.Linear(64, 2))
        self.clip_ego_head = nn.Linear(config.clip_features, 2)
        self.scene_head = nn.Linear(config.frame_features, 3)
        self.occupancy_head = nn.Conv2d(c16, 1, 1)

    def forward(self, frames_BTCHW: Tensor) -> ClipPredictions:
        """All heads' answers for float frames in [-1, 1] of INPUT_HW."""
        stem, maps_2d, maps_3d = self._maps(frames_BTCHW)
        clip = self._clip_vector(stem, maps_2d, maps_3d)
        scene = self.scene_head(nn.functional.silu(self._frame_vector(maps_2d)))
        # left and right half apart: they tell a turn from a slide
        halves = torch.cat([half.mean(dim=(-2, -1)) for half in maps_3d.chunk(2, dim=-1)], dim=1).transpose(1, 2)
        ego = self.ego_head(halves) + self.clip_ego_head(clip)[:, None]
        return ClipPredictions(
            playback=self.playback_head(clip),
            ego=ego,
            num_cars=scene[..., 0],
            nearest=scene[..., 1],
            night=scene[..., 2],
            occupancy=self.occupancy_head(maps_2d.flatten(0, 1)).unflatten(0, maps_2d.shape[:2]).squeeze(2),
        )

    def clip_features(self, frames_BTCHW: Tensor) -> Tensor:
        """One vector (B, D) a clip, for float frames in [-1, 1] of INPUT_HW.

        Normed, or else a few clips in which the car stands outweigh all others in a distance: between
        two halves of toytown, shuffled clips are 3 times as far as real ones without, 8 times with it.
        """
        vector = self._clip_vector(*self._maps(frames_BTCHW))
        return nn.functional.layer_norm(vector, vector.shape[-1:])

    def frame_features(self, frames_BTCHW: Tensor) -> Tensor:
        """One vector (B, T, D) a frame, from the 2-D trunk alone."""
        stem = self.stem(frames_BTCHW.flatten(0, 1))
        return self._frame_vector(self.frame_branch(stem).unflatten(0, frames_BTCHW.shape[:2]))

    def _maps(self, frames_BTCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of the stem and of single frames (B, T, C, h, w), and of motion (B, C, T, h, w)."""
        shape = frames_BTCHW.shape[:2]
        stem = self.stem(frames_BTCHW.flatten(0, 1))
        maps_2d = self.frame_branch(stem).unflatten(0, shape)
        stem = stem.unflatten(0, shape)
        return stem, maps_2d, self.motion_branch(stem.transpose(1, 2))

    def _frame_vector(self, maps_2d: Tensor) -> Tensor:
        pooled = torch.cat([maps_2d.mean(dim=(-2, -1)), maps_2d.amax(dim=(-2, -1))], dim=-1)
        vector: Tensor = self.frame_vector(pooled)
        return vector

    def _clip_vector(self, stem: Tensor, maps_2d: Tensor, maps_3d: Tensor) -> Tensor:
        motion = maps_3d.mean(dim=(-2, -1))  # (B, C, T)
        spread = motion.std(dim=2, unbiased=False)
        peak = maps_3d.amax(dim=(-3, -2, -1))
        # Natural change grows with the lag, that of shuffled frames does not, frozen frames have none.
        changes = [_log_change(stem, lag) for lag in _LAGS]
        pooled = torch.cat([motion.mean(dim=2), spread, peak, maps_2d.mean(dim=(1, 3, 4)), *changes], dim=1)
        vector: Tensor = self.clip_vector(pooled)
        return vector

    def save(self, path: Path) -> None:
        """Writes the weights as fp16 safetensors."""
        save_weights(self, path)

    @classmethod
    def load(cls, path: Path) -> ClipNetwork:
        """A network of the default sizes with the weights of a file, in float32 and evaluation mode.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds other tensors than this network has.
        """
        return load_weights(cls(), path, "clip network")


def _log_change(stem: Tensor, lag: int) -> Tensor:
    """(B, C) log of the mean change of the stem's maps (B, T, C, h, w) over `lag` frames."""
    lag = min(lag, stem.shape[1] - 1)
    return torch.log((stem[:, lag:] - stem[:, :-lag]).abs().mean(dim=(1, 3, 4)) + 0.01)
