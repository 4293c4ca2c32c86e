"""Video files: what is written is what is read, by time and by order; broken files say so."""

from pathlib import Path

import av
import numpy as np
import pytest

from drivesim.core.files import sha256_file
from drivesim.core.video import iter_frames, probe, read_all, read_at
from drivesim.core.video_writing import VideoWriter, join_videos

NUM_FRAMES = 60


def _frame(index: int) -> np.ndarray:
    """A smooth picture whose brightness tells its number."""
    y, x = np.mgrid[:32, :64]
    grey = 4 * index + (x + y) // 8
    return np.stack([grey, grey, grey], axis=-1).astype(np.uint8)


def _number(frame: np.ndarray) -> int:
    differences = [np.abs(frame.astype(int) - _frame(index)).mean() for index in range(NUM_FRAMES)]
    return int(np.argmin(differences))


def _write(path: Path, start: int, stop: int, fps: float = 4.0) -> Path:
    with VideoWriter(path, fps) as writer:
        for index in range(start, stop):
            writer.write(_frame(index))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("video") / "a.mp4", 0, NUM_FRAMES)


def test_probe_finds_rate_length_and_size(video: Path) -> None:
    info = probe(video)
    assert (info.fps, info.num_frames, info.header_frames) == (4.0, NUM_FRAMES, NUM_FRAMES)
    assert (info.duration_s, info.size_hw, info.codec) == (15.0, (32, 64), "h264")
    assert np.allclose(info.timestamps_s, np.arange(NUM_FRAMES) / 4)


def test_all_frames_come_back_in_order_and_nearly_unchanged(video: Path) -> None:
    frames, fps = read_all(video)
    assert fps == 4.0
    assert np.abs(frames.astype(int) - np.stack([_frame(i) for i in range(NUM_FRAMES)])).mean() < 3
    assert [_number(frame) for _, frame in iter_frames(video)] == list(range(NUM_FRAMES))


def test_browsers_can_play_it(video: Path) -> None:
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    data = video.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat"), "the index must stand in front of the pictures"


def test_colours_survive(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128], [255, 255, 255], [0, 0, 0]], np.uint8)
    with VideoWriter(tmp_path / "c.mp4", 4.0) as writer:
        for colour in colours:
            writer.write(np.broadcast_to(colour, (32, 64, 3)))
    frames, _ = read_all(tmp_path / "c.mp4")
    assert np.abs(frames[:, 16, 32].astype(int) - colours).max() <= 4


