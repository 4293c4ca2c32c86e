"""I3D: SAME padding, names and sizes of the public form, features of a plain implementation, files it refuses."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from drivesim.core.files import sha256_file
from drivesim.core.weights_files import Checksum
from drivesim.evaluate.extractors import (
    I3D_KINETICS,
    ClassScores,
    ExtractorConfig,
    FeatureKind,
    make_extractor,
)
from drivesim.evaluate.i3d import (
    I3D,
    ConvUnit,
    NetworkResize,
    max_pool_same,
    network_input,
    resize_tf1,
    same_padding,
)

BLOCKS = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
UNITS = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
UNITS += [f"Mixed_{block}.{branch}" for block in BLOCKS for branch in BRANCHES]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """A random state dict under which activations stay of the order of 1."""
    draw = torch.Generator().manual_seed(0)
    result = {}
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in I3D().state_dict().items()}
    for name, shape in shapes.items():
        if name.endswith("conv3d.weight"):
            result[name] = torch.randn(shape, generator=draw) * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith(("bn.weight", "running_var")):
            result[name] = 0.5 + torch.rand(shape, generator=draw)
        elif not name.endswith("num_batches_tracked"):
            result[name] = 0.2 * torch.randn(shape, generator=draw)
    return result


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "i3d.safetensors"
    save_file(weights, path)
    return path


def plain_i3d(weights: dict[str, Tensor], clips: Tensor, eps: float) -> Tensor:
    """The published ports' way: zeros padded by copies, batch norm apart, logits for every step of time."""

    def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        pads: list[int] = []
        for size, width, step in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
            total = max(width - step if size % step == 0 else width - size % step, 0)
            pads += [total // 2, total - total // 2]
        return F.pad(x, pads)

    def unit(x: Tensor, name: str, step: int = 1) -> Tensor:
        weight = weights[f"{name}.conv3d.weight"]
        x = F.conv3d(padded(x, tuple(weight.shape[2:]), (step,) * 3), weight, stride=step)
        norm = [weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *norm, eps=eps).relu()

    def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
        return F.max_pool3d(padded(x, kernel, stride), kernel, stride)

    x = pool(unit(clips, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    for block in BLOCKS:
        if block in ("4b", "5b"):
            width = 3 if block == "4b" else 2
            x = pool(x, (width,) * 3, (2, 2, 2))
        b0, b1a, b1b, b2a, b2b, b3b = (f"Mixed_{block}.{branch}" for branch in BRANCHES)
        pooled = pool(x, (3, 3, 3), (1, 1, 1))
        x = torch.cat([unit(x, b0), unit(unit(x, b1a), b1b), unit(unit(x, b2a), b2b), unit(pooled, b3b)], dim=1)
    logits = F.conv3d(F.avg_pool3d(x, (2, 7, 7), 1), weights["logits.conv3d.weight"], weights["logits.conv3d.bias"])
    return logits.squeeze(3).squeeze(3).mean(2)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 7, 2, (2, 3)),  # 112 windows reach over 229 pixels: 5 are missing, the odd one lies behind
        (223, 7, 2, (3, 3)),
        (16, 7, 2, (2, 3)),
        (112, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (5, 2, 2, (0, 1)),
        (4, 2, 2, (0, 0)),
        (28, 3, 1, (1, 1)),
        (28, 1, 1, (0, 0)),
        (1, 3, 2, (1, 1)),
    ],
)
def test_same_padding_is_that_of_tensorflow(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


@pytest.mark.parametrize(("kernel", "stride"), [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)),
                                                ((3, 3, 3), (1, 1, 1))])  # fmt: skip
