"""Curves, bands, seams and the Fréchet curve against closed forms; a whole drift from files to the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drivesim.core.files import read_json
from drivesim.core.picture import load_picture, save_png
from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate.controls import ControlsConfig
from drivesim.evaluate.curves import Measure, course, smoothed, video_curves
from drivesim.evaluate.drift import Drift, DriftConfig
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.frechet import FrechetStatistics, frechet_distance
from drivesim.evaluate.frechet_curve import BinnedStatistics, frechet_curve, leaves_floor_s
from drivesim.evaluate.lines import score_lines
from drivesim.evaluate.picture_statistics import picture_statistics
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.real_band import RealBand, leaves_at, real_band
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.seams import SeamMeter
from drivesim.evaluate.settings import EvaluateConfig

Frames = NDArray[np.uint8]


def sliding(seed: int, num_frames: int = 24, step_px: int = 2) -> Frames:
    """A window that slides over a wide picture of soft blobs."""
    rng = np.random.default_rng(seed)
    wide = np.kron(rng.integers(40, 160, (6, 40, 3)), np.ones((8, 8, 1)))
    wide = (wide + np.roll(wide, 3, axis=0) + np.roll(wide, 3, axis=1)) / 3
    return np.stack([wide[:, index * step_px : index * step_px + 96] for index in range(num_frames)]).astype(np.uint8)


def test_statistics_of_known_pictures() -> None:
    grey = np.full((32, 64, 3), 77, dtype=np.uint8)
    found = picture_statistics(grey)
    assert (found.brightness, found.contrast, found.sharpness, found.saturation) == (77.0, 0.0, 0.0, 0.0)
    halves = np.zeros((32, 64, 3), dtype=np.uint8)
    halves[:, 32:] = 200
    assert picture_statistics(halves).contrast == pytest.approx(100.0)
    red = np.zeros((32, 64, 3), dtype=np.uint8)
    red[..., 0] = 200
    assert picture_statistics(red).saturation == 1.0
    assert picture_statistics(red // 2).saturation == 1.0
    noise = np.random.default_rng(0).integers(0, 256, (32, 64, 1), dtype=np.uint8).repeat(3, axis=2)
    assert picture_statistics(noise).sharpness > 0.5 > picture_statistics(halves).sharpness


def test_motion_alone_changes_no_light_and_a_gain_is_measured_through_motion() -> None:
    frames = sliding(0)
    still = video_curves(frames)
    assert np.abs(still.light).max() < 0.01
    assert still.motion[1:].min() > 1.0
    assert still.out_of_order.sum() == 0
    factors = np.where(np.arange(len(frames)) < 10, 1.0, 1.25)
    gained = video_curves(np.rint(frames * factors[:, None, None, None]).astype(np.uint8))
    assert gained.light[10] == pytest.approx(np.log(1.25), abs=0.02)
    assert np.delete(gained.light, 10).max() < 0.02
    # The gain is taken out of motion, saturation and sharpness.
    np.testing.assert_allclose(gained.motion[:10], still.motion[:10])
    assert gained.motion[10] == pytest.approx(still.motion[10], rel=0.15)
    assert gained.saturation[12] == pytest.approx(still.saturation[12], rel=0.02)
    assert gained.sharpness[12] == pytest.approx(still.sharpness[12], rel=0.02)
    assert course(gained, Measure.LIGHT)[-1] == pytest.approx(np.log(1.25), abs=0.03)


def test_curves_of_one_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        video_curves(sliding(0, 1))


def test_smoothing_is_a_median_over_what_is_there() -> None:
    values = np.array([0.0, 0, 9, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(smoothed(values, np.median), [0, 0, 0, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(smoothed(values[:3], np.mean), [3, 3, 3])
    assert len(smoothed(np.arange(20.0), np.mean, 10)) == 20


def walks(rng: np.random.Generator, count: int) -> list[NDArray[np.float64]]:
    return list(np.cumsum(rng.normal(size=(count, 20)), axis=1))


def test_the_band_holds_its_share_of_new_curves_with_its_confidence() -> None:
    rng = np.random.default_rng(0)
    new = walks(rng, 400)
    shares = []
    for _ in range(100):
        band = real_band(walks(rng, 29), 0.9, 0.95)
        shares.append(np.mean([leaves_at(curve, band) is None for curve in new]))
    # 95 of 100 bands hold 0.9 of all curves by theory; the sample mean and spread add a little noise.
    assert np.mean(np.array(shares) >= 0.9) >= 0.88
    assert band.share == 0.9


def test_few_real_videos_state_the_smaller_share_that_they_span() -> None:
    curves = walks(np.random.default_rng(0), 8)
    band = real_band(curves, 0.9, 0.95)
    assert band.share == pytest.approx(0.05 ** (1 / 8))
    assert all(leaves_at(curve, band) is None for curve in curves)
    with pytest.raises(ValueError, match="at least 4"):
        real_band(curves[:3], 0.9, 0.95)
    with pytest.raises(ValueError, match="one length"):
        real_band([*curves[:4], curves[4][:5]], 0.9, 0.95)


def test_a_curve_leaves_the_band_where_it_crosses_it() -> None:
    band = RealBand(low=-np.ones(4), high=np.ones(4), num_videos=9, share=0.9, confidence=0.95)
    assert leaves_at(np.array([0.0, 0.5, 0.9, -1.1, 0]), band) == 3
    assert leaves_at(np.array([0, 0, 0, 0, 0, 2.0]), band) == 5  # beyond the band's end
    assert leaves_at(np.zeros(9), band) is None


def test_a_seam_of_known_size_is_measured_and_none_is_none() -> None:
    rng = np.random.default_rng(0)
    change = rng.uniform(9, 11, size=80)
    even, seamed = SeamMeter(), SeamMeter()
    borders_s = [frame / 4.0 for frame in range(10, 80, 8)]
    even.update(change, 4.0, borders_s)
    change[10::8] *= 2
    seamed.update(change, 4.0, [*borders_s, 999.0])
    clean, seam = even.compute(), seamed.compute()
    assert clean is not None
    assert seam is not None
    assert clean.num_borders == seam.num_borders == 9
    assert clean.low < 1 < clean.high
    assert seam.ratio == pytest.approx(2.0, rel=0.05)
    assert seam.low > 1.8
    assert SeamMeter().compute() is None


def test_the_frechet_curve_is_the_distance_of_each_windows_clips() -> None:
    rng = np.random.default_rng(0)
    real = BinnedStatistics(3, 2.0)
    real.update(rng.uniform(0, 8, 50), rng.normal(size=(50, 3)).astype(np.float32))
    scored, parts = BinnedStatistics(3, 2.0), []
    for second in (0.0, 2.0, 4.0):
        features = (rng.normal(size=(30, 3)) + second).astype(np.float32)
        parts.append(features)
        scored.update(np.full(30, second), features)
    curve = frechet_curve(scored, real, num_bins=2)
    for window in (0, 1):
        expected = FrechetStatistics.empty(3)
        expected.update(np.concatenate(parts[window : window + 2]))
        assert curve.distance[window] == pytest.approx(frechet_distance(expected, real.total()), rel=1e-9)
    np.testing.assert_allclose(curve.times_s, [2.0, 4.0])
    assert curve.num_clips == [60, 60]
    assert curve.distance[1] > curve.distance[0]
    lone = BinnedStatistics(3, 2.0)
    lone.update(np.zeros(1), np.zeros((1, 3), dtype=np.float32))
    assert np.isnan(frechet_curve(lone, real, num_bins=1).distance[0])
    with pytest.raises(ValueError, match="longer than 0"):
        BinnedStatistics(3, 0.0)


class MeanColour:
    """The clip's mean colour."""

    name = "mean-colour"
    kind = FeatureKind.CLIP
    feature_dim = 3
    min_frames = 1
    fingerprint = "none"
    is_standard = False
    metric_name = "Fréchet clip distance (mean-colour)"

    def __call__(self, frames_BTHWC: Frames) -> torch.Tensor:
        return torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(1, 2, 3))


