"""Every metric gives, after torchmetrics gathers the states of several processes, what one process would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from drivesim.evaluate.extractors import ClassScores, FeatureKind
from drivesim.evaluate.frechet_metric import FrechetDistance
from drivesim.evaluate.inception_score import InceptionScore
from drivesim.evaluate.kernel_distance import KernelDistance
from drivesim.evaluate.text_similarity import ClipSimilarity

Clips = NDArray[np.uint8]


class MeanColour:
    """A tiny extractor: mean colour of the clip's first and last frame."""

    name = "mean-colour"
    kind = FeatureKind.CLIP
    class_scores = ClassScores.LOGITS
    feature_dim = 6
    min_frames = 1
    fingerprint = "none"
    is_standard = False
    metric_name = "Fréchet clip distance (mean-colour)"

    def __call__(self, frames_BTHWC: Clips) -> Tensor:
        means = torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(2, 3)) / 20
        return torch.cat([means[:, 0], means[:, -1]], dim=1)


def both_sides(metric: Metric, clips: Clips) -> None:
    metric.update(clips, real=True)
    metric.update(clips // 2, real=False)


def one_side(metric: Metric, clips: Clips) -> None:
    metric.update(clips)


def with_prompts(metric: Metric, clips: Clips) -> None:
    embeddings = torch.from_numpy(clips.reshape(len(clips), 4, -1).astype(np.float32))
    metric.update(embeddings[:, 0] + 1, embeddings)


MAKERS: dict[str, tuple[Callable[..., Metric], Callable[[Metric, Clips], None]]] = {
    "Fréchet": (lambda **options: FrechetDistance(MeanColour(), **options), both_sides),
    "kernel": (lambda **options: KernelDistance(MeanColour(), **options), both_sides),
    "Inception": (lambda **options: InceptionScore(MeanColour(), num_splits=2, **options), one_side),
    "CLIPSIM": (lambda **options: ClipSimilarity(**options), with_prompts),
}


def states(metric: Metric) -> Iterator[Tensor]:
    """What torchmetrics sends, in its order."""
    for name in metric._reductions:
        value = getattr(metric, name)
        yield torch.cat(value) if isinstance(value, list) else value


@pytest.mark.parametrize("cuts", [[24], [11, 24], [2, 9, 24]])
@pytest.mark.parametrize("name", list(MAKERS))
def test_gathered_processes_equal_one(name: str, cuts: list[int]) -> None:
    clips = np.random.default_rng(0).integers(0, 256, size=(24, 4, 6, 8, 3), dtype=np.uint8)
    make, fill = MAKERS[name]
    whole = make()
    fill(whole, clips)
    others = [make() for _ in cuts[1:]]

    gathered = iter(())

    def gather(tensor: Tensor, group: object = None) -> list[Tensor]:
        return [tensor, *next(gathered)]

    first = make(dist_sync_fn=gather, distributed_available_fn=lambda: True)
    for metric, start, end in zip([first, *others], [0, *cuts[:-1]], cuts, strict=True):
        fill(metric, clips[start:end])
    gathered = zip(*(states(metric) for metric in others), strict=True) if others else iter([()] * 9)
    found, expected = (np.atleast_1d(torch.as_tensor(metric.compute())) for metric in (first, whole))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def random_clips() -> Clips:
    return np.random.default_rng(1).integers(0, 256, size=(24, 4, 6, 8, 3), dtype=np.uint8)


def found_by(metric: Metric) -> list[float]:
    return np.atleast_1d(torch.as_tensor(metric.compute())).tolist()


def be_a_process(rank: int, folder: Path) -> None:
    """One of two processes with an uneven share of the clips; writes what it computes after synchronisation."""
    clips = random_clips()[:9] if rank == 0 else random_clips()[9:]
    store = (folder / "meeting").as_uri()
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    values = {}
    for name, (make, fill) in MAKERS.items():
        metric = make()
        fill(metric, clips)
        values[name] = found_by(metric)
        metric.reset()
        fill(metric, clips)
        values[f"{name}, again"] = found_by(metric)
    torch.distributed.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(values))


def test_two_real_processes_equal_one(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    processes = [
        subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True, env=environment) for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    for rank in range(2):
        values = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, (make, fill) in MAKERS.items():
            whole = make()
            fill(whole, random_clips())
            for found in (values[name], values[f"{name}, again"]):
                np.testing.assert_allclose(found, found_by(whole), rtol=1e-9)


if __name__ == "__main__":
    be_a_process(int(sys.argv[2]), Path(sys.argv[1]))
