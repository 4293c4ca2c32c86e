"""Model folders put together: what contradicts is refused, the rest is carried over."""

import json
import shutil
from pathlib import Path

import pytest

from drivesim.families.driving import DrivingModel
from drivesim.families.joining import carry, check_joined
from tests.families.tiny_family import write_tiny_family


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_tiny_family(tmp_path / "whole")


def _without(folder: Path, *parts: str) -> Path:
    for part in parts:
        shutil.rmtree(folder / part)
    return folder


def test_parts_and_facts_of_two_folders_make_one_model(tmp_path: Path, whole: Path) -> None:
    image = tmp_path / "image"
    shutil.copytree(whole, image)
    _without(image, "temporal")
    (image / "model_index.json").unlink()
    check_joined([image, whole], [])
    index = carry([image, whole], [], tmp_path / "out")
    (tmp_path / "out" / "model_index.json").write_text(json.dumps({"name": "joined"} | index))
    assert DrivingModel.from_pretrained(tmp_path / "out").name == "joined"


def test_parts_that_are_trained_anew_are_not_carried(tmp_path: Path, whole: Path) -> None:
    carry([whole], ["temporal"], tmp_path / "out")
    assert (tmp_path / "out" / "backbone").is_dir()
    assert not (tmp_path / "out" / "temporal").exists()


def test_folders_with_different_parts_of_one_name_are_refused_by_both_names(tmp_path: Path, whole: Path) -> None:
    other = write_tiny_family(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=f"{whole} and {other} hold different parts 'autoencoder'"):
        check_joined([whole, other], ["temporal"])


def test_facts_that_contradict_are_refused_with_both_values(tmp_path: Path, whole: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"fps": 30.0}))
    with pytest.raises(ValueError, match=rf"fps is 4.0 in {whole} and 30.0 in {other}"):
        check_joined([whole, other], [])


def test_models_with_and_without_the_scale_of_their_latents_join_and_two_scales_are_refused(
    tmp_path: Path, whole: Path
) -> None:
    def with_scale(name: str, scale: float) -> Path:
        folder = Path(shutil.copytree(whole, tmp_path / name))
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"latent_scale": [0.0, scale]}))
        return folder

    known, other = with_scale("known", 1.0), with_scale("other", 0.5)
    for number, folders in enumerate([[known, whole], [whole, known]]):
        check_joined(folders, [])
        assert carry(folders, [], tmp_path / f"out{number}")["latent_scale"] == [0.0, 1.0]
    with pytest.raises(ValueError, match=rf"latent_scale is \[0.0, 1.0\] in {known} and \[0.0, 0.5\] in {other}"):
        check_joined([known, other], [])
