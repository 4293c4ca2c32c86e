"""Extractors: names that never claim FVD or FID, weights by checksum, and the way published networks are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.core.files import sha256_file
from drivesim.core.weights_files import Checksum, git_blob_sha1
from drivesim.evaluate.clip_network import ClipNetwork
from drivesim.evaluate.extractors import (
    EXTRACTORS,
    STANDARD_NETWORKS,
    Extractor,
    ExtractorConfig,
    FeatureKind,
    make_extractor,
)
from drivesim.evaluate.frames import as_uint8
from drivesim.evaluate.i3d import NetworkResize
from drivesim.evaluate.inception_score import InceptionScore

# The published networks are TorchScript files, so TorchScript it is as long as torch has it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class TinyI3D(nn.Module):
    """Called like the public I3D TorchScript file; squeezes a batch of one, as that does."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        assert rescale == resize and return_features and x.shape[1] == 3
        if resize:
            assert x.dtype == torch.uint8
            x = 2.0 * x.float() / 255 - 1
        else:
            assert x.shape[3] == 224 and x.shape[4] == 224
        means = x.mean(dim=[3, 4])
        return torch.cat([means.mean(dim=2), means.std(dim=2)], dim=1).squeeze(0)


class Listening(nn.Module):
    """Notes how GPUs may round while it runs."""

    def clip_features(self, frames: Tensor) -> Tensor:
        self.allowed = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
        return frames.new_zeros(len(frames), 1)


class TinyC3D(nn.Module):
    """Called like StyleGAN-V's C3D TorchScript file, which takes uint8 alone and answers with probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8 and x.shape[1] == 3 and x.shape[2] == 16
        means = x.float().mean(dim=[3, 4])
        return torch.cat([means[:, :, 0], means[:, :, 15]], dim=1).softmax(dim=1)


class TinyInception(nn.Module):
    """Called like NVIDIA's Inception TorchScript file."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert return_features and x.dtype == torch.uint8 and x.shape[1] == 3
        return x.float().mean(dim=[2, 3])


@pytest.fixture()
def i3d_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny_i3d.pt"
    torch.jit.script(TinyI3D()).save(str(path))
    return path


def clips(batch: int = 2, frames: int = 10) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, size=(batch, frames, 20, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["toytown-clip", "toytown-frame"])
def test_our_own_network_never_says_fvd_or_fid(name: str) -> None:
    extractor = make_extractor(ExtractorConfig(name=name))
    assert not extractor.is_standard
    assert extractor.name in extractor.metric_name
    assert "FVD" not in extractor.metric_name.upper() and "FID" not in extractor.metric_name.upper()


