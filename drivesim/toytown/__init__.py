"""A procedural driving world with exact ground truth: simulate, render, write as nuScenes tables."""

from drivesim.toytown.config import TownConfig, Turn, TurnOdds
from drivesim.toytown.episode import Episode, simulate
from drivesim.toytown.nuscenes_tables import write_nuscenes
from drivesim.toytown.renderer import render

__all__ = ["Episode", "TownConfig", "Turn", "TurnOdds", "render", "simulate", "write_nuscenes"]