def write(folder: Path, videos: dict[str, Frames]) -> Path:
    for name, frames in videos.items():
        with VideoWriter(folder / f"{name}.mp4", 4.0, crf=12) as writer:
            for frame in frames:
                writer.write(frame)
    return folder


def test_a_darkening_video_leaves_the_band_and_all_is_written(tmp_path: Path) -> None:
    fade = np.exp(-0.08 * np.maximum(np.arange(24) - 8, 0))
    dark = np.rint(sliding(50) * fade[:, None, None, None]).astype(np.uint8)
    generated = write(tmp_path / "made", {"dark": dark, "good": sliding(51)})
    real = write(tmp_path / "real", {f"r{seed}": sliding(seed) for seed in range(6)})
    config = EvaluateConfig(
        protocol=ProtocolConfig(num_frames=4, context_frames=0),
        controls=ControlsConfig(frozen=False, shuffled=False, floor=False),
        drift=DriftConfig(frechet_window_s=2.0, frechet_step_s=1.0, first_border_frame=10),
        diversity=False,
    )

    def draw(drift: Drift, out_png: Path) -> None:
        save_png(out_png, np.full((8, 8, 3), len(drift.curves), dtype=np.uint8))

    scores = evaluate(config, generated, real, tmp_path / "out", extractors=[MeanColour()], draw_drift=draw)
    drift = scores.drift
    assert drift is not None
    light = next(curve for curve in drift.curves if curve.measure is Measure.LIGHT)
    left = light.leaves_s["dark.mp4"]
    assert left is not None
    assert 2.0 <= left <= 4.0
    assert light.leaves_s["good.mp4"] is None
    assert (drift.num_generated, drift.num_real) == (2, 6)
    assert drift.frechet is not None
    assert drift.frechet.distance[-1] > 10 * drift.frechet.distance[0]
    assert drift.seams is not None
    assert drift.seams.num_borders == 4
    written = read_json(tmp_path / "out" / "drift.json")
    json.dumps(written, allow_nan=False)
    assert [curve["measure"] for curve in written["curves"]] == [measure.value for measure in Measure]
    assert written["figure"] == "drift.png"
    assert load_picture(tmp_path / "out" / "drift.png")[0, 0, 0] == len(Measure)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Drift over time" in page
    told = "\n".join(score_lines(scores))
    assert f"light at the end: 1 of 2 videos leave real video's band, the first at {left:.2f} s" in told
    assert "change across chunk borders over change inside" in told
    assert drift.frechet_floor is not None
    leaves_s = leaves_floor_s(drift.frechet, drift.frechet_floor)
    assert leaves_s is not None and f"from {leaves_s:.2f} s on above that of real video against itself" in told
    assert f"from {leaves_s:.2f} s on above" in page
    assert "data:image/png;base64," in page


def test_drift_can_be_switched_off_and_wrong_settings_name_the_key(tmp_path: Path) -> None:
    videos = write(tmp_path / "v", {f"r{seed}": sliding(seed, 8) for seed in range(2)})
    config = EvaluateConfig(
        protocol=ProtocolConfig(num_frames=4, context_frames=0), drift=DriftConfig(enabled=False), diversity=False
    )
    assert evaluate(config, videos, videos, tmp_path / "out", extractors=[MeanColour()]).drift is None
    assert not (tmp_path / "out" / "drift.json").exists()
    with pytest.raises(ValueError, match="drift.chunk_frames is 0"):
        DriftConfig(chunk_frames=0)
    with pytest.raises(ValueError, match=r"drift.share is 1\.5"):
        DriftConfig(share=1.5)
