"""What people hand in by mistake: each is an error or a warning that names the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drivesim.core.files import read_rows
from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate import report as report_module
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.report import ReportConfig
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.scores import Score, ScoreRow
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.uncertainty import Interval
from drivesim.evaluate.videos import Video

Frames = NDArray[np.uint8]
CONFIG = EvaluateConfig(
    protocol=ProtocolConfig(num_frames=4, context_frames=0),
    diversity=False,
    drift=DriftConfig(enabled=False),
    report=ReportConfig(num_generated=0, num_real=0),
)


class Colour:
    """A clip's mean colour."""

    name = "colour"
    kind = FeatureKind.CLIP
    feature_dim = 3
    min_frames = 1
    fingerprint = "a"
    is_standard = False
    metric_name = "Fréchet clip distance (colour)"

    def __call__(self, frames_BTHWC: Frames) -> torch.Tensor:
        return torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(1, 2, 3))


def frames(seed: int, size_hw: tuple[int, int] = (8, 16), num_frames: int = 8) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, size=(num_frames, *size_hw, 3), dtype=np.uint8)


def videos(seeds: range, size_hw: tuple[int, int] = (8, 16), fps: float | None = 4.0) -> list[Video]:
    return [Video(name=f"{seed}", frames=frames(seed, size_hw), fps=fps) for seed in seeds]


def warnings(generated: object, real: object, out: Path, config: EvaluateConfig = CONFIG) -> list[str]:
    return evaluate(config, generated, real, out, extractors=[Colour()]).warnings  # type: ignore[arg-type]


def test_videos_of_different_sizes_are_told_with_the_remedy(tmp_path: Path) -> None:
    expected = "generated 8 x 16 (3); real 16 x 16 (2), 8 x 16 (1); all are brought to 8 x 16"
    mixed = [*videos(range(5, 7), (16, 16)), *videos(range(7, 8))]
    for _ in range(2):  # the second time from the store
        found = warnings(videos(range(3)), mixed, tmp_path)
        assert any(expected in text and "one size (drivesim prepare: export.size_hw=[8,16])" in text for text in found)
    assert not any("sizes" in text for text in warnings(videos(range(3)), videos(range(5, 8)), tmp_path))


def test_a_score_that_cannot_be_made_tells_of_the_videos_that_were_left_out(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "made" / "a.mp4", 4.0) as writer:
        for frame in frames(0, num_frames=4):
            writer.write(frame)
    whole = (tmp_path / "made" / "a.mp4").read_bytes()
    for name, data in (("b", b"no video"), ("c", whole[: len(whole) // 2]), ("d", b"")):
        (tmp_path / "made" / f"{name}.mp4").write_bytes(data)
    with pytest.raises(ValueError) as refused:
        evaluate(CONFIG, tmp_path / "made", videos(range(5, 8)), tmp_path / "out", extractors=[Colour()])
    told = str(refused.value)
    assert told.startswith("1 feature vector of generated videos and 6 of real ones; a covariance needs at least 2 of")
    assert "protocol.spacing_frames; 3 of 4 generated videos left out: " in told
    assert all(f"{name}.mp4" in told for name in "bcd") and told.endswith("rows.jsonl has all)")


def test_a_faster_real_side_is_sampled_and_a_slower_one_refused(tmp_path: Path) -> None:
    fast = [Video(name=f"{seed}", frames=frames(seed, num_frames=16), fps=8.0) for seed in range(5, 8)]
    scores = evaluate(CONFIG, videos(range(3)), fast, tmp_path, extractors=[Colour()])
    assert scores.card.real.num_clips == scores.card.generated.num_clips == 6
    with pytest.raises(ValueError, match="2 frames a second at .* the protocol asks for 4; lower protocol.fps"):
        evaluate(CONFIG, videos(range(3)), videos(range(5, 8), fps=2.0), tmp_path, extractors=[Colour()])


def test_a_short_video_among_others_is_left_out_and_counted(tmp_path: Path) -> None:
    short = Video(name="short", frames=frames(9, num_frames=3), fps=4.0)
    found = warnings([*videos(range(3)), short], videos(range(5, 8)), tmp_path)
    assert any("left out: 1; rows.jsonl says why" in text for text in found)
    (row,) = [row for row in read_rows(tmp_path / "rows.jsonl") if not row["ok"]]
    assert "a clip needs 4 more. Lower protocol.num_frames or score longer videos" in row["error"]


def test_videos_of_different_lengths_are_told_with_the_remedy(tmp_path: Path) -> None:
    long = [Video(name=f"{seed}", frames=frames(seed, num_frames=21), fps=4.0) for seed in range(5, 8)]
    found = warnings(videos(range(3)), long, tmp_path)
    expected = "clips of each are generated ones 2 to 2, real ones 5 to 5"
    assert any(expected in text and "cut both sides to one length" in text for text in found)
    assert not any("lengths" in text for text in warnings(videos(range(3)), videos(range(5, 8)), tmp_path))


def test_one_corrupt_video_among_many_is_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    for index in range(30):
        np.save(_made(folder) / f"{index}.npy", frames(index))
    (folder / "7.npy").write_bytes((folder / "7.npy").read_bytes()[:-100])
    (folder / "8.mp4").write_bytes(b"\x00" * 900)
    scores = evaluate(CONFIG, videos(range(3)), folder, tmp_path / "out", extractors=[Colour()])
    assert (scores.card.real.num_videos, scores.card.real.num_left_out) == (29, 2)
    assert any("videos of real left out: 2" in text for text in scores.warnings)
    causes = {row["name"]: row["error"] for row in read_rows(tmp_path / "out" / "rows.jsonl") if not row["ok"]}
    assert set(causes) == {"7.npy", "8.mp4"} and "cannot be read" in causes["7.npy"]


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("side", ["generated", "real"])
def test_an_empty_folder_names_what_belongs_in_it(side: str, tmp_path: Path) -> None:
    sides = {"generated": videos(range(2)), "real": videos(range(2, 4)), side: _made(tmp_path / "none")}
    with pytest.raises(ValueError, match=r"none: no videos in it; expected files \(.mp4"):
        evaluate(CONFIG, sides["generated"], sides["real"], tmp_path / "out", extractors=[Colour()])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "NaN or infinite pixels"),
        (200.0, "Pictures in 0..255 belong in uint8"),
        (-0.5, r"become \(x \+ 1\) / 2"),
    ],
)
def test_frames_that_are_no_pictures_are_a_row_with_the_remedy(value: float, words: str, tmp_path: Path) -> None:
    broken = frames(9) / 255.0
    broken[5, 0, 0, 0] = value
    real = [*videos(range(5, 8)), Video(name="broken", frames=broken, fps=4.0)]
    assert any("left out: 1" in text for text in warnings(videos(range(3)), real, tmp_path))
    with pytest.raises(ValueError, match=f"no real video can be scored: broken: .*{words}"):
        warnings(videos(range(3)), real[-1:], tmp_path)


