"""Features are made once: keyed by bytes, preprocessing and weights, kept over a stop, whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drivesim.core.files import read_json, read_rows
from drivesim.evaluate.controls import ControlsConfig, Variant
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.feature_store import FeatureSet, FeatureStore, StoredVideo, make_recipe
from drivesim.evaluate.frechet import Covariance
from drivesim.evaluate.protocol import ClipChoice, Crop, ProtocolConfig, ResizeFilter
from drivesim.evaluate.report import ReportConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.scores import Scores
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.videos import Video
from tests.evaluate.colour_videos import Ends, record_decoded, write_set

Frames = NDArray[np.uint8]
PROTOCOL = ProtocolConfig(num_frames=4, context_frames=0)
# Diversity and report read videos for their own ends.
CONFIG = EvaluateConfig(
    protocol=PROTOCOL,
    diversity=False,
    drift=DriftConfig(enabled=False),
    report=ReportConfig(num_generated=0, num_real=0),
)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    return write_set(tmp_path / "made", range(3)), write_set(tmp_path / "real", range(10, 14))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that have been decoded to their end."""
    return record_decoded(monkeypatch)


def run(sets: tuple[Path, Path], out: Path, config: EvaluateConfig = CONFIG, extractor: Ends | None = None) -> Scores:
    return evaluate(config, sets[0], sets[1], out, extractors=[extractor or Ends()])


def values(scores: Scores) -> list[float]:
    return [score.value for score in scores.scores]


def test_a_second_evaluation_decodes_nothing_and_says_the_same(
    sets: tuple[Path, Path], decoded: list[str], tmp_path: Path
) -> None:
    first = run(sets, tmp_path / "out")
    assert len(decoded) == 7
    decoded.clear()
    network = Ends()
    again = run(sets, tmp_path / "out", extractor=network)
    assert decoded == [] and network.num_clips == 0
    assert values(again) == values(first)
    assert again.card_sha256 == first.card_sha256
    assert all(row["was_stored"] for row in read_rows(tmp_path / "out" / "rows.jsonl"))


def test_another_metric_of_the_same_features_and_a_subset_decode_nothing(
    sets: tuple[Path, Path], decoded: list[str], tmp_path: Path
) -> None:
    shared = replace(CONFIG, features=str(tmp_path / "store"))
    first = run(sets, tmp_path / "a", shared)
    decoded.clear()
    other = replace(shared, protocol=replace(PROTOCOL, covariance=Covariance.POPULATION))
    assert values(run(sets, tmp_path / "b", other)) != values(first)
    fewer = replace(shared, protocol=replace(PROTOCOL, max_clips=6))
    assert run(sets, tmp_path / "c", fewer).card.real.num_clips == 6
    (sets[1] / "v_013.mp4").unlink()
    assert run(sets, tmp_path / "d", shared).card.real.num_videos == 3
    assert decoded == []


def test_max_clips_takes_the_same_clips_from_a_full_store(sets: tuple[Path, Path], tmp_path: Path) -> None:
    fewer = replace(CONFIG, protocol=replace(PROTOCOL, max_clips=6))
    fresh = run(sets, tmp_path / "a", fewer)
    run(sets, tmp_path / "b")
    assert values(run(sets, tmp_path / "b", fewer)) == values(fresh)


def test_a_stopped_evaluation_goes_on_with_the_other_videos(
    sets: tuple[Path, Path], decoded: list[str], tmp_path: Path
) -> None:
    class Stopped(Ends):
        def __call__(self, frames_BTHWC: Frames) -> torch.Tensor:
            if self.num_clips == 3 * 2 * 4 + 4 * 4:  # three generated videos twice, one real one with its controls
                raise KeyboardInterrupt
            return super().__call__(frames_BTHWC)

    expected = run(sets, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(sets, tmp_path / "out", extractor=Stopped())
    decoded.clear()
    found = run(sets, tmp_path / "out")
    assert decoded == ["v_011.mp4", "v_012.mp4", "v_013.mp4"]
    assert values(found) == pytest.approx(values(expected), rel=1e-9)


def test_a_control_that_is_asked_for_later_is_made_alone(sets: tuple[Path, Path], tmp_path: Path) -> None:
    plain = ControlsConfig(frozen=False, shuffled=False, noisy=False, floor=False)
    run(sets, tmp_path, replace(CONFIG, controls=plain))
    network = Ends()
    run(sets, tmp_path, replace(CONFIG, controls=replace(plain, frozen=True)), network)
    assert network.num_clips == 16  # frozen real clips alone


def test_halves_share_no_drive_where_there_are_several(tmp_path: Path) -> None:
    def halves(drives: str) -> list[str]:
        videos = [
            StoredVideo(path=tmp_path, name=str(number), sha256="", drive=drive, clips=slice(0, 4))
            for number, drive in enumerate(drives)
        ]
        whole = FeatureSet(kind=FeatureKind.CLIP, feature_dim=2, videos=videos)
        return ["".join(video.name for video in whole.half(parity).videos) for parity in (0, 1)]

    assert halves("aabbcc") == ["0145", "23"]
    assert halves("abcd") == ["02", "13"]
    assert halves("aaaa") == ["02", "13"], "one drive alone: its videos are shared out"


def test_pictures_of_another_rate_are_other_clips(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 16, 32, 3), np.uint8))
    digests = {fps: Video(name="a", path=tmp_path / "a.npy", fps=fps).sha256() for fps in (None, 4.0, 8.0)}
    assert len(set(digests.values())) == 3
    (made,) = write_set(tmp_path / "made", range(1)).glob("*.mp4")
    assert Video(name="a", path=made, fps=4.0).sha256() == Video(name="a", path=made).sha256(), "it has its own"


