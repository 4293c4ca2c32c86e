"""How fast the shipped model rolls out."""

from __future__ import annotations

import time
from pathlib import Path

from drivesim import Scene, Simulator

SCENE = Path(__file__).resolve().parents[2] / "conf" / "scenes" / "cut_in.yaml"
SECONDS = 20


def test_key_frames_a_second_on_one_core() -> None:
    began = time.perf_counter()
    simulator = Simulator.from_pretrained("toytown")
    loaded = time.perf_counter()
    frame = simulator.design(Scene.load(SCENE))
    designed = time.perf_counter()
    num_frames = sum(len(frames) for frames in simulator.rollout(frame, seconds=SECONDS))
    ended = time.perf_counter()
    print(f"\nmodel toytown: loaded in {loaded - began:.1f} s, a start frame in {designed - loaded:.2f} s")
    print(
        f"rollout: {num_frames / (ended - designed):.2f} key frames/s, {SECONDS / (ended - designed):.2f} of real time"
    )
