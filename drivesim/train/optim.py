"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import nn

from drivesim.train.muon import Muon, hidden_matrices


class OptimizerName(str, Enum):
    """Optimizers."""

    ADAMW = "adamw"
    MUON = "muon"  # for the weights of linear layers and convolutions; AdamW for the rest


class LearningRate(str, Enum):
    """Course of the learning rate after warm-up."""

    CONSTANT = "constant"
    COSINE = "cosine"


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """Optimizer with warm-up."""

    learning_rate: float = 1e-4  # peak
    optimizer: OptimizerName = OptimizerName.ADAMW  # which
    schedule: LearningRate = LearningRate.CONSTANT  # course after warm-up
    warmup_steps: int = 100  # linear from zero
    final_share: float = 0.05  # share of the peak that cosine ends at
    weight_decay: float = 0.0  # AdamW's decoupled decay
    momentum: float = 0.95  # of muon's matrices
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])  # AdamW's moments
    clip_norm: float = 1.0  # gradients are scaled down to this norm
    ema_decay: float = 0.999  # of the averaged weights; less at the start


def learning_rate_share(step: int, max_steps: int, config: OptimConfig) -> float:
    """Share of the peak learning rate at a step."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if LearningRate(config.schedule) is LearningRate.CONSTANT:
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps))
    return config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(
    module: nn.Module, config: OptimConfig, max_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """The optimizer of a module's trained parameters, and its schedule by step."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    adamw: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.betas[0], config.betas[1]),
        "weight_decay": config.weight_decay,
    }
    if OptimizerName(config.optimizer) is OptimizerName.MUON:
        matrices = hidden_matrices(module)
        of_matrices = {id(weight) for weight in matrices}
        others = [parameter for parameter in trained if id(parameter) not in of_matrices]
        optimizer: torch.optim.Optimizer = Muon(matrices, others, config.momentum, **adamw)
    else:
        optimizer = torch.optim.AdamW(trained, **adamw)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, max_steps, config))
    return optimizer, schedule
