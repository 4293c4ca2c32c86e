"""What a model's index says of its sampling and its upsampling, as typed objects."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from drivesim.diffusion.settings import AnySampling, Sampler, SamplingConfig
from drivesim.families.folder import INDEX
from drivesim.families.upsample import UpsamplingModel
from drivesim.models.upsampler import Upsampler


def sampling_of(index: dict[str, Any], key: str, kind: type[AnySampling]) -> AnySampling:
    """The sampling that stands in a model's index under `key`.

    Raises:
        ValueError: unknown keys, an unknown sampler, or numbers that sample nothing.
    """
    place, stored = f"model {index['name']!r}: {key} in {INDEX}", index[key]
    if not isinstance(stored, dict):
        raise ValueError(f"{place}: {stored!r}, expected keys and values")
    valid = [field.name for field in fields(kind)]
    unknown = sorted(set(stored) - set(valid))
    if unknown:
        raise ValueError(f"{place}: unknown keys {', '.join(unknown)}; valid: {', '.join(valid)}")
    samplers = [sampler.value for sampler in Sampler]
    if stored.get("sampler") not in samplers:
        raise ValueError(f"{place}: unknown sampler {stored.get('sampler')!r}; valid: {', '.join(samplers)}")
    try:
        return kind(**{**stored, "sampler": Sampler(stored["sampler"])})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error


def upsampling_of(index: dict[str, Any], parts: dict[str, Any]) -> UpsamplingModel | None:
    """The upsampler of a model and how it is run; None = the model has none."""
    facts = index.get("upsampler")
    if facts is None:
        return None
    networks = Upsampler(
        parts["upsampler"],
        parts.get("upsampler_temporal"),
        scale=int(facts["scale"]),
        detail_gain=facts["detail_gain"],
    )
    return UpsamplingModel(
        networks=networks.eval().requires_grad_(False),
        schedule=parts["upsampler_scheduler"],
        sampling=sampling_of(index, "upsample_sampling", SamplingConfig),
        noise_level=int(facts["noise_level"]),
        overlap=int(index.get("upsampler_temporal", {}).get("overlap", 0)),
    )
