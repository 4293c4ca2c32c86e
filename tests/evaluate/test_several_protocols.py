"""Several protocols from one decode: each video is read once, and every score is that of a run of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drivesim.config import compose
from drivesim.core.files import read_json, read_rows
from drivesim.evaluate.compare import compare
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.extractors import ExtractorConfig
from drivesim.evaluate.networks import NetworkFile, load_networks, network_configs
from drivesim.evaluate.protocol import ClipChoice, Crop, ProtocolConfig, ResizeFilter
from drivesim.evaluate.report import ReportConfig
from drivesim.evaluate.run import evaluate, evaluate_protocols
from drivesim.evaluate.scores import Scores
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate_command import compose_protocols
from tests.evaluate.colour_videos import Ends, record_decoded, write_set

Frames = NDArray[np.uint8]
CONFIG = EvaluateConfig(
    diversity=False, drift=DriftConfig(enabled=False), report=ReportConfig(num_generated=0, num_real=0)
)
PROTOCOLS = [
    ProtocolConfig(name="all", num_frames=4, context_frames=0),
    ProtocolConfig(name="half-rate", num_frames=3, fps=2.0, context_frames=1, clip_choice=ClipChoice.FIRST),
    ProtocolConfig(
        name="squashed", num_frames=5, frame_stride=2, clip_choice=ClipChoice.RANDOM, size_hw=(8, 8), crop=Crop.NONE,
        resize=ResizeFilter.BILINEAR, context_frames=0, max_clips=3,
    ),
    ProtocolConfig(name="as all", num_frames=4, context_frames=0, max_clips=5),
]  # fmt: skip


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    return write_set(tmp_path / "made", range(5), 14), write_set(tmp_path / "real", range(10, 16), 14)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that have been decoded to their end."""
    return record_decoded(monkeypatch)


def run(
    sets: tuple[Path, Path], out: Path, protocols: list[ProtocolConfig], network: Ends | None = None
) -> list[Scores]:
    networks = [[network or Ends()] for _ in protocols]
    return evaluate_protocols(CONFIG, protocols, sets[0], sets[1], out, extractors=networks)


def test_each_video_is_decoded_once_and_scores_are_those_of_separate_runs(
    sets: tuple[Path, Path], decoded: list[str], tmp_path: Path
) -> None:
    network = Ends()
    found = run(sets, tmp_path / "out", PROTOCOLS, network)
    assert len(decoded) == len(set(decoded)) == 11
    together = network.num_clips
    network.num_clips = 0
    for protocol, scores in zip(PROTOCOLS, found, strict=True):
        config = replace(CONFIG, protocol=protocol)
        alone = evaluate(config, sets[0], sets[1], tmp_path / protocol.name, extractors=[network])
        assert scores.card_sha256 == alone.card_sha256
        assert len(scores.scores) == len(alone.scores) > 3
        for one, other in zip(scores.scores, alone.scores, strict=True):
            assert (one.row, one.num_left, one.num_right) == (other.row, other.num_left, other.num_right)
            assert one.value == pytest.approx(other.value, rel=1e-12, abs=1e-12)
    assert together < network.num_clips, "features that two protocols share are made once"


def test_a_stopped_evaluation_goes_on(sets: tuple[Path, Path], decoded: list[str], tmp_path: Path) -> None:
    class Stopped(Ends):
        def __call__(self, frames_BTHWC: Frames) -> torch.Tensor:
            if self.num_clips > 30:
                raise KeyboardInterrupt
            return super().__call__(frames_BTHWC)

    with pytest.raises(KeyboardInterrupt):
        run(sets, tmp_path / "out", PROTOCOLS, Stopped())
    done = {row["name"] for row in read_rows(tmp_path / "out" / "rows.jsonl")}
    assert 0 < len(done) < 11
    decoded.clear()
    found = run(sets, tmp_path / "out", PROTOCOLS)
    assert len(decoded) == 11 - len(done) and not done & set(decoded)
    decoded.clear()
    again = run(sets, tmp_path / "out", [PROTOCOLS[2], PROTOCOLS[0]])
    assert decoded == []
    assert again[0].scores == found[2].scores and again[1].scores == found[0].scores


def test_one_scores_file_and_one_report_hold_a_section_a_protocol(sets: tuple[Path, Path], tmp_path: Path) -> None:
    run(sets, tmp_path / "a", PROTOCOLS[:2])
    written = read_json(tmp_path / "a" / "scores.json")["protocols"]
    assert [part["card"]["protocol"]["name"] for part in written] == ["all", "half-rate"]
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert page.count('<section class="protocol">') == 2
    assert "Scores under protocol half-rate" in page
    assert {row["protocol"] for row in read_rows(tmp_path / "a" / "rows.jsonl")} == {"all", "half-rate"}
    run(sets, tmp_path / "b", PROTOCOLS[1:3])
    comparison = compare([tmp_path / "a", tmp_path / "b"], CONFIG.uncertainty)
    assert {score.protocol for score in comparison.scores} == {"half-rate"}
    assert all(score.first == score.second for score in comparison.scores)
    run(sets, tmp_path / "c", PROTOCOLS[2:])
    with pytest.raises(ValueError, match="no protocol in common: all, half-rate and squashed, as all"):
        compare([tmp_path / "a", tmp_path / "c"], CONFIG.uncertainty)


