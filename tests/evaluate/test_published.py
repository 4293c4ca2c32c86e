"""Published results: the files can be read, and stand beside ours only where the same was measured."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from drivesim.config import compose
from drivesim.evaluate.protocol import ProtocolCard, ProtocolConfig, SetCard
from drivesim.evaluate.published import load_published, published_beside, published_folder

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "evaluation").glob("*/published.yaml"))
PRESETS = sorted(path.stem for path in (ROOT / "conf" / "protocol").glob("*.yaml"))


@functools.cache
def preset(name: str) -> ProtocolConfig:
    protocol: ProtocolConfig = compose("evaluate", [f"protocol={name}", "generated=x", "real=y"]).protocol
    return protocol


def card(num_clips: int = 2048, standard: bool = True, metric: str = "FVD", **changes: object) -> ProtocolCard:
    """The card of an evaluation under protocol=video_ldm."""
    config = preset("video_ldm")
    names = ("name", "num_frames", "fps", "frame_stride", "context_frames")
    protocol = {name: getattr(config, name) for name in names} | {"covariance": "population", "data_set": "RDS"}
    return ProtocolCard(
        protocol=protocol | changes,
        extractors=[
            {"name": "i3d-torchscript", "metrics": [metric], "is_standard": standard, "is_published": standard}
        ],
        generated=SetCard(name="a", num_clips=num_clips),
        real=SetCard(name="b", num_clips=2048),
        versions={},
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_file_belongs_to_a_preset_and_asks_for_what_that_says(path: Path) -> None:
    found = load_published(path)
    (own,) = [config for config in map(preset, PRESETS) if config.name == found.protocol]
    assert path.parent.name == found.protocol
    assert found.num_clips == own.max_clips
    for name, wanted in found.card.items():
        value = getattr(own, name)
        assert getattr(value, "value", value) == wanted, name
    assert all(result.source and result.value > 0 for result in found.results)


def test_the_same_protocol_data_and_network_show_what_was_published() -> None:
    shown, reasons = published_beside(card(), published_folder())
    assert {(result.model, result.value) for result in shown} == {
        ("Long Video GAN", 478), ("Video LDM", 389), ("Video LDM with labels", 356),
    }  # fmt: skip
    assert reasons == []


@pytest.mark.parametrize(
    "changes",
    [
        {"standard": False}, {"metric": "FID"}, {"name": "mine"}, {"data_set": None}, {"data_set": "my drives"},
    ],
    ids=str,
)  # fmt: skip
def test_another_network_protocol_or_data_set_shows_nothing(changes: dict[str, object]) -> None:
    assert published_beside(card(**changes), published_folder()) == ([], [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"num_frames": 8}, "protocol.num_frames is 8, theirs 16"), ({"num_clips": 12}, "12 clips of a, theirs 2048")],
)
def test_a_card_that_differs_shows_nothing_and_says_why(changes: dict[str, object], words: str) -> None:
    shown, (reason,) = published_beside(card(**changes), published_folder())  # type: ignore[arg-type]
    assert shown == []
    assert words in reason


@pytest.mark.parametrize(
    "text", ["[]", "protocol: x", "protocol: x\nresults: [{model: y}]", "protocol: x\ncard: {fsp: 3}\nresults: []"]
)
def test_a_file_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "published.yaml").write_text(text)
    with pytest.raises(ValueError, match="published.yaml"):
        load_published(tmp_path / "published.yaml")


def test_an_inception_score_by_weights_that_nothing_is_known_of_says_why_none_is_shown() -> None:
    config = preset("ucf101")
    found = card(10000, num_frames=config.num_frames, name=config.name, data_set="UCF-101")
    found.real.num_clips = 10000
    title = "Inception Score (c3d-ucf101, its bytes not checked)"
    found.extractors = [{"name": "c3d-ucf101", "metrics": [title], "is_standard": False, "is_published": False}]
    shown, (reason,) = published_beside(found, published_folder())
    assert shown == []
    assert "in Inception Score are not shown: nothing says that the bytes of c3d-ucf101" in reason


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_result_is_of_a_score_that_is_called_so_here(path: Path) -> None:
    """Others could never stand beside one."""
    scores = {"FVD", "FID", "CLIPSIM", "Inception Score"}
    assert {result.metric for result in load_published(path).results} <= scores


def test_what_others_call_fvd_stands_beside_their_own_network_alone() -> None:
    config = preset("vista")
    (file,) = [path for path in FILES if path.parent.name == "vista"]
    network = {"name": "i3d-kinetics400, eps 1e-05", "metrics": ["x"], "is_standard": False, "is_published": True}
    found = card(
        5369, **{name: getattr(config, name) for name in load_published(file).card}, name="vista", data_set="nuScenes"
    )
    found.real.num_clips = 5369
    found.extractors = [network]
    assert [result.value for result in published_beside(found, file.parents[1])[0]] == [89.4]
    for changed in ({"is_published": False}, {"name": "i3d-torchscript", "is_standard": True, "metrics": ["FVD"]}):
        found.extractors = [network | changed]
        assert published_beside(found, file.parents[1]) == ([], [])


I3D = ("i3d-torchscript", None, None)
PORT = ("i3d-kinetics400", 1e-5, "squash")
# What the references do: frames, stride, rate, clips, divisor, root's epsilon, networks with epsilon and resize.
TABLE = {
    "video_ldm": (16, 1, 30.0, 2048, "population", None, [I3D]),
    "video_ldm_fid": (1, 1, 30.0, 10000, "unbiased", None, [("inception-2015", None, None)]),
    "stylegan_v_16": (16, 1, None, 2048, "population", None, [I3D]),
    "stylegan_v_128": (128, 1, None, 2048, "population", None, [I3D]),
    "stylegan_v_16_stride8": (16, 8, None, 2048, "population", None, [I3D]),
    "vista": (25, 1, 10.0, 5369, "unbiased", 1e-10, [PORT]),
    "magicdrive": (16, 1, 12.0, None, "unbiased", None, [I3D]),
    "opendwm": (16, 1, 10.0, None, "unbiased", None, [I3D]),
    "original": (16, 1, None, None, "unbiased", 1e-10, [("i3d-torchscript", None, "squash-tf1")]),
    "videogpt": (16, 1, None, None, "unbiased", 1e-10, [("i3d-kinetics400", 1e-5, "short-side")]),
    "tats": (16, 1, None, None, "unbiased", 1e-10, [PORT]),
    "ucf101": (16, 1, None, 10000, "population", None, [I3D, ("c3d-ucf101", None, None)]),
    "msrvtt": (16, 1, None, 2990, "unbiased", None, [("clip-vit-b-32", None, None)]),
}


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_as_published(name: str) -> None:
    found = preset(name)
    networks = [(one.name, one.batch_norm_eps, one.resize and one.resize.value) for one in found.extractors]
    clips = (found.num_frames, found.frame_stride, found.fps, found.max_clips)
    assert (*clips, found.covariance.value, found.root_eps, networks) == TABLE[name]
    assert found.truncate_real == (name == "vista")


def test_no_preset_is_left_out() -> None:
    assert {*TABLE, "keyframes"} == set(PRESETS)
