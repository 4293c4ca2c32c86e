"""Autonomous-driving simulation with video latent diffusion models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivesim.core.scene import Scene
    from drivesim.simulator import Simulator

__all__ = ["Scene", "Simulator"]


def __getattr__(name: str) -> Any:
    """Loads the public classes when they are asked for: `import drivesim` alone stays light."""
    if name == "Simulator":
        from drivesim.simulator import Simulator

        return Simulator
    if name == "Scene":
        from drivesim.core.scene import Scene

        return Scene
    raise AttributeError(f"module 'drivesim' has no attribute {name!r}")
