"""Clips a second from video file to I3D's features, ours beside a public implementation; memory of 2,048 clips.

The public one is https://github.com/piergiaj/pytorch-i3d, whose file is not part of this project:
DRIVESIM_PEER_I3D=PATH of its `pytorch_i3d.py` names it, and without it ours is measured alone. Both get the same random
weights, one thread and the same files; the peer's path reads them as the ports that score by it do: all frames, one
bilinear resize in floats, the network.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file

from drivesim.core.files import sha256_file
from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate.clips import iter_clips
from drivesim.evaluate.extractors import ExtractorConfig, make_extractor
from drivesim.evaluate.i3d import I3D, NetworkResize, network_input
from drivesim.evaluate.protocol import ClipChoice, ProtocolConfig
from drivesim.evaluate.videos import find_videos

ROOT = Path(__file__).resolve().parents[2]
NUM_VIDEOS, NUM_FRAMES, SIZE_HW = 2, 16, (256, 256)
ROUNDS = 2
MAX_PEAK_GB = 1.5

Features = NDArray[np.float32]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = I3D()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):  # as trained ones: no mean of 0, no deviation of 1
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "i3d.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    y, x = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    for index in range(NUM_VIDEOS):
        with VideoWriter(folder / f"{index}.mp4", 10.0) as writer:
            for step in range(NUM_FRAMES):
                waves = [np.sin((x * (c + 1) + y * index + 9 * step) / 17) for c in range(3)]
                writer.write((127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8))
    return folder


class Ours:
    """What `drivesim evaluate` does to a video with i3d-kinetics400."""

    name = "drivesim"

    def __init__(self, weights: Path) -> None:
        config = ExtractorConfig(name="i3d-kinetics400", weights=str(weights), sha256=sha256_file(weights))
        self.extractor = make_extractor(config)
        self.protocol = ProtocolConfig(num_frames=NUM_FRAMES, clip_choice=ClipChoice.FIRST, context_frames=0)

    def clips(self, folder: Path) -> NDArray[np.uint8]:
        return np.stack([clip for video in find_videos(folder) for clip in iter_clips(video, self.protocol, SIZE_HW)])

    def prepared(self, clips: NDArray[np.uint8]) -> torch.Tensor:
        return network_input(clips, NetworkResize.SQUASH)

    def features(self, clips: NDArray[np.uint8]) -> Features:
        return self.extractor(clips).numpy()


class Peer:
    """The public network, fed as its users feed it."""

    name = "pytorch-i3d"

    def __init__(self, weights: Path) -> None:
        path = os.environ.get("DRIVESIM_PEER_I3D")
        if path is None:
            pytest.skip("DRIVESIM_PEER_I3D names no pytorch_i3d.py")
        spec = importlib.util.spec_from_file_location("peer_i3d", path)
        assert spec is not None and spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        from safetensors.torch import load_file

        self.network = module.InceptionI3d(400, in_channels=3)
        self.network.load_state_dict(load_file(weights))
        self.network.eval()

    def clips(self, folder: Path) -> NDArray[np.uint8]:
        found = []
        for path in sorted(folder.glob("*.mp4")):
            with av.open(str(path)) as container:
                found.append(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))
        return np.stack(found)

    def prepared(self, clips: NDArray[np.uint8]) -> torch.Tensor:
        frames = torch.from_numpy(clips).float().flatten(0, 1).permute(0, 3, 1, 2).contiguous()
        frames = F.interpolate(frames, size=(224, 224), mode="bilinear", align_corners=False)
        return 2 * frames.unflatten(0, clips.shape[:2]).transpose(1, 2).contiguous() / 255 - 1

    @torch.no_grad()
    def features(self, clips: NDArray[np.uint8]) -> Features:
        logits: torch.Tensor = self.network(self.prepared(clips)).mean(dim=2)
        return logits.numpy()


def seconds_of(work: Callable[[], object]) -> float:
    """CPU time of one run; others on the machine count less in it than in the time on the wall."""
    began = time.process_time()
    work()
    return time.process_time() - began


def test_clips_a_second_from_file_to_features(weights: Path, videos: Path) -> None:
    sides: list[Ours | Peer] = [Ours(weights)]
    if os.environ.get("DRIVESIM_PEER_I3D"):
        sides.append(Peer(weights))
    times: dict[str, list[tuple[float, float, float]]] = {side.name: [] for side in sides}
    features = {}
    for _ in range(ROUNDS):
        for side in sides:  # in turn, so that both see the same machine
            clips = side.clips(videos)
            decode_s = seconds_of(lambda side=side: side.clips(videos))
            resize_s = seconds_of(lambda side=side, clips=clips: side.prepared(clips))
            all_s = seconds_of(lambda side=side, clips=clips: features.update({side.name: side.features(clips)}))
            times[side.name].append((decode_s, resize_s, all_s))
    rates = {}
    for name, rounds in times.items():
        decode_s, resize_s, features_s = np.min(rounds, axis=0)
        rates[name] = NUM_VIDEOS / (decode_s + features_s)
        print(
            f"\n{name}: {rates[name]:.3f} clips/s of {NUM_FRAMES} x {SIZE_HW[0]} x {SIZE_HW[1]} on one thread; "
            f"a clip takes {decode_s / NUM_VIDEOS:.3f} s to decode, {resize_s / NUM_VIDEOS:.3f} s to resize, "
            f"{(features_s - resize_s) / NUM_VIDEOS:.3f} s in the network"
        )
    if len(sides) == 2:
        np.testing.assert_allclose(features["drivesim"], features["pytorch-i3d"], atol=1e-4, rtol=1e-4)
        print(f"\ndrivesim / pytorch-i3d: {rates['drivesim'] / rates['pytorch-i3d']:.2f}")


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.videos import Video
torch.set_num_threads(1)
class Projected:
    name, kind, feature_dim, min_frames, fingerprint, is_standard = "projected", FeatureKind.CLIP, 400, 1, "a", False
    metric_name = "Fréchet clip distance (projected)"
    def __init__(self):
        self.matrix = torch.from_numpy(np.random.default_rng(0).normal(size=(16 * 32 * 32 * 3, 400)).astype(np.float32))
    def __call__(self, clips):
        return torch.from_numpy(clips.reshape(len(clips), -1).astype(np.float32)) @ self.matrix
class Made:  # made when read, so that the videos themselves take no memory
    def __init__(self, seed): self.seed = seed
    def __iter__(self):
        return iter(np.random.default_rng(self.seed).integers(0, 256, size=(128, 32, 32, 3), dtype=np.uint8))
def side(first): return (Video(name=f"{s}", frames=Made(s), fps=4.0) for s in range(first, first + 256))
config = EvaluateConfig(protocol=ProtocolConfig(num_frames=16, context_frames=0), diversity=False,
                        drift=DriftConfig(enabled=False))
scores = evaluate(config, side(0), side(5000), sys.argv[1], extractors=[Projected()])
assert scores.card.real.num_clips == 2048 and scores.scores[0].interval is not None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""

ONE_BATCH = """
import resource, sys
import numpy as np, torch
from drivesim.core.files import sha256_file
from drivesim.evaluate.extractors import ExtractorConfig, make_extractor
torch.set_num_threads(1)
network = make_extractor(ExtractorConfig(name="i3d-kinetics400", weights=sys.argv[1], sha256=sha256_file(sys.argv[1])))
network(np.zeros((8, 16, 256, 256, 3), dtype=np.uint8))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def peak_gb(code: str, argument: Path) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(argument)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


def test_2048_clips_a_side_stay_under_a_gigabyte_and_a_half(tmp_path: Path) -> None:
    """All controls and intervals of 400 features; 8 small clips of each of 256 drives, the network a projection."""
    peak = peak_gb(MEMORY, tmp_path)
    print(f"\n2,048 clips a side, 400 features, all rows and intervals: {peak:.2f} GB at most")
    assert peak < MAX_PEAK_GB


def test_one_batch_of_i3d_stays_under_a_gigabyte_and_a_half(weights: Path) -> None:
    """What the network itself takes; it does not grow with the number of clips."""
    peak = peak_gb(ONE_BATCH, weights)
    print(f"\nI3D, 8 clips of 16 x 256 x 256 at once: {peak:.2f} GB at most")
    assert peak < MAX_PEAK_GB