def test_a_video_that_one_protocol_cannot_score_counts_in_the_others(sets: tuple[Path, Path], tmp_path: Path) -> None:
    write_set(sets[0], range(5, 6), num_frames=6)  # too short for nine frames
    first, third = run(sets, tmp_path, [PROTOCOLS[0], PROTOCOLS[2]])
    assert (first.card.generated.num_videos, first.card.generated.num_left_out) == (6, 0)
    longer = replace(PROTOCOLS[2], max_clips=None)
    (alone,) = run(sets, tmp_path / "b", [longer])
    assert (alone.card.generated.num_videos, alone.card.generated.num_left_out) == (5, 1)
    assert third.card.generated.num_clips == 3
    (sets[1] / "v_010.mp4").write_bytes(b"no video")
    both = run(sets, tmp_path / "c", [PROTOCOLS[0], longer])
    assert [scores.card.real.num_left_out for scores in both] == [1, 1]
    causes = [row for row in read_rows(tmp_path / "c" / "rows.jsonl") if not row["ok"]]
    assert [(row["name"], row["protocol"]) for row in causes] == [
        ("v_005.mp4", "squashed"), ("v_010.mp4", "all"), ("v_010.mp4", "squashed"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="protocol long: no generated video can be scored"):
        run(sets, tmp_path / "d", [PROTOCOLS[0], ProtocolConfig(name="long", num_frames=99, context_frames=0)])


def test_frames_without_times_follow_each_protocols_rate(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.stack([np.full((16, 32, 3), 9 * k, dtype=np.uint8) for k in range(12)]))
    np.save(tmp_path / "b.npy", np.stack([np.full((16, 32, 3), 7 * k, dtype=np.uint8) for k in range(12)]))
    slow = ProtocolConfig(name="slow", num_frames=3, fps=2.0, untimed_fps=4.0, context_frames=0)
    own = ProtocolConfig(name="own", num_frames=3, fps=2.0, context_frames=0)
    cards = [scores.card for scores in run((tmp_path, tmp_path), tmp_path / "out", [slow, own])]
    assert [card.generated.num_clips for card in cards] == [4, 8]


def test_protocols_are_told_apart_by_their_names(sets: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="protocols are all, all; give at least one, each once"):
        run(sets, tmp_path, [PROTOCOLS[0], PROTOCOLS[0]])


def test_files_of_networks_are_given_on_the_command_line() -> None:
    networks = "networks=[{name: i3d-torchscript, weights: a.pt}, {name: c3d-ucf101, weights: b.pt, sha256: c}]"
    config = compose("evaluate", ["generated=x", "real=y", "protocols=[ucf101]", networks])
    protocols = compose_protocols(config.protocols, [networks])
    assert [one.weights for one in network_configs(protocols, config.networks)[0]] == ["a.pt", "b.pt"]


def test_choices_of_the_group_are_composed_with_the_same_changes() -> None:
    found = compose_protocols(["video_ldm", "keyframes"], ["protocol.max_clips=7", "generated=x", "protocol.seed=3"])
    assert [(protocol.name, protocol.max_clips, protocol.seed) for protocol in found] == [
        ("video-ldm", 7, 3), ("drivesim-keyframes", 7, 3),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="unknown protocol 'video_lmd', did you mean 'video_ldm'"):
        compose_protocols(["video_lmd"], [])
    with pytest.raises(ValueError, match="protocol=vista beside protocols"):
        compose_protocols(["video_ldm"], ["protocol=vista"])
    with pytest.raises(ValueError, match="each once"):
        compose_protocols(["video_ldm", "video_ldm"], [])


def test_a_networks_file_is_given_once_and_the_network_is_loaded_once() -> None:
    protocols = [ProtocolConfig(name=name, extractors=[ExtractorConfig(name="toytown-clip")]) for name in "ab"]
    files = [NetworkFile(name="toytown-clip", device="cpu", feature_dim=128)]
    configs = network_configs(protocols, files)
    assert configs[0][0].feature_dim == 128
    first, second = load_networks(configs)
    assert first[0] is second[0]
    own = ExtractorConfig(name="i3d-torchscript", weights="mine.pt", sha256="0")
    protocols[0].extractors = [own]
    known = [NetworkFile(name="i3d-torchscript", weights="x.pt", git_blob_sha1="1")]
    assert network_configs(protocols, known)[0] == [own]
    with pytest.raises(
        ValueError, match="networks names inception-2015; the protocols have i3d-torchscript, toytown-clip"
    ):
        network_configs(protocols, [NetworkFile(name="inception-2015")])
    with pytest.raises(ValueError, match="networks names toytown-clip, toytown-clip; give each once"):
        network_configs(protocols, files * 2)