def test_the_real_set_given_twice_and_copies_in_a_set_are_noticed(tmp_path: Path) -> None:
    real = videos(range(5, 8))
    assert any(
        "real videos among the generated ones, byte for byte: 3" in text for text in warnings(real, real, tmp_path)
    )
    copies = [*videos(range(3)), replace(videos(range(1))[0], name="again")]
    assert any(
        "copies of other generated videos, byte for byte: 1;" in text for text in warnings(copies, real, tmp_path)
    )


def test_sides_that_went_through_other_codecs_are_told(tmp_path: Path) -> None:
    folder = _made(tmp_path / "real")
    for index in range(3):
        write(folder / f"{index}{'x' * index}.mp4", "yuv420p")
    pictures = [Video(name=f"{s}", frames=frames(s, (16, 32)), fps=4.0) for s in range(3)]
    scores = evaluate(CONFIG, pictures, folder, tmp_path / "out", extractors=[Colour()])
    assert scores.card.generated.codecs == {"array": 3} and scores.card.real.codecs == {"h264": 3}
    expected = "generated videos are array (3), real ones h264 (3)"
    assert any(text.startswith(expected) and "write both sides the same way" in text for text in scores.warnings)
    alone = warnings(folder, folder, tmp_path / "out")
    assert not any("codec" in text for text in alone)


@pytest.mark.parametrize("batch", [0, -1])
def test_batches_of_nothing_are_refused_before_anything_is_read(batch: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"batch_clips is {batch}; it must be at least 1"):
        warnings(videos(range(3)), videos(range(5, 8)), tmp_path, replace(CONFIG, batch_clips=batch))
    assert list(tmp_path.iterdir()) == []


def write(path: Path, pixel_format: str, num_frames: int = 8) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(4))
        stream.width, stream.height, stream.pix_fmt = 32, 16, pixel_format
        for picture in frames(len(path.name), (16, 32), num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_the_report_embeds_what_browsers_play(pixel_format: str, tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", pixel_format)
    data = report_module._mp4(Video(name="v", path=path), 10**6)
    assert data is not None
    (tmp_path / "shown.mp4").write_bytes(data)
    with av.open(str(tmp_path / "shown.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert (data == path.read_bytes()) == (pixel_format == "yuv420p")


def test_the_report_stops_encoding_once_a_video_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0

    class Counting(VideoWriter):
        def write(self, frame_HWC: Frames) -> None:
            nonlocal written
            written += 1
            super().write(frame_HWC)

    monkeypatch.setattr(report_module, "VideoWriter", Counting)
    large = Video(name="large", frames=frames(0, (64, 128), 200), fps=4.0)
    assert report_module._mp4(large, 100_000) is None
    assert 0 < written < 150
    written = 0
    assert report_module._mp4(large, 0) is None
    assert report_module._mp4(Video(name="v", path=write(tmp_path / "v.mp4", "yuv420p")), 10) is None
    assert written == 0


def test_a_floor_of_few_drives_says_so_and_is_not_shown_below_zero(tmp_path: Path) -> None:
    def many(seeds: range) -> Iterator[Video]:
        return (Video(name=f"{s}", frames=frames(s, (4, 4), 24), fps=4.0) for s in seeds)

    found = warnings(list(many(range(8))), list(many(range(10, 20))), tmp_path)
    assert any("real against real compares halves of 5 drives" in text and "20 drives a half" in text for text in found)
    interval = Interval(estimate=-0.312, low=0.0, high=0.8, level=0.95, standard_error=0.2, num_drives=5)
    score = Score(extractor="x", metric="y", row=ScoreRow.FLOOR, value=0.4, num_left=5, num_right=5, interval=interval)
    assert score.middle == "0 (extrapolated to -0.31: nothing is seen above 0)"
    assert replace(score, interval=replace(interval, estimate=0.25)).middle == "0.25"
