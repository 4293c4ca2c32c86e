"""Two evaluations beside each other: refused unless the cards agree, with a paired difference where features are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drivesim.core.files import read_json, write_json
from drivesim.evaluate.compare import card_differences, compare
from drivesim.evaluate.controls import ControlsConfig
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.frechet import Covariance
from drivesim.evaluate.lines import comparison_lines
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.uncertainty import UncertaintyConfig
from drivesim.evaluate.videos import Video

PROTOCOL = ProtocolConfig(num_frames=2, context_frames=0)
CONFIG = EvaluateConfig(
    protocol=PROTOCOL, controls=ControlsConfig(frozen=False, shuffled=False, noisy=False), diversity=False
)


class Colour:
    """The mean colour of a clip."""

    name = "colour"
    kind = FeatureKind.CLIP
    feature_dim = 3
    min_frames = 1
    fingerprint = "a"
    is_standard = False
    metric_name = "Fréchet clip distance (colour)"

    def __call__(self, frames_BTHWC: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(1, 2, 3))


def videos(seed: int, number: int, shift: float = 0.0) -> list[Video]:
    rng = np.random.default_rng(seed)
    found = []
    for index in range(number):
        levels = rng.normal(120 + shift, 10, size=(8, 1, 1, 3)) + rng.normal(0, 10, size=3)
        frames = np.broadcast_to(np.clip(levels, 0, 255), (8, 4, 8, 3)).astype(np.uint8)
        found.append(Video(name=f"v{index}", frames=np.ascontiguousarray(frames), fps=4.0))
    return found


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A near set and one that is 30 levels off, against the same real videos."""
    real = videos(0, 12)
    for name, shift in (("near", 2.0), ("far", 30.0)):
        evaluate(CONFIG, videos(1, 10, shift), real, tmp_path / name, extractors=[Colour()])
    return tmp_path / "near", tmp_path / "far"


def test_the_nearer_set_wins_with_an_interval_on_its_side(runs: tuple[Path, Path]) -> None:
    found = compare(runs, UncertaintyConfig())
    (score,) = [score for score in found.scores if score.row == "generated"]
    assert found.notes == []
    assert score.first < score.second
    assert score.difference is not None
    assert score.difference.low < score.difference.estimate < score.difference.high < 0
    assert score.difference.estimate == pytest.approx(score.first - score.second, rel=0.1)
    text = "\n".join(comparison_lines(found))
    assert "A - B at infinitely many" in text and str(runs[0]) in text
    other_way = compare((runs[1] / "scores.json", runs[0]), UncertaintyConfig())
    assert other_way.scores[0].difference.estimate == pytest.approx(-score.difference.estimate)


def test_cards_that_differ_are_refused_with_field_and_values(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = replace(CONFIG, protocol=replace(PROTOCOL, covariance=Covariance.POPULATION, num_frames=3))
    evaluate(other, videos(1, 10), videos(0, 12), tmp_path / "other", extractors=[Colour()])
    with pytest.raises(ValueError) as caught:
        compare((runs[0], tmp_path / "other"), UncertaintyConfig())
    message = str(caught.value)
    assert "protocol.num_frames is 2 and 3" in message
    assert "protocol.covariance is 'unbiased' and 'population'" in message
    assert "real.num_clips is 48 and 24" in message
    assert "force=true" in message
    forced = compare((runs[0], tmp_path / "other"), UncertaintyConfig(), force=True)
    assert "protocol.num_frames is 2 and 3" in forced.notes
    assert forced.scores[0].difference is None
    assert any("made in different ways" in note for note in forced.notes)


def test_another_codec_of_the_generated_side_is_a_difference_and_its_count_none(runs: tuple[Path, Path]) -> None:
    card = read_json(runs[0] / "scores.json")["card"]
    generated = card["generated"]
    other = card | {"generated": generated | {"codecs": {"h264": 12}}}
    assert card_differences(card, other) == ["generated.codecs is ['array'] and ['h264']"]
    assert card_differences(card, card | {"generated": generated | {"codecs": {"array": 3}}}) == []


def test_other_real_videos_and_other_weights_are_named(runs: tuple[Path, Path], tmp_path: Path) -> None:
    network = Colour()
    network.fingerprint = "b"
    evaluate(CONFIG, videos(1, 10), videos(3, 12), tmp_path / "other", extractors=[network])
    cards = [read_json(folder / "scores.json")["card"] for folder in (runs[0], tmp_path / "other")]
    found = card_differences(*cards)
    assert [difference.split(" is ")[0] for difference in found] == ["real.sha256", "extractors.colour.weights_sha256"]
    assert "'a' and 'b'" in found[1]


def test_a_name_alone_forbids_nothing(runs: tuple[Path, Path]) -> None:
    card = read_json(runs[0] / "scores.json")["card"]
    named = card | {
        "protocol": card["protocol"] | {"name": "x", "data_set": "y"},
        "real": card["real"] | {"name": "elsewhere"},
        "generated": card["generated"] | {"num_clips": 3},
    }
    assert card_differences(card, named) == []


def changed_card(folder: Path, part: str, key: str, value: object) -> None:
    scores = read_json(folder / "scores.json")
    scores["card"][part][key] = value
    write_json(folder / "scores.json", scores)


def test_another_number_of_generated_clips_is_refused_unless_told_to_go_on(runs: tuple[Path, Path]) -> None:
    changed_card(runs[1], "generated", "num_clips", 7)
    with pytest.raises(ValueError, match=r"generated\.num_clips is 40 and 7 .*force=true"):
        compare(runs, UncertaintyConfig())
    forced = compare(runs, UncertaintyConfig(), force=True)
    assert any(note.startswith("generated.num_clips is 40 and 7") for note in forced.notes)


def test_other_libraries_are_a_note(runs: tuple[Path, Path]) -> None:
    changed_card(runs[1], "versions", "torch", "1.0")
    notes = compare(runs, UncertaintyConfig()).notes
    assert any(note.startswith("torch is") and note.endswith("and 1.0") for note in notes)


def test_without_features_the_values_stand_alone(runs: tuple[Path, Path]) -> None:
    shutil.rmtree(runs[1] / "features")
    found = compare(runs, UncertaintyConfig())
    assert found.scores[0].difference is None
    assert any("features of" in note and "are gone" in note for note in found.notes)
    path = runs[1] / "scores.json"
    scores = read_json(path)
    del scores["features"]
    write_json(path, scores)
    assert any("no features were stored" in note for note in compare(runs, UncertaintyConfig()).notes)


def test_what_is_no_pair_of_evaluations_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 evaluations to compare; give two"):
        compare(runs[:1], UncertaintyConfig())
    with pytest.raises(FileNotFoundError, match=r"absent: no scores\.json in it; evaluate first"):
        compare((runs[0], tmp_path / "absent"), UncertaintyConfig())
    write_json(tmp_path / "no" / "scores.json", [])
    with pytest.raises(ValueError, match="not the scores of an evaluation"):
        compare((runs[0], tmp_path / "no"), UncertaintyConfig())
