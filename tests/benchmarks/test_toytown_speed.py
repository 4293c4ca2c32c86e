"""How fast toytown is drawn."""

from __future__ import annotations

import time

import cv2
import pytest

from drivesim.core.camera import Camera
from drivesim.toytown import TownConfig, render, simulate


@pytest.mark.parametrize("size_hw", [(64, 128), (128, 256), (512, 1024)])
def test_frames_a_second_on_one_core(size_hw: tuple[int, int]) -> None:
    cv2.setNumThreads(1)
    camera = Camera.front(size_hw)
    num_frames, seconds = 0, 0.0
    for seed in range(4):
        episode = simulate(TownConfig(), seed)
        began = time.process_time()
        for frame in range(0, len(episode), 4):
            render(episode, frame, camera)
        seconds += time.process_time() - began
        num_frames += len(range(0, len(episode), 4))
    print(f"\ntoytown {size_hw[0]} x {size_hw[1]}: {num_frames / seconds:.0f} frames/s on one core")
