"""Memory of a rollout does not grow with its length."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from drivesim.rollout.run import RolloutConfig, run_rollout
from drivesim.rollout.start import Start
from tests.rollout.tiny_model import TinyModel, start_frame

SIZE_HW = (256, 512)


class LargePictures(TinyModel):
    """Frames of 0.4 MB: 60 s of them, kept, would be 94 MB."""

    size_hw = start_hw = SIZE_HW

    def encode(self, frames_THWC: np.ndarray) -> torch.Tensor:
        return super().encode(frames_THWC[:, ::8, ::8])

    def decode(self, latents_TCHW: torch.Tensor) -> np.ndarray:
        return super().decode(latents_TCHW).repeat(8, axis=1).repeat(8, axis=2)


def measure(run_dir: Path) -> None:
    """Prints the peak memory in MB after 15 s and after 60 s more; runs in a process of its own."""
    import resource

    start = Start(name="street", frame_HWC=start_frame().repeat(8, axis=0).repeat(8, axis=1))
    for seconds in (15.0, 60.0):
        config = RolloutConfig(futures=1, seconds=seconds)
        assert run_rollout(config, start, LargePictures, run_dir / str(seconds))[0].ok
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def test_a_rollout_four_times_as_long_has_the_same_peak_within_5_percent(tmp_path: Path, repo_root: Path) -> None:
    script = (
        f"from pathlib import Path; from tests.rollout.test_memory import measure; measure(Path({str(tmp_path)!r}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], cwd=repo_root, check=True, capture_output=True, text=True
    ).stdout
    short_mb, long_mb = (float(line) for line in output.split())
    assert long_mb <= 1.05 * short_mb, f"{short_mb:.0f} MB for 15 s, {long_mb:.0f} MB for 60 s"