@pytest.mark.parametrize("name", ["toytown-clip", "toytown-frame"])
def test_shipped_extractors_give_the_promised_vectors(name: str) -> None:
    extractor = make_extractor(ExtractorConfig(name=name))
    batch = clips()
    features = extractor(batch)
    rows = 2 if extractor.kind is FeatureKind.CLIP else 20
    assert features.shape == (rows, extractor.feature_dim)
    assert features.dtype == torch.float32
    torch.testing.assert_close(extractor(batch[1:]), features[rows // 2 :], rtol=1e-4, atol=1e-5)
    assert len(extractor.fingerprint) == 64


def test_shipped_weights_are_small() -> None:
    import drivesim.evaluate

    folder = Path(drivesim.evaluate.__file__).parent / "weights"
    files = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    detector = files.pop("toytown_detector.safetensors")  # has a size of its own
    assert sum(files.values()) <= 1.5e6
    assert detector <= 2e6


def test_unknown_extractor_names_the_choices() -> None:
    with pytest.raises(ValueError, match=", ".join(EXTRACTORS)):
        make_extractor(ExtractorConfig(name="i3d"))


def test_i3d_file_is_loaded_by_path_and_called_as_published(i3d_file: Path) -> None:
    config = ExtractorConfig(
        name="i3d-torchscript", weights=str(i3d_file), git_blob_sha1=git_blob_sha1(i3d_file), feature_dim=6
    )
    extractor = make_extractor(config)
    batch = clips()
    features = extractor(batch)
    assert features.shape == (2, 6)
    means = (2 * batch.astype(np.float64) / 255 - 1).mean(axis=(2, 3)).mean(axis=1)
    np.testing.assert_allclose(features[:, :3].numpy(), means, atol=1e-5)
    assert extractor(batch[:1]).shape == (1, 6)  # squeezed by the network, restored by us


def test_a_resize_of_our_own_replaces_that_of_the_file(i3d_file: Path) -> None:
    config = ExtractorConfig(
        name="i3d-torchscript", weights=str(i3d_file), sha256=sha256_file(i3d_file), feature_dim=6,
        resize=NetworkResize.SQUASH_TF1,
    )  # fmt: skip
    extractor = make_extractor(config)
    assert extractor.name == "i3d-torchscript, squash-tf1"
    frames = np.zeros((1, 9, 2, 2, 3), dtype=np.uint8)
    frames[:, :, :, 1] = 255  # by corners, 3 of 4 columns are interpolated or right: the mean lies above the middle
    means = extractor(frames)[0, :3]
    np.testing.assert_allclose(means.numpy(), 2 * (0.25 + 0.5) - 1, atol=0.01)
    with pytest.raises(ValueError, match="resize is a setting of"):
        make_extractor(ExtractorConfig(resize=NetworkResize.SQUASH))


def test_our_own_network_of_other_weights_is_checked_like_all(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    ClipNetwork().save(path)
    blob = git_blob_sha1(path)
    found = make_extractor(ExtractorConfig(weights=str(path), git_blob_sha1=blob))
    assert found.fingerprint == sha256_file(path)
    with pytest.raises(ValueError, match=f"its git blob id is {blob}, expected 0000"):
        make_extractor(ExtractorConfig(weights=str(path), git_blob_sha1="0000"))
    cache = str(tmp_path / "cache")
    with pytest.raises(ValueError, match="weights from a URL need"):
        make_extractor(ExtractorConfig(weights=path.as_uri(), cache_folder=cache))
    config = ExtractorConfig(weights=path.as_uri(), sha256=sha256_file(path), cache_folder=cache)
    assert make_extractor(config).fingerprint == found.fingerprint
    with pytest.raises(FileNotFoundError, match="absent.safetensors"):
        make_extractor(ExtractorConfig(weights=str(tmp_path / "absent.safetensors"), sha256="0" * 64))


def test_other_weights_than_the_standard_ones_are_not_called_fvd(i3d_file: Path) -> None:
    config = ExtractorConfig(name="i3d-torchscript", weights=str(i3d_file), sha256=sha256_file(i3d_file), feature_dim=6)
    extractor = make_extractor(config)
    assert not extractor.is_standard
    assert "FVD" not in extractor.metric_name
    assert extractor.fingerprint[:8] in extractor.metric_name


def test_standard_weights_are_called_fvd(i3d_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checksum = Checksum(git_blob_sha1=git_blob_sha1(i3d_file))
    monkeypatch.setattr(STANDARD_NETWORKS["i3d-torchscript"], "checksum", checksum)
    extractor = make_extractor(ExtractorConfig(name="i3d-torchscript", weights=str(i3d_file), feature_dim=6))
    assert extractor.is_standard
    assert extractor.metric_name == "FVD"


def test_eight_frames_are_too_few_for_i3d(i3d_file: Path) -> None:
    config = ExtractorConfig(name="i3d-torchscript", weights=str(i3d_file), sha256=sha256_file(i3d_file), feature_dim=6)
    with pytest.raises(ValueError, match="at least 9"):
        make_extractor(config)(clips(frames=8))


def test_wrong_file_is_refused_with_the_expected_checksum(i3d_file: Path) -> None:
    with pytest.raises(ValueError, match="93daef59c7ae0e9e8f76225521407e60cbafa6aa.*stylegan-v"):
        make_extractor(ExtractorConfig(name="i3d-torchscript", weights=str(i3d_file)))


@pytest.mark.parametrize("name", ["i3d-torchscript", "i3d-kinetics400", "inception-2015"])
def test_absent_weights_say_where_to_get_them_and_are_never_replaced(name: str, tmp_path: Path) -> None:
    for weights in (None, str(tmp_path / "absent.pt")):
        with pytest.raises(FileNotFoundError, match="https://"):
            make_extractor(ExtractorConfig(name=name, weights=weights))


def test_c3d_gives_the_probabilities_of_an_inception_score(tmp_path: Path) -> None:
    path = tmp_path / "tiny_c3d.pt"
    torch.jit.script(TinyC3D()).save(str(path))
    config = ExtractorConfig(name="c3d-ucf101", weights=str(path), sha256=sha256_file(path), feature_dim=6)
    extractor = make_extractor(config)
    assert not extractor.is_standard  # no published checksum is known
    assert "not checked" in extractor.metric_name
    metric = InceptionScore(extractor, num_splits=1)
    batch = clips(5, 16)
    metric.update(batch)
    rows = extractor(batch).double().numpy()
    expected = np.exp((rows * np.log(rows / rows.mean(axis=0))).sum(axis=1).mean())
    assert float(metric.compute()[0]) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="15 frames; it needs at least 16"):
        extractor(clips(1, 15))


def test_c3d_asks_for_a_checksum_since_none_was_published(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give the sha256 of your file.*stylegan-v"):
        make_extractor(ExtractorConfig(name="c3d-ucf101"))
    with pytest.raises(ValueError, match="give `sha256` or `git_blob_sha1`"):
        make_extractor(ExtractorConfig(name="c3d-ucf101", weights=str(tmp_path / "c3d.pt")))


def test_url_is_downloaded_once_into_the_cache(tmp_path: Path) -> None:
    source = tmp_path / "there" / "inception.pt"
    source.parent.mkdir()
    torch.jit.script(TinyInception()).save(str(source))
    cache = tmp_path / "cache"
    config = ExtractorConfig(
        name="inception-2015",
        weights=source.as_uri(),
        sha256=sha256_file(source),
        feature_dim=3,
        cache_folder=str(cache),
    )
    batch = clips(2, 3)
    features = make_extractor(config)(batch)
    np.testing.assert_allclose(features.numpy(), batch.reshape(6, -1, 3).mean(axis=1), rtol=1e-4)
    source.unlink()
    make_extractor(config)
    assert [path.name for path in cache.iterdir()] == ["inception.pt"]


def test_download_of_other_bytes_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "wrong.pt"
    source.write_bytes(b"something else")
    cache = tmp_path / "cache"
    config = ExtractorConfig(name="inception-2015", weights=source.as_uri(), cache_folder=str(cache))
    with pytest.raises(ValueError, match="expected f58cb9b6"):
        make_extractor(config)
    assert list(cache.iterdir()) == []


def test_offline_download_is_a_clear_error(tmp_path: Path) -> None:
    url = (tmp_path / "absent.pt").as_uri()
    with pytest.raises(FileNotFoundError, match="cannot be downloaded"):
        make_extractor(ExtractorConfig(name="inception-2015", weights=url, cache_folder=str(tmp_path / "cache")))


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.full((2, 4, 4, 3), 200.0), r"0\.\.255 belong in uint8"),
        (np.full((2, 4, 4, 3), -0.5), r"\(x \+ 1\) / 2"),
        (np.full((2, 4, 4, 3), np.nan), "NaN"),
        (np.zeros((2, 4, 4, 3), dtype=np.int64), "type int64"),
        (np.zeros((2, 3, 4, 4), dtype=np.uint8), "RGB last"),
    ],
)
def test_frames_of_the_wrong_range_or_type_are_refused(frames: NDArray[np.float64], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        as_uint8(frames)


def test_floats_are_rounded_and_not_truncated() -> None:
    grey = np.arange(256) / 255
    frames = np.repeat(grey[None, :, None], 3, axis=2).astype(np.float32)
    np.testing.assert_array_equal(as_uint8(frames)[0, :, 0], np.arange(256))


def test_anything_of_the_right_form_is_an_extractor() -> None:
    extractor: Extractor = make_extractor(ExtractorConfig())
    assert extractor.feature_dim == 128


def test_scores_are_of_whole_float32_on_gpus_too() -> None:
    extractor = make_extractor(ExtractorConfig())
    network = Listening()
    extractor.network = network  # type: ignore[attr-defined]
    before = torch.backends.cudnn.allow_tf32
    assert before, "torch allows cuDNN to round; the test needs that"
    extractor(np.zeros((1, 2, 64, 128, 3), np.uint8))
    assert network.allowed == (False, False)
    assert torch.backends.cudnn.allow_tf32 == before
