"""Original single-file checkpoints of Stable Diffusion: everything in one safetensors file, in the authors' names.

Weights are renamed by diffusers' own conversion; what such a file does not hold (configs, tokenizer, scheduler) comes
from a folder in diffusers' format.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from drivesim.models.hub import find_source
from drivesim.models.stored_weights import (
    JudgedPart,
    Shapes,
    check_shapes,
    network_shapes,
    read_config,
    read_tensors,
    stored_shapes,
)

UNET, VAE, TEXT, OPEN_CLIP = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.",
    "cond_stage_model.model.",
)
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
_TARGETS = {"eps": "epsilon", "v": "v_prediction"}  # parameterization in the authors' config -> diffusers' name


class BlankTextEncoder:
    """A text encoder that waits for its weights, under whichever of their names they are stored.

    transformers has dropped the outer name `text_model` in version 5.6, and stored positions before version 4.31;
    OpenCLIP's files hold a projection and a last layer that Stable Diffusion does not use.
    """

    def __init__(self, config: dict[str, Any]):
        self.network = CLIPTextModel(CLIPTextConfig.from_dict(config))
        self._names = {_plain(name): name for name in self.network.state_dict()}

    def check(self, found: Shapes, place: str) -> None:
        """Raises ValueError where stored tensors are not the network's."""
        wanted = {_plain(name): shape for name, shape in network_shapes(self.network).items()}
        check_shapes({_plain(name): shape for name, shape in found.items() if _is_used(name)}, wanted, place)

    def has_layer(self, name: str) -> bool:
        """Whether a tensor is of no layer, or of one that the config has."""
        found = _LAYER.search(name)
        return found is None or int(found[1]) < self.network.config.num_hidden_layers

    def filled(self, tensors: dict[str, Tensor], dtype: torch.dtype) -> CLIPTextModel:
        """The network with these weights, in evaluation mode."""
        self.network.load_state_dict({self._names[_plain(n)]: t for n, t in tensors.items() if _is_used(n)})
        return self.network.to(dtype).eval()


def _plain(name: str) -> str:
    return name.removeprefix("text_model.")


def _is_used(name: str) -> bool:
    return _plain(name) not in ("text_projection.weight", "embeddings.position_ids")


@dataclass(kw_only=True, slots=True)
class OriginalCheckpoint:
    """A file whose header has been read, and the folder that the rest comes from."""

    path: Path
    shapes: Shapes
    base: Path

    @classmethod
    def open(cls, path: Path, base: str | Path | None) -> OriginalCheckpoint:
        """Reads the header of a file; `base` as in `load_text_to_image`.

        Raises:
            ValueError: not an original checkpoint of Stable Diffusion 1.x, 2.x or the x4 upscaler.
            FileNotFoundError: no base.
        """
        shapes = stored_shapes(path, str(path))
        for prefix, part in ((UNET, "U-Net"), (VAE, "autoencoder"), (TEXT, "text encoder")):
            if not any(name.startswith(prefix) for name in shapes):
                raise ValueError(
                    f"{path}: not a whole original checkpoint of Stable Diffusion: no tensors {prefix}* of the {part}; "
                    f"found {len(shapes)}, the first is {min(shapes, default='none')}"
                )
        beside = path.with_suffix("")
        if base is None and beside.is_dir():
            base = beside
        try:
            return cls(path=path, shapes=shapes, base=find_source(base or _hub_id(path, shapes), has_weights=False))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path}: a single file holds no configs, tokenizer and scheduler; lay a diffusers folder with "
                f"those of its kind beside it as {beside.name}. {error}"
            ) from error

    def unet(self, dtype: torch.dtype) -> JudgedPart:
        """The U-Net.

        Raises:
            ValueError: it is not that of the config; here and below.
        """
        return self._network(UNet2DConditionModel, "unet", UNET, convert_ldm_unet_checkpoint, dtype)

    def vae(self, dtype: torch.dtype) -> JudgedPart:
        """The autoencoder."""
        return self._network(AutoencoderKL, "vae", VAE, convert_ldm_vae_checkpoint, dtype)

    def text_encoder(self, dtype: torch.dtype) -> JudgedPart:
        """The text encoder, OpenAI's or OpenCLIP's; of the latter without the layers that the config leaves out."""
        place = f"{self.path}: part 'text_encoder'"
        blank = BlankTextEncoder(read_config(self.base / "text_encoder" / "config.json", place))

        def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if any(name.startswith(OPEN_CLIP) for name in tensors):
                made = convert_open_clip_checkpoint(blank.network, tensors, prefix=OPEN_CLIP)
            else:
                made = convert_ldm_clip_checkpoint(tensors)
            return {name: tensor for name, tensor in made.items() if blank.has_layer(name)}

        blank.check(self._shapes_after(TEXT, renamed), place)
        return JudgedPart(network=blank.network, read=lambda: blank.filled(renamed(self._tensors(TEXT, dtype)), dtype))

    def prediction_type(self) -> str | None:
        """The target, as the authors' config NAME.yaml beside the file says; None = there is none."""
        path = self.path.with_suffix(".yaml")
        if not path.is_file():
            return None
        config = yaml.safe_load(path.read_text())
        try:
            stated = config["model"]["params"].get("parameterization", "eps")
            return _TARGETS[stated]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: not an original config: model.params.parameterization is needed, one of {sorted(_TARGETS)}"
            ) from error

    def _network(
        self, network_class: Any, part: str, prefix: str, convert: Callable[..., dict[str, Tensor]], dtype: torch.dtype
    ) -> JudgedPart:
        place = f"{self.path}: part {part!r}"
        config = read_config(self.base / part / "config.json", place)
        with torch.device("meta"):
            network = network_class.from_config(config)

        def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return convert(tensors, config=dict(network.config))

        def read() -> Any:
            network.load_state_dict(renamed(self._tensors(prefix, dtype)), assign=True)
            return network.eval()

        check_shapes(self._shapes_after(prefix, renamed), network_shapes(network), place)
        return JudgedPart(network=network, read=read)

    def _tensors(self, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
        return read_tensors(self.path, [name for name in self.shapes if name.startswith(prefix)], dtype)

    def _shapes_after(self, prefix: str, renamed: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Shapes:
        """Names and shapes that a part's tensors will have; renames tensors without memory."""
        shapes = {name: shape for name, shape in self.shapes.items() if name.startswith(prefix)}
        blank = renamed({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
        return {name: tuple(tensor.shape) for name, tensor in blank.items()}


def _hub_id(path: Path, shapes: Shapes) -> str:
    """Where diffusers keeps the configs of a file's kind."""
    if f"{UNET}label_emb.weight" in shapes:
        return "stabilityai/stable-diffusion-x4-upscaler"
    if not any(name.startswith(OPEN_CLIP) for name in shapes):
        return "stable-diffusion-v1-5/stable-diffusion-v1-5"
    if path.with_suffix(".yaml").is_file():
        return "stabilityai/stable-diffusion-2-1"
    raise ValueError(
        f"{path}: a file of Stable Diffusion 2 does not say whether its target is e or v. Lay its original config "
        f"beside it as {path.with_suffix('.yaml').name}, or a diffusers folder of the same model as {path.stem}"
    )
