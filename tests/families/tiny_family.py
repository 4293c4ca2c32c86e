"""A driving model folder of the real classes, small and untrained."""

from __future__ import annotations

from pathlib import Path

import torch

from drivesim.conditioning.driving import ConditionerConfig, make_conditioner
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import ScheduleConfig
from drivesim.families.folder import save_parts, write_index
from drivesim.models.build import (
    AutoencoderConfig,
    BackboneConfig,
    TemporalConfig,
    make_autoencoder,
    make_backbone,
    make_temporal_stack,
)


def write_tiny_family(
    folder: Path,
    *,
    size_hw: tuple[int, int] = (32, 64),
    seed: int = 0,
    context_noise: int = 0,
    ego_motion: bool = False,
) -> Path:
    """Writes a whole model folder; the same seed gives the same bytes."""
    torch.manual_seed(seed)
    autoencoder = make_autoencoder(
        AutoencoderConfig(block_out_channels=[8, 8, 16, 16], layers_per_block=1, latent_channels=4, norm_num_groups=4)
    )
    config = BackboneConfig(
        block_out_channels=[16, 32], attention=[False, True], layers_per_block=1, channels_per_head=8,
        norm_num_groups=8, token_dim=16,
    )  # fmt: skip
    conditioner = make_conditioner(ConditionerConfig(num_layers=1, position_frequencies=1), 16)
    backbone = make_backbone(config, 4, (size_hw[0] // 8, size_hw[1] // 8), conditioner.num_channels)
    temporal = make_temporal_stack(
        TemporalConfig(
            num_frames=10,
            context_channels=8,
            feed_forward_mult=1,
            hold_context=True,
            context_noise=context_noise,
            ego_motion=ego_motion,
        ),
        backbone,
    )
    parts = {
        "autoencoder": autoencoder,
        "backbone": backbone,
        "conditioner": conditioner,
        "temporal": temporal,
        "scheduler": training_schedule(ScheduleConfig()),
    }
    save_parts(folder, parts)
    sampling = {"sampler": "unipc", "steps": 2, "eta": 0.0, "guidance": 1.5}
    write_index(
        folder,
        {
            "name": "tiny",
            "fps": 4.0,
            "size_hw": list(size_hw),
            "design_sampling": sampling,
            "predict_sampling": sampling,
        },
    )
    return folder
