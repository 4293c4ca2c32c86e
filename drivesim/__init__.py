"""Autonomous-driving simulation with video latent diffusion models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivesim.core.motion import MotionSegment
    from drivesim.core.scene import Scene
    from drivesim.simulator import Simulator

__all__ = ["MotionSegment", "Scene", "Simulator"]

_PLACES = {"MotionSegment": "drivesim.core.motion", "Scene": "drivesim.core.scene", "Simulator": "drivesim.simulator"}


def __getattr__(name: str) -> Any:
    """Loads the public classes when they are asked for: `import drivesim` alone stays light."""
    if name not in _PLACES:
        raise AttributeError(f"module 'drivesim' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
