"""Model folders: a whole one loads, a broken one is refused by part."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from drivesim import Scene, Simulator
from drivesim.core.boxes import Boxes2D
from drivesim.core.run_folder import claim_folder
from drivesim.families.driving import DrivingModel
from drivesim.families.folder import find_lora, find_model, fingerprint, load_parts, save_parts
from drivesim.models.autoencoder import AutoencoderKL
from tests.families.tiny_family import write_tiny_family

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_family(tmp_path_factory.mktemp("family") / "tiny")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 64, 3), dtype=np.uint8)


def scene(*boxes: tuple[float, float, float, float]) -> Scene:
    n = len(boxes)
    return Scene(
        name="s",
        size_hw=(32, 64),
        boxes_2d=Boxes2D(
            xyxy_px=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            class_ids=np.zeros(n, dtype=np.int64),
            depth_m=np.full(n, np.nan),
            visibility=np.full(n, np.nan),
        ),
    )


def test_a_missing_part_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "temporal")
    with pytest.raises(ValueError, match="part 'temporal' is missing"):
        DrivingModel.from_pretrained(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "backbone" / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="part 'backbone' is missing its weights"):
        DrivingModel.from_pretrained(folder)


def test_a_pickle_is_refused(folder: Path) -> None:
    weights = folder / "autoencoder" / WEIGHTS
    torch.save({}, folder / "autoencoder" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match=r"part 'autoencoder' holds the pickle .*only safetensors"):
        DrivingModel.from_pretrained(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "conditioner" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"part 'conditioner': .*truncated"):
        DrivingModel.from_pretrained(folder)


def test_weights_with_a_missing_tensor_are_refused(folder: Path) -> None:
    path = folder / "temporal" / WEIGHTS
    tensors = load_file(path)
    removed = sorted(tensors)[0]
    tensors.pop(removed)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=f"part 'temporal': .*1 of .* tensors are missing, the first is {removed}"):
        DrivingModel.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_runs_in_the_type_it_was_loaded_in(whole: Path, dtype: torch.dtype) -> None:
    sim = Simulator.from_pretrained(whole, dtype=dtype)
    assert sim.design(scene((10, 10, 30, 30))).shape == (32, 64, 3)
    assert len(next(sim.rollout(picture(), seconds=1.0))) == 4


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    path = folder / "backbone" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"conv_in_kernel": 1}))
    with pytest.raises(ValueError, match="part 'backbone': weights and config do not belong together"):
        DrivingModel.from_pretrained(folder)


def test_weights_of_another_config_are_refused_in_one_line_before_any_are_read(
    folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "conditioner" / WEIGHTS
    save_file({f"other.{name}": tensor for name, tensor in load_file(path).items()}, path)
    monkeypatch.setattr(AutoencoderKL, "from_pretrained", None)  # it is the first to be read
    with pytest.raises(ValueError, match="part 'conditioner': weights and config do not belong .* the first is [^ ]*$"):
        DrivingModel.from_pretrained(folder)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_a_config_that_no_network_can_be_made_of_is_refused_by_part(folder: Path) -> None:
    path = folder / "backbone" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"norm_num_groups": 7}))
    with pytest.raises(ValueError, match="part 'backbone': its config makes no UNet2DConditionModel: .*num_groups"):
        DrivingModel.from_pretrained(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(folder: Path, number: float) -> None:
    path = folder / "backbone" / WEIGHTS
    tensors = load_file(path)
    (name, *_) = sorted(name for name in tensors if name.endswith("attn1.to_k.weight"))
    tensors[name][0, 0] = number
    save_file(tensors, path)
    with pytest.raises(ValueError, match=f"part 'backbone': 1 of .* numbers of {name} are not finite in float32"):
        DrivingModel.from_pretrained(folder)


def test_a_part_of_another_class_is_refused(folder: Path) -> None:
    path = folder / "autoencoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "AutoencoderTiny"}))
    with pytest.raises(ValueError, match="part 'autoencoder' is a AutoencoderTiny, expected AutoencoderKL or VQModel"):
        DrivingModel.from_pretrained(folder)


def test_a_temporal_stack_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size_hw": [64, 128]}))
    with pytest.raises(ValueError, match="parts do not fit together: size of a latent"):
        DrivingModel.from_pretrained(folder)


def test_a_folder_without_index_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model_index\.json is missing"):
        DrivingModel.from_pretrained(tmp_path)


def test_the_run_folder_of_a_training_stands_for_its_model(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "model")
    assert find_model(tmp_path) == tmp_path  # of no run that is known
    claim_folder(tmp_path, {"stage": "prediction", "max_steps": 1})
    assert find_model(tmp_path) == tmp_path / "model"


def test_an_unknown_name_names_the_shipped_models() -> None:
    with pytest.raises(ValueError, match="no model folder 'toytwon'; shipped with the package"):
        find_model("toytwon")
    with pytest.raises(ValueError, match="no model folder 'no/such'; .* is given as image=no/such, family=text"):
        find_model("no/such")


def test_equal_weights_have_equal_fingerprints(whole: Path, folder: Path) -> None:
    assert fingerprint(whole) == fingerprint(folder)
    write_tiny_family(folder, seed=1)
    assert fingerprint(whole) != fingerprint(folder)


def test_a_part_saved_again_from_another_folder_is_the_same_file(whole: Path, tmp_path: Path) -> None:
    save_parts(tmp_path / "again", load_parts(whole))
    assert fingerprint(tmp_path / "again") == fingerprint(whole)
    for path in (tmp_path / "again").rglob("*.safetensors"):
        assert path.stat().st_mode & 0o777 == path.with_name("config.json").stat().st_mode & 0o777


def test_design_is_the_same_for_the_same_seed_and_changes_with_seed_boxes_and_index(whole: Path) -> None:
    sim = Simulator.from_pretrained(whole)
    frame = sim.design(scene((10, 10, 30, 30)), seed=3)
    assert frame.shape == (32, 64, 3)
    assert np.array_equal(frame, sim.design(scene((10, 10, 30, 30)), seed=3))
    for other in (
        sim.design(scene((10, 10, 30, 30)), seed=4),
        sim.design(scene((10, 10, 30, 30)), seed=3, index=1),
        sim.design(scene((30, 10, 50, 30)), seed=3),
    ):
        assert not np.array_equal(frame, other)


def test_a_rollout_streams_the_length_asked_for_and_repeats_with_its_seed(whole: Path) -> None:
    sim = Simulator.from_pretrained(whole)
    chunks = list(sim.rollout(picture(), seconds=5.0, seed=1))
    assert [len(chunk) for chunk in chunks] == [10, 8, 2]
    again = np.concatenate(list(sim.rollout(picture(), minutes=5.0 / 60, seed=1)))
    assert np.array_equal(np.concatenate(chunks), again)
    other = np.concatenate(list(sim.rollout(picture(), seconds=5.0, seed=1, future=1)))
    assert not np.array_equal(again, other)


def test_a_rollout_without_a_length_or_from_a_small_picture_is_refused(whole: Path) -> None:
    sim = Simulator.from_pretrained(whole)
    with pytest.raises(ValueError, match="either seconds or minutes"):
        next(sim.rollout(picture()))
    with pytest.raises(ValueError, match="16"):
        next(sim.rollout(picture()[:16, :32], seconds=1))


def test_the_shipped_family_loads_in_under_five_seconds_and_is_small() -> None:
    begin = time.perf_counter()
    sim = Simulator.from_pretrained("toytown")
    assert time.perf_counter() - begin < 5.0
    assert sim.size_hw == (256, 512)
    files = [path for path in find_model("toytown").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40 * 10**6


def test_low_rank_weights_that_ship_are_found_by_name_and_paths_stay_what_they_are(tmp_path: Path) -> None:
    found = find_lora("toytown_sks_car")
    assert (Path(found) / "pytorch_lora_weights.safetensors").is_file()
    assert find_lora("toytown_sks_car@0.5") == f"{found}@0.5"
    for source in (f"{tmp_path}", f"{tmp_path}@0.5", "no_such_name", "runs/mine.safetensors@-1"):
        assert find_lora(source) == source
