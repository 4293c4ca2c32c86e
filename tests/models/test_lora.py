"""LoRA weights in their public formats, fused and compared with the formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from drivesim.core.run_folder import claim_folder
from drivesim.models.lora import fuse_lora
from drivesim.models.text_to_image import TextToImage, load_text_to_image
from tests.models.tiny_stable_diffusion import save_tiny, tiny_text_to_image

RANK, ALPHA = 3, 6.0
QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "encoder.layers.1.self_attn.v_proj"

Pairs = dict[tuple[str, str], tuple[Tensor, Tensor]]
Stored = dict[str, Tensor]


def changed_layers(parts: TextToImage) -> Pairs:
    """(part, layer) -> down and up matrices."""
    torch.manual_seed(5)
    pairs = {}
    for part, layer in (("unet", QUERY), ("unet", OUT), ("text_encoder", TEXT)):
        weight = module_of(parts, part, layer).weight
        pairs[part, layer] = (torch.randn(RANK, weight.shape[1]), torch.randn(weight.shape[0], RANK))
    return pairs


def module_of(parts: TextToImage, part: str, layer: str) -> torch.nn.Linear:
    network = getattr(parts, part)
    wrapped = f"text_model.{layer}" if hasattr(network, "text_model") else layer
    return network.get_submodule(wrapped)  # type: ignore[no-any-return]


def outer(part: str, layer: str) -> str:
    return f"text_model.{layer}" if part == "text_encoder" else layer


def by_diffusers(pairs: Pairs) -> Stored:
    made = {}
    for (part, layer), (down, up) in pairs.items():
        made[f"{part}.{outer(part, layer)}.lora_A.weight"] = down
        made[f"{part}.{outer(part, layer)}.lora_B.weight"] = up
    return made


def by_older_diffusers(pairs: Pairs) -> Stored:
    made = {}
    for (part, layer), (down, up) in pairs.items():
        if part == "unet":
            place, name = layer.removesuffix(".0").rsplit(".", 1)
            made[f"unet.{place}.processor.{name}_lora.down.weight"] = down
            made[f"unet.{place}.processor.{name}_lora.up.weight"] = up
        else:
            made[f"{part}.{outer(part, layer)}.lora_linear_layer.down.weight"] = down
            made[f"{part}.{outer(part, layer)}.lora_linear_layer.up.weight"] = up
    return made


def by_kohya(pairs: Pairs) -> Stored:
    made = {}
    for (part, layer), (down, up) in pairs.items():
        flat = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + outer(part, layer).replace(".", "_")
        made |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(ALPHA)}
    return made


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(
    ("store", "alpha"),
    [(by_diffusers, RANK), (by_older_diffusers, RANK), (by_kohya, ALPHA)],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_fused_layers_follow_the_formula_and_others_stay(
    store: Callable[[Pairs], Stored], alpha: float, scale: float, tmp_path: Path
) -> None:
    before, parts = tiny_text_to_image("v1"), tiny_text_to_image("v1")
    pairs = changed_layers(parts)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in store(pairs).items()}, path)
    fuse_lora(tmp_path if scale == 1 else f"{path}@{scale}", parts.unet, parts.text_encoder)
    changed = 0
    for part in ("unet", "text_encoder"):
        for name, tensor in getattr(parts, part).state_dict().items():
            layer = name.removesuffix(".weight").removeprefix("text_model.")
            expected = getattr(before, part).state_dict()[name]
            if (part, layer) in pairs:
                down, up = pairs[part, layer]
                expected = expected + scale * alpha / RANK * up @ down
                changed += 1
            torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-6)
    assert changed == 3


def test_the_run_folder_of_a_training_stands_for_its_file(tmp_path: Path) -> None:
    parts = tiny_text_to_image("v1")
    before = {name: tensor.clone() for name, tensor in parts.unet.state_dict().items()}
    (tmp_path / "model").mkdir()
    stored = by_diffusers(changed_layers(parts))
    path = tmp_path / "model" / "pytorch_lora_weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, path)
    with pytest.raises(ValueError, match="is missing its weights"):
        fuse_lora(tmp_path, parts.unet, parts.text_encoder)
    claim_folder(tmp_path, {"stage": "text_lora", "max_steps": 1})
    fuse_lora(tmp_path, parts.unet, parts.text_encoder)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in parts.unet.state_dict().items())


def test_alpha_is_read_from_the_settings_that_diffusers_stores(tmp_path: Path) -> None:
    parts = tiny_text_to_image("v1")
    pairs, path = changed_layers(parts), tmp_path / "lora.safetensors"
    expected = module_of(parts, "unet", QUERY).weight + 4.0 / RANK * pairs["unet", QUERY][1] @ pairs["unet", QUERY][0]
    settings = {"unet.lora_alpha": 4, "unet.r": RANK, "unet.use_dora": False, "unet.alpha_pattern": {}}
    save_file(by_diffusers(pairs), path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(settings)})
    fuse_lora(path, parts.unet, parts.text_encoder)
    torch.testing.assert_close(module_of(parts, "unet", QUERY).weight, expected)
    save_file(by_diffusers(pairs), path, metadata={"lora_adapter_metadata": json.dumps({"unet.use_rslora": True})})
    with pytest.raises(ValueError, match="settings of unet have use_rslora"):
        fuse_lora(path, parts.unet, parts.text_encoder)


def test_convolutions_are_fused_too_and_several_files_one_after_the_other(tmp_path: Path) -> None:
    folder, before = save_tiny(tmp_path / "model"), tiny_text_to_image("v1")
    weight = before.unet.get_submodule(CONV).weight
    down, up = torch.randn(RANK, *weight.shape[1:]), torch.randn(weight.shape[0], RANK, 1, 1)
    flat = "lora_unet_" + CONV.replace(".", "_")
    save_file({f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}, tmp_path / "a.safetensors")
    made = load_text_to_image(folder, loras=[tmp_path / "a.safetensors", f"{tmp_path / 'a.safetensors'}@-0.25"])
    expected = weight + 0.75 * torch.einsum("orhw,rikl->oikl", up, down)
    torch.testing.assert_close(made.unet.get_submodule(CONV).weight, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {n.replace("down_blocks.0", "down_blocks.7"): x for n, x in t.items()}, "is not in this model"),
        (
            lambda t: {n: x[:, :-2] if "lora_A" in n else x for n, x in t.items()},
            r"a matrix of \[16, 14\], .* \[16, 16\]",
        ),
        (lambda t: {n: x for n, x in t.items() if "lora_A" in n}, "only one of its two matrices"),
        (lambda t: {n.replace("lora_A", "hada_w1_a"): x for n, x in t.items()}, "is no LoRA's; needed are pairs"),
        (lambda t: {}, "holds no LoRA weights"),
    ],
    ids=["another model", "another width", "half", "another kind", "empty"],
)
def test_a_lora_that_does_not_fit_is_refused_and_changes_nothing(
    change: Callable[[Stored], Stored], message: str, tmp_path: Path
) -> None:
    parts = tiny_text_to_image("v1")
    pairs = {key: pair for key, pair in changed_layers(parts).items() if key[1] == QUERY}
    path = tmp_path / "lora.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(by_diffusers(pairs)).items()}, path)
    with pytest.raises(ValueError, match=message) as told:
        fuse_lora(path, parts.unet, parts.text_encoder)
    assert str(path) in str(told.value) and len(str(told.value).splitlines()) == 1
    assert torch.equal(
        module_of(parts, "unet", QUERY).weight, module_of(tiny_text_to_image("v1"), "unet", QUERY).weight
    )


def test_a_pickle_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    parts = tiny_text_to_image("v1")
    torch.save({"x": torch.zeros(1)}, tmp_path / "lora.pt")
    with pytest.raises(ValueError, match="lora.pt is a pickle"):
        fuse_lora(tmp_path / "lora.pt", parts.unet, parts.text_encoder)
    with pytest.raises(ValueError, match="no such file or folder"):
        fuse_lora(tmp_path / "nothing.safetensors", parts.unet, parts.text_encoder)


def test_a_word_in_place_of_the_number_of_times_is_named(tmp_path: Path) -> None:
    parts, path = tiny_text_to_image("v1"), tmp_path / "lora.safetensors"
    path.touch()
    with pytest.raises(ValueError, match="'half' is no number of times, such as .*lora.safetensors@0.7"):
        fuse_lora(f"{path}@half", parts.unet, parts.text_encoder)


@pytest.mark.parametrize("times", ["nan", "inf"])
def test_no_number_of_times_of_a_lora_is_refused(times: str) -> None:
    parts = tiny_text_to_image("v1")
    with pytest.raises(ValueError, match=f"{times} times of it; expected a number, such as lora.safetensors@0.7"):
        fuse_lora(f"lora.safetensors@{times}", parts.unet, parts.text_encoder)
