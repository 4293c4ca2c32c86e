"""How near a plan comes: predicted peak memory and time against those of the same command line, run for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from drivesim.toytown import TownConfig, write_nuscenes

STEPS = 6  # of a training; the first one warms up
SHARED = [
    f"trainer.max_steps={STEPS}", f"trainer.validate_every={STEPS}", f"trainer.picture_every={STEPS}",
    "trainer.progress=false", "cache_dir=cache",
]  # fmt: skip
ON_TOYTOWN = [*SHARED, "init=toytown"]
RUNS = {
    "autoencoder": ["train", "experiment=toytown/autoencoder", *SHARED],
    "autoencoder with discriminator": ["train", "experiment=toytown/autoencoder_whole", "warm_start=null", *SHARED],
    "image": ["train", "experiment=toytown/image", *ON_TOYTOWN],
    "prediction": ["train", "experiment=toytown/prediction", "warm_start=null", "fps=4", "cache_fps=4", *ON_TOYTOWN],
    "prediction, half the batch, AdamW": [
        "train", "experiment=toytown/prediction", "warm_start=null", "fps=4", "cache_fps=4", "loader.batch_size=2",
        "optim.optimizer=ADAMW", *ON_TOYTOWN,
    ],
    "interpolation": [
        "train", "experiment=toytown/interpolation", "fps=1", "cache_fps=4", "interpolation.num_frames=5",
        "interpolation.rates=[4.0]", *ON_TOYTOWN,
    ],
    "video decoder": [
        "train", "experiment=toytown/video_decoder", "fps=4", "cache_fps=4", "video_decoder.fps=4", *ON_TOYTOWN
    ],
    "rollout of key frames": [
        "rollout", "start=cut_in", "futures=1", "seconds=12", "stages.interpolate=false", "stages.upsampling=NONE"
    ],
    "rollout": ["rollout", "start=cut_in", "futures=1", "seconds=10"],
    "rollout in small pieces": [
        "rollout", "start=cut_in", "futures=1", "seconds=10", "stages.upsampling=NONE", "memory.tile=4",
        "memory.chunk=4",
    ],
}  # fmt: skip
RUN = """
import sys
from drivesim import cli
from drivesim.core.machine import peak_resident_bytes
cli.main()
print(peak_resident_bytes(), file=sys.stderr)
"""
TIMED = """
import time
from drivesim.train.stage import Stage
step, times = Stage.training_step, []
def timed(self, *args):
    times.append(time.process_time())
    return step(self, *args)
Stage.training_step = timed
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plan")
    town = TownConfig(num_scenes=3, duration_s=8.0, fps=4.0, key_fps=4.0, size_hw=(64, 128))
    write_nuscenes(town, root / "town")
    return root


def run(code: str, arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", RUNS)
def test_peak_memory_is_within_15_percent(name: str, folder: Path, repo_root: Path) -> None:
    command = RUNS[name]
    if command[0] == "train":
        # Another folder than the recipe's own data, and of its tables no more than these: nothing is drawn again.
        command = [*command, "data=nuscenes", "data.root=town", "data.version=v1.0-toytown"]
        command += ["data.val_scenes=[toytown-0002]"]
    code = f"import sys; sys.path.insert(0, {str(repo_root)!r})\n"
    run(code + RUN, ["plan", *command, "out=plan"], folder)
    plan = json.loads((folder / "plan" / "plan.json").read_text())
    timing = "" if command[0] == "rollout" else TIMED
    after = "" if command[0] == "rollout" else "print(min(b - a for a, b in zip(times, times[1:])), file=sys.stderr)\n"
    printed = run(code + timing + RUN + after, [*command, f"out={name.replace(' ', '_').replace(',', '')}"], folder)
    lines = printed.strip().splitlines()
    measured = int(lines[-1 if command[0] == "rollout" else -2])
    predicted = plan["memory_bytes"]
    print(f"\n{name}: {predicted / 2**20:.0f} MiB predicted, {measured / 2**20:.0f} measured, "
          f"{predicted / measured - 1:+.1%}", end="")  # fmt: skip
    if command[0] == "train":
        (step,) = (row for row in plan["time"] if row["name"] == "training step")
        print(f"; a step {step['value'] / STEPS:.3f} s predicted, {float(lines[-1]):.3f} s of CPU measured", end="")
    assert predicted == pytest.approx(measured, rel=0.15)
