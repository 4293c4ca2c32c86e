"""Original single files of Stable Diffusion, written from a diffusers checkpoint: the inverse of loading them.

Names are those of the authors' code (CompVis/stable-diffusion, Stability-AI/stablediffusion).
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from drivesim.models.text_to_image import TextToImage

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
OUTER = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
         "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
         "class_embedding": "label_emb"}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_original(parts: TextToImage, path: Path, *, with_ema: bool = False) -> Path:
    """One safetensors file in the authors' layout; OpenCLIP's for encoders that don't use CLIP's quick GELU."""
    unet, vae, text = parts.unet, parts.vae, parts.text_encoder
    depth, levels = unet.config.layers_per_block, len(vae.config.block_out_channels)
    tensors = {
        f"model.diffusion_model.{name}": tensor for name, tensor in renamed_unet(unet.state_dict(), depth).items()
    }
    for name, tensor in vae.state_dict().items():
        is_matrix = "attentions" in name and tensor.ndim == 2  # convolutions of 1 x 1 in the authors' code
        tensors[f"first_stage_model.{vae_name(name, levels)}"] = tensor[..., None, None] if is_matrix else tensor
    states = {name.removeprefix("text_model."): t for name, t in text.state_dict().items()}
    if text.config.hidden_act == "quick_gelu":
        tensors |= {f"cond_stage_model.transformer.text_model.{name}": t for name, t in states.items()}
    else:
        tensors |= open_clip(states, text.config.num_hidden_layers)
    if with_ema:
        tensors |= {f"model_ema.{name.replace('.', '')}": torch.zeros(1) for name in tensors}
    tensors["alphas_cumprod"] = torch.ones(1000)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def renamed_unet(states: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """A U-Net's tensors by the authors' names."""
    made = {unet_name(name, depth): tensor for name, tensor in states.items()}
    # An upsampling layer follows the attention in its block, where there is one.
    attended = {name.split(".1.")[0] for name in made if name.startswith("output_blocks") and ".1.norm" in name}
    return {
        re.sub(r"\.UP\.", ".2." if name.split(".UP.")[0] in attended else ".1.", name): tensor
        for name, tensor in made.items()
    }


def unet_name(name: str, depth: int) -> str:
    """The authors' name of a U-Net's tensor."""
    for ours, theirs in OUTER.items():
        if name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    head, rest = block_name(name, depth)
    for ours, theirs in RESNET.items() if ".resnets." in name else ():
        rest = re.sub(rf"^{ours}\b", theirs, rest)
    return f"{head}.{rest}"


def block_name(name: str, depth: int) -> tuple[str, str]:
    """The authors' name of a block, and what is inside it."""
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, index, rest = found.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}", rest
    found = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name)
    assert found is not None, name
    way, level, kind, index, rest = found.groups()
    number = int(level) * (depth + 1) + int(index)
    if way == "down":
        if kind == "downsamplers":
            return f"input_blocks.{number + depth + 1}.0", rest.replace("conv.", "op.")
        return f"input_blocks.{number + 1}.{int(kind == 'attentions')}", rest
    if kind == "upsamplers":
        return f"output_blocks.{number + depth}.UP", rest
    return f"output_blocks.{number}.{int(kind == 'attentions')}", rest


def vae_name(name: str, levels: int) -> str:
    """The authors' name of an autoencoder's tensor."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if "mid_block.attentions" in name:
        for ours, theirs in VAE_ATTENTION.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)


def open_clip(states: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """A text encoder in OpenCLIP's layout, with the last layer and projection that Stable Diffusion 2 leaves out."""
    outer = {"embeddings.position_embedding.weight": "positional_embedding",
             "embeddings.token_embedding.weight": "token_embedding.weight",
             "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}  # fmt: skip
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
    made = {}
    for name, tensor in states.items():
        if name in outer:
            made[outer[name]] = tensor
        elif "position_ids" not in name and "k_proj" not in name and "v_proj" not in name:
            _, _, layer, rest = name.split(".", 3)
            if "q_proj" in rest:
                tensor = torch.cat([states[name.replace("q_proj", which)] for which in ("q_proj", "k_proj", "v_proj")])
                rest = f"attn.in_proj_{rest.split('.')[-1]}"
            for ours, theirs in inner.items():
                rest = rest.replace(ours, theirs)
            made[f"transformer.resblocks.{layer}.{rest}"] = tensor
    last = f"resblocks.{num_layers - 1}."
    made |= {n.replace(last, f"resblocks.{num_layers}."): torch.randn_like(t) for n, t in made.items() if last in n}
    width = states["final_layer_norm.weight"].shape[0]
    made |= {"text_projection": torch.randn(width, width), "logit_scale": torch.ones(())}
    return {f"cond_stage_model.model.{name}": tensor for name, tensor in made.items()}