@pytest.mark.parametrize("sizes", [(4, 6, 8), (5, 7, 9), (1, 6, 7), (2, 3, 2)])
def test_max_pools_see_nothing_outside_the_picture(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], sizes: tuple[int, int, int]
) -> None:
    maps = torch.randn(2, 3, *sizes, generator=torch.Generator().manual_seed(1)) - 5  # zeros outside would win
    found = max_pool_same(maps, kernel, stride)
    outputs = [math.ceil(size / step) for size, step in zip(sizes, stride, strict=True)]
    assert found.shape == (2, 3, *outputs)
    fronts = [same_padding(*axis)[0] for axis in zip(sizes, kernel, stride, strict=True)]
    for where in itertools.product(*(range(count) for count in outputs)):
        starts = [at * step - front for at, step, front in zip(where, stride, fronts, strict=True)]
        window = [slice(max(a, 0), a + width) for a, width in zip(starts, kernel, strict=True)]
        expected = maps[(slice(None), slice(None), *window)].amax(dim=(2, 3, 4))
        torch.testing.assert_close(found[(slice(None), slice(None), *where)], expected)


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (1, 1)])
@pytest.mark.parametrize("eps", [1e-3, 1e-5])
@pytest.mark.parametrize("folded", [False, True])
def test_convolution_unit_matches_its_definition(kernel: int, stride: int, eps: float, folded: bool) -> None:
    rng = np.random.default_rng(2)
    maps, weight = rng.normal(size=(2, 4, 5, 6)), rng.normal(size=(3, 2, kernel, kernel, kernel))
    scale, shift, mean, variance = (rng.uniform(0.001, 0.02, size=3) for _ in range(4))  # eps counts
    unit = ConvUnit(2, 3, kernel, stride, eps).eval()
    names = ("conv3d.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    values = (weight, scale, shift, mean, variance)
    state = {name: torch.from_numpy(value).float() for name, value in zip(names, values, strict=True)}
    unit.load_state_dict(state, strict=False)
    if folded:
        unit.fold()
    fronts = [same_padding(size, kernel, stride)[0] for size in maps.shape[1:]]
    outputs = [math.ceil(size / stride) for size in maps.shape[1:]]
    expected = np.zeros((3, *outputs))
    for where in itertools.product(*(range(count) for count in outputs)):
        for tap in itertools.product(range(kernel), repeat=3):
            source = tuple(at * stride + k - front for at, k, front in zip(where, tap, fronts, strict=True))
            if all(0 <= at < size for at, size in zip(source, maps.shape[1:], strict=True)):
                expected[(slice(None), *where)] += weight[(..., *tap)] @ maps[(slice(None), *source)]
    expected = (expected - mean[:, None, None, None]) / np.sqrt(variance + eps)[:, None, None, None]
    expected = np.maximum(expected * scale[:, None, None, None] + shift[:, None, None, None], 0)
    with torch.inference_mode():
        found = unit(torch.from_numpy(maps).float()[None])[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_names_and_sizes_are_those_of_the_public_form() -> None:
    with torch.device("meta"):
        network = I3D()
    state = network.state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {f"{unit}.conv3d.weight" for unit in UNITS} | {f"{unit}.bn.{part}" for unit in UNITS for part in norm}
    assert set(state) == names | {"logits.conv3d.weight", "logits.conv3d.bias"}
    assert sum(value.numel() for value in network.parameters()) == 12_697_264
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_4e.b1b.conv3d.weight"].shape == (288, 144, 3, 3, 3)
    assert state["Mixed_5c.b3b.conv3d.weight"].shape == (128, 832, 1, 1, 1)
    assert state["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)


@pytest.mark.parametrize("num_frames", [*range(9, 17), 25, 33])
def test_nine_frames_and_more_give_400_logits(num_frames: int) -> None:
    with torch.device("meta"), torch.inference_mode():
        assert I3D().eval()(torch.empty(2, 3, num_frames, 224, 224)).shape == (2, 400)


def test_eight_frames_and_small_pictures_are_refused() -> None:
    with torch.device("meta"), torch.inference_mode():
        with pytest.raises(ValueError, match="8 frames; it needs at least 9"):
            I3D()(torch.empty(1, 3, 8, 224, 224))
        with pytest.raises(ValueError, match="it needs 224 x 224"):
            I3D()(torch.empty(1, 3, 9, 192, 192))


@pytest.mark.parametrize(("eps", "num_frames"), [(1e-3, 17), (1e-5, 9)])
def test_logits_equal_a_plain_implementation(
    weights: dict[str, Tensor], file: Path, eps: float, num_frames: int
) -> None:
    network = I3D.load(file, eps)
    clips = torch.rand(1, 3, num_frames, 193, 194, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.inference_mode():
        found, expected = network(clips), plain_i3d(weights, clips, eps)
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_both_file_forms_give_the_same_network_and_draw_no_random_numbers(
    weights: dict[str, Tensor], file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "i3d.pt"
    counters = {f"{unit}.bn.num_batches_tracked": torch.tensor(7) for unit in UNITS}
    torch.save(weights | counters, path)
    before = torch.get_rng_state()
    first, second = I3D.load(file), I3D.load(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not first.training
    for (name, value), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_files_with_other_tensors_are_refused_by_the_first_name(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "i3d.safetensors"
    name = "Mixed_3b.b1a.conv3d.weight"
    save_file({key: value for key, value in weights.items() if key != name}, path)
    with pytest.raises(ValueError, match=f"{name} is missing"):
        I3D.load(path)
    save_file(weights | {name: torch.zeros(96, 192, 3, 3, 3)}, path)
    with pytest.raises(ValueError, match=rf"{name} has shape \(96, 192, 3, 3, 3\), expected \(96, 192, 1, 1, 1\)"):
        I3D.load(path)
    save_file(weights | {"Mixed_6a.b0.conv3d.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="Mixed_6a.b0.conv3d.weight is unexpected"):
        I3D.load(path)


class Harmful:
    """Would write a file when unpickled by a loader that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_files_that_are_no_state_dict_are_refused_unrun(tmp_path: Path) -> None:
    path = tmp_path / "i3d.pt"
    torch.save({"weights": Harmful(tmp_path / "harm")}, path)
    with pytest.raises(ValueError, match="not a state dict"):
        I3D.load(path)
    assert not (tmp_path / "harm").exists()
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="holds no state dict"):
        I3D.load(path)
    for broken in (path, tmp_path / "i3d.safetensors"):
        broken.write_bytes(b"something else")
        with pytest.raises(ValueError, match="not a state dict"):
            I3D.load(broken)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_the_torchscript_form_is_not_taken_for_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(nn.Identity()).save(str(path))
    with pytest.raises(ValueError, match="not a state dict"):
        I3D.load(path)


def frames(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, size=(2, 3, height, width, 3), dtype=np.uint8)


def test_frames_of_the_right_size_are_scaled_alone() -> None:
    pictures = frames(224, 224)
    found = network_input(pictures, NetworkResize.SQUASH)
    assert found.shape == (2, 3, 3, 224, 224)
    np.testing.assert_allclose(found.numpy(), pictures.transpose(0, 4, 1, 2, 3) / 127.5 - 1, atol=1e-6)


def test_squashing_takes_the_two_nearest_pixels_and_no_others() -> None:
    pictures = frames(448, 896).astype(np.float64)
    found = network_input(pictures.astype(np.uint8), NetworkResize.SQUASH)
    rows = (pictures[:, :, 0::2] + pictures[:, :, 1::2]) / 2  # 2 times smaller: the centre lies between both
    columns = (rows[:, :, :, 1::4] + rows[:, :, :, 2::4]) / 2  # 4 times smaller: between the middle two
    np.testing.assert_allclose(found.numpy(), columns.transpose(0, 4, 1, 2, 3) / 127.5 - 1, atol=1e-5)


@pytest.mark.parametrize("upright", [False, True])
def test_the_short_side_becomes_224_and_the_middle_is_kept(upright: bool) -> None:
    pictures = frames(448, 672).astype(np.float64)
    means = (pictures[:, :, 0::2] + pictures[:, :, 1::2]) / 2
    means = ((means[:, :, :, 0::2] + means[:, :, :, 1::2]) / 2)[:, :, :, 56:-56]
    if upright:
        pictures, means = pictures.swapaxes(2, 3), means.swapaxes(2, 3)
    found = network_input(np.ascontiguousarray(pictures.astype(np.uint8)), NetworkResize.SHORT_SIDE)
    np.testing.assert_allclose(found.numpy(), means.transpose(0, 4, 1, 2, 3) / 127.5 - 1, atol=1e-5)


def test_odd_sizes_still_fill_224_pixels() -> None:
    assert network_input(frames(99, 101), NetworkResize.SHORT_SIDE).shape == (2, 3, 3, 224, 224)


def extractor_config(file: Path, **settings: object) -> ExtractorConfig:
    return ExtractorConfig(name="i3d-kinetics400", weights=str(file), sha256=sha256_file(file), **settings)  # type: ignore[arg-type]


def test_extractor_gives_the_logits_of_squashed_frames(weights: dict[str, Tensor], file: Path) -> None:
    extractor = make_extractor(extractor_config(file))
    clip = np.random.default_rng(5).integers(0, 256, size=(1, 9, 448, 896, 3), dtype=np.uint8)
    halves = clip.astype(np.float64)
    halves = (halves[:, :, 0::2] + halves[:, :, 1::2]) / 2
    halves = (halves[:, :, :, 1::4] + halves[:, :, :, 2::4]) / 2
    expected = plain_i3d(weights, torch.from_numpy(halves.transpose(0, 4, 1, 2, 3) / 127.5 - 1).float(), 1e-3)
    found = extractor(clip)
    assert found.shape == (1, extractor.feature_dim) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert extractor.kind is FeatureKind.CLIP
    assert extractor.class_scores is ClassScores.LOGITS  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="clips of 8 frames; it needs at least 9"):
        extractor(clip[:, :8])


def test_the_published_port_is_named_after_its_origin_and_never_called_fvd(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "of other weights, sha256 " in make_extractor(extractor_config(file)).metric_name
    monkeypatch.setattr(I3D_KINETICS, "checksum", Checksum(sha256=sha256_file(file)))
    extractor = make_extractor(ExtractorConfig(name="i3d-kinetics400", weights=str(file)))
    assert not extractor.is_standard
    assert extractor.metric_name == "Fréchet clip distance by I3D grown from ImageNet (i3d-kinetics400)"


def test_settings_that_change_features_stand_in_the_name(file: Path) -> None:
    extractor = make_extractor(extractor_config(file, batch_norm_eps=1e-5, resize=NetworkResize.SHORT_SIDE))
    assert extractor.name == "i3d-kinetics400, eps 1e-05, short-side"
    assert extractor.name in extractor.metric_name
    assert make_extractor(extractor_config(file, batch_norm_eps=1e-3)).name == "i3d-kinetics400"


@pytest.mark.parametrize("settings", [{"batch_norm_eps": 1e-5}, {"resize": NetworkResize.SQUASH}])
def test_settings_of_i3d_are_refused_elsewhere(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="setting of .*i3d-kinetics400 alone"):
        make_extractor(ExtractorConfig(**settings))  # type: ignore[arg-type]


def test_another_file_than_the_published_one_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match="expected a867b87ac3a9097d200598b1d48a1b890d8ec744.*TATS"):
        make_extractor(ExtractorConfig(name="i3d-kinetics400", weights=str(file)))


@pytest.mark.parametrize(("size", "target"), [((7, 10), (4, 6)), ((5, 6), (12, 13)), ((299, 2), (224, 3))])
def test_tensorflow_1_puts_pixels_by_their_corners(size: tuple[int, int], target: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).uniform(0, 255, size=size)
    expected = np.zeros(target)
    for row in range(target[0]):
        for column in range(target[1]):
            y, x = row * size[0] / target[0], column * size[1] / target[1]
            top, left = int(y), int(x)
            bottom, right = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
            upper = picture[top, left] + (picture[top, right] - picture[top, left]) * (x - left)
            lower = picture[bottom, left] + (picture[bottom, right] - picture[bottom, left]) * (x - left)
            expected[row, column] = upper + (lower - upper) * (y - top)
    found = resize_tf1(torch.from_numpy(picture).float()[None, None], target)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=0.01)


def test_the_original_fvd_resizes_before_the_network() -> None:
    frames = np.random.default_rng(1).integers(0, 256, size=(1, 2, 8, 448, 3), dtype=np.uint8)
    found = network_input(frames, NetworkResize.SQUASH_TF1)
    assert found.shape == (1, 3, 2, 224, 224)
    np.testing.assert_allclose(found[0, :, 0, 0].numpy(), frames[0, 0, 0, ::2].T * (2 / 255) - 1, atol=1e-5)
    assert not torch.allclose(found, network_input(frames, NetworkResize.SQUASH))