def test_reading_and_writing_makes_nothing_darker(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(96, 160, (8, 8, 16, 3))  # no pure colours: what a screen cannot show is cut off
    first = np.kron(small, np.ones((1, 8, 8, 1), int)).astype(np.uint8)
    frames = first
    for generation in range(3):
        with VideoWriter(tmp_path / f"{generation}.mp4", 4.0, crf=0) as writer:
            for frame in frames:
                writer.write(frame)
        frames, _ = read_all(tmp_path / f"{generation}.mp4")
    drift = (frames.astype(int) - first).mean(axis=(0, 1, 2))
    assert np.abs(drift).max() < 0.5  # truncated, each generation loses a grey level and more


def test_a_frame_of_damaged_data_is_refused_where_it_would_be_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.mp4"
    picture = np.kron(rng.integers(0, 255, (8, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    with VideoWriter(path, 10.0) as writer:
        for index in range(40):
            writer.write(np.roll(picture, 3 * index, axis=1))
    data = bytearray(path.read_bytes())
    first = data.find(b"mdat") + 900  # behind what tells the decoder of the stream, within the first frame
    for position in range(first, first + 200, 10):
        data[position] ^= 0x5A
    path.write_bytes(data)
    for read in (read_all, lambda place: read_at(place, np.array([0.0]))):
        with pytest.raises(ValueError, match="damaged.mp4: cannot be read as video: .*write it anew"):
            read(path)


def test_frames_that_an_edit_list_hides_are_not_missing(tmp_path: Path) -> None:
    """As a cut without encoding leaves it: frames from the key frame on, those before the cut hidden."""
    whole, cut = _write(tmp_path / "whole.mp4", 0, 30), tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w", options={"avoid_negative_ts": "disabled"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        ticks = round(5 / 4 / source.streams.video[0].time_base)
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
                packet.stream = stream
                target.mux(packet)
    with av.open(str(cut)) as container:
        assert container.streams.video[0].frames == 30, "the test needs a header that counts hidden frames"
    info = probe(cut)
    assert (info.num_frames, info.header_frames) == (25, 25)
    assert [_number(frame) for frame in read_all(cut)[0]] == list(range(5, 30))


def test_frames_are_found_by_time_in_any_order(video: Path) -> None:
    times_s = np.array([14.75, 0.0, 0.25, 5.1, 3.0, 3.0, -0.5])
    assert [_number(frame) for frame in read_at(video, times_s)] == [59, 0, 1, 20, 12, 12, 0]


def test_a_rounded_timestamp_still_finds_its_frame(video: Path) -> None:
    assert [_number(frame) for frame in read_at(video, np.array([9.999, 10.001]))] == [40, 40]


def test_a_time_behind_the_end_is_an_error(video: Path) -> None:
    with pytest.raises(ValueError, match=r"no frame at 16\.000 s; the last one starts at 14\.750 s"):
        read_at(video, np.array([1.0, 16.0]))


def test_an_offset_of_the_container_changes_no_time(video: Path, tmp_path: Path) -> None:
    shifted = tmp_path / "shifted.ts"
    offset = {"output_ts_offset": "1.4"}  # what broadcast streams do
    with av.open(str(video)) as source, av.open(str(shifted), "w", options=offset) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    with av.open(str(shifted)) as container:
        assert container.streams.video[0].start_time, "the test needs a file that starts later than 0"
    assert np.allclose(probe(shifted).timestamps_s, np.arange(NUM_FRAMES) / 4)
    assert [_number(frame) for frame in read_at(shifted, np.array([0.0, 10.0]))] == [0, 40]


def test_a_phone_video_is_turned_upright(video: Path, tmp_path: Path) -> None:
    unit = bytes.fromhex("00010000 00000000 00000000 00000000 00010000 00000000 00000000 00000000 40000000")
    turned = bytes.fromhex("00000000 00010000 00000000 ffff0000 00000000 00000000 00000000 00000000 40000000")
    data = video.read_bytes()
    track = data.index(b"tkhd")
    (tmp_path / "phone.mp4").write_bytes(data[:track] + data[track:].replace(unit, turned, 1))
    upright = read_at(tmp_path / "phone.mp4", np.array([0.0]))[0]
    assert np.array_equal(upright, np.rot90(read_at(video, np.array([0.0]))[0], k=-1))


def test_the_same_frames_give_the_same_bytes(video: Path, tmp_path: Path) -> None:
    assert sha256_file(_write(tmp_path / "again.mp4", 0, NUM_FRAMES)) == sha256_file(video)


@pytest.mark.parametrize("fps", [4.0, 30000 / 1001, 7.5])
def test_joined_parts_show_every_frame_once_at_an_even_pace(tmp_path: Path, fps: float) -> None:
    parts = [_write(tmp_path / f"{a}.mp4", a, b, fps) for a, b in ((0, 21), (21, 22), (22, 60))]
    assert join_videos(parts, tmp_path / "joined.mp4") == NUM_FRAMES
    info = probe(tmp_path / "joined.mp4")
    assert info.fps == pytest.approx(fps, rel=1e-4)
    assert np.diff(info.timestamps_s) == pytest.approx(1 / fps, rel=1e-2)
    joined = [frame for _, frame in iter_frames(tmp_path / "joined.mp4")]
    of_parts = [frame for part in parts for _, frame in iter_frames(part)]
    assert np.array_equal(np.stack(joined), np.stack(of_parts))


def test_parts_that_do_not_belong_together_are_not_joined(video: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fast\.mp4: differs from"):
        join_videos([video, _write(tmp_path / "fast.mp4", 0, 5, fps=8.0)], tmp_path / "joined.mp4")
    assert not (tmp_path / "joined.mp4").exists()


def test_an_error_while_writing_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="model failed"), VideoWriter(tmp_path / "a.mp4", 4.0) as writer:
        writer.write(_frame(0))
        raise RuntimeError("model failed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([np.zeros((31, 64, 3), np.uint8)], "even width and height"),
        ([np.zeros((32, 64, 3), np.uint8), np.zeros((32, 66, 3), np.uint8)], "expected uint8"),
        ([np.zeros((32, 64, 3), np.float32)], "expected uint8"),
        ([], "without a frame"),
    ],
)
def test_frames_that_make_no_video_are_refused(tmp_path: Path, frames: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message), VideoWriter(tmp_path / "a.mp4", 4.0) as writer:
        for frame in frames:
            writer.write(frame)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file_is_told_by_its_header_and_breaks_loudly(video: Path, tmp_path: Path) -> None:
    whole = video.read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    info = probe(tmp_path / "half.mp4")
    assert info.header_frames == NUM_FRAMES
    assert 0 < info.num_frames < NUM_FRAMES
    with pytest.raises(ValueError, match=r"half\.mp4"):
        read_at(tmp_path / "half.mp4", np.array([14.75]))


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a video")
    with pytest.raises(ValueError, match=r"notes\.mp4: cannot be read as video"):
        probe(tmp_path / "notes.mp4")
    with pytest.raises(FileNotFoundError, match="no such file"):
        probe(tmp_path / "none.mp4")


def test_an_avi_whose_frames_are_coded_out_of_order_shows_them_in_order(tmp_path: Path) -> None:
    path = tmp_path / "b_frames.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.options = {"bf": "3", "b_strategy": "0", "b-adapt": "0"}
        for index in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(_frame(index), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    times_s, frames = zip(*iter_frames(path), strict=True)
    assert [_number(frame) for frame in frames] == list(range(NUM_FRAMES))
    assert times_s == pytest.approx(np.arange(NUM_FRAMES) / 10)
    assert probe(path).timestamps_s == pytest.approx(np.arange(NUM_FRAMES) / 10)
    assert [_number(frame) for frame in read_at(path, np.array([3.0, 0.1, 5.9]))] == [30, 1, 59]


@pytest.mark.parametrize("has_avx512", [True, False])
def test_the_encoder_keeps_to_avx2_where_there_is_avx512(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_avx512: bool
) -> None:
    monkeypatch.setattr("drivesim.core.video_writing._has_avx512", lambda: has_avx512)
    with pytest.raises(ValueError, match="without a frame"), VideoWriter(tmp_path / "a.mp4", 4.0) as writer:
        options = writer._add_stream(np.zeros((32, 64, 3), np.uint8)).options
    assert options.get("x264-params") == ("asm=avx2" if has_avx512 else None)