def test_other_bytes_under_the_same_name_are_read_again(
    sets: tuple[Path, Path], decoded: list[str], tmp_path: Path
) -> None:
    before = run(sets, tmp_path / "out")
    decoded.clear()
    write_set(tmp_path / "other", range(50, 51)).joinpath("v_050.mp4").replace(sets[0] / "v_000.mp4")
    assert values(run(sets, tmp_path / "out")) != values(before)
    assert decoded == ["v_000.mp4"]


def test_a_damaged_file_is_made_again(sets: tuple[Path, Path], decoded: list[str], tmp_path: Path) -> None:
    before = run(sets, tmp_path / "out")
    decoded.clear()
    stored = sorted((tmp_path / "out" / "features").glob("*/*.safetensors"))
    stored[0].write_bytes(stored[0].read_bytes()[:-9])
    assert values(run(sets, tmp_path / "out")) == values(before)
    assert len(decoded) == 1


def test_features_keep_their_times_and_origin(sets: tuple[Path, Path], tmp_path: Path) -> None:
    config = replace(CONFIG, protocol=replace(PROTOCOL, context_frames=2, spacing_frames=3))
    scores = run(sets, tmp_path / "out", config)
    (made,) = [s for s in scores.features.sets if (s.set, s.variant) == ("generated", "plain")]
    row = read_rows(tmp_path / "out" / "rows.jsonl")[0]
    store = FeatureStore(tmp_path / "out" / scores.features.folder)
    path = store.path(made.recipe, row["sha256"], None)
    stored = StoredVideo(
        path=path, name=row["name"], sha256=row["sha256"], drive=row["drive"], clips=slice(0, row["num_clips"])
    )
    np.testing.assert_allclose(stored.starts_s(), [0.5, 1.25, 2.0, 2.75])
    assert stored.features().shape == (4, 1, 6)
    header = path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    origin = json.loads(header[8 : 8 + length])["__metadata__"]
    assert origin == {
        "name": "v_000.mp4",
        "sha256": row["sha256"],
        "drive": "generated v_000.mp4",
        "source_hw": "16x32",
    }
    described = read_json(path.parent / "recipe.json")
    assert described["clips"]["skip_frames"] == 2
    assert described["extractor"]["weights_sha256"] == "a"


def test_a_shuffled_clip_follows_from_the_videos_name_and_a_plain_one_does_not() -> None:
    store = FeatureStore(Path("x"))
    assert store.path("r", "0" * 64, "a") != store.path("r", "0" * 64, "b")
    assert store.path("r", "0" * 64, None) == store.path("r", "0" * 64, None)


CHANGES = {
    "num_frames": 5, "fps": 3.0, "frame_stride": 2, "spacing_frames": 1, "clip_choice": ClipChoice.FIRST,
    "untimed_fps": 9.0, "resize": ResizeFilter.BILINEAR, "crop": Crop.NONE,
}  # fmt: skip
NO_CHANGES = {
    "name": "x",
    "max_clips": 3,
    "covariance": Covariance.POPULATION,
    "data_set": "x",
    "seed": 5,
    "root_eps": 1e-9,
}


def recipe(protocol: ProtocolConfig, variant: Variant = Variant.PLAIN, size: int = 8, skip: int = 0) -> str:
    return make_recipe(Ends(), protocol, (size, 8), skip, variant).digest


@pytest.mark.parametrize("field", CHANGES)
def test_what_touches_pixels_or_clips_makes_another_recipe(field: str) -> None:
    assert recipe(replace(PROTOCOL, **{field: CHANGES[field]})) != recipe(PROTOCOL)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", NO_CHANGES)
def test_what_does_not_leaves_the_recipe(field: str) -> None:
    assert recipe(replace(PROTOCOL, **{field: NO_CHANGES[field]})) == recipe(PROTOCOL)  # type: ignore[arg-type]


def test_size_given_frames_weights_and_variant_make_other_recipes() -> None:
    other = Ends()
    other.fingerprint = "b"
    found = {
        recipe(PROTOCOL),
        recipe(PROTOCOL, size=9),
        recipe(PROTOCOL, skip=1),
        make_recipe(other, PROTOCOL, (8, 8), 0, Variant.PLAIN).digest,
        make_recipe(Ends(), PROTOCOL, (8, 8), 0, Variant.PLAIN, truncates=True).digest,
        *(recipe(replace(PROTOCOL, seed=seed), Variant.SHUFFLED) for seed in (0, 1)),
        *(recipe(replace(PROTOCOL, seed=seed, clip_choice=ClipChoice.RANDOM)) for seed in (0, 1)),
        recipe(replace(PROTOCOL, crop=Crop.AFTER_CENTRE)),
        recipe(replace(PROTOCOL, crop=Crop.AFTER_CENTRE, resize_hw=(9, 9))),
    }
    assert len(found) == 11
