"""The networks of all protocols of an evaluation, each loaded once, and where their files lie on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from drivesim.evaluate.extractors import Extractor, ExtractorConfig, ExtractorMaker, make_extractor
from drivesim.evaluate.protocol import ProtocolConfig


@dataclass(kw_only=True, slots=True)
class NetworkFile:
    """What a machine knows of a network and a protocol does not; holds for every protocol that leaves it open."""

    name: str = "i3d-torchscript"  # of the extractor
    weights: str | None = None  # path or URL; None = as the protocol has it
    sha256: str | None = None  # checksum of other weights than the standard ones
    git_blob_sha1: str | None = None  # the same as git's blob id
    feature_dim: int | None = None  # of other weights; None = that of the standard ones
    device: str | None = None  # a torch device; None = the protocol's


def with_files(config: ExtractorConfig, files: Sequence[NetworkFile]) -> ExtractorConfig:
    """A network's config with what is known of its file; what the config says itself counts."""
    own = next((file for file in files if file.name == config.name), None)
    if own is None:
        return config
    checksum = (config.sha256, config.git_blob_sha1)
    if config.weights is None:
        config = replace(config, weights=own.weights)
    if not any(checksum):
        config = replace(config, sha256=own.sha256, git_blob_sha1=own.git_blob_sha1)
    return replace(config, feature_dim=config.feature_dim or own.feature_dim, device=own.device or config.device)


def network_configs(protocols: Sequence[ProtocolConfig], files: Sequence[NetworkFile]) -> list[list[ExtractorConfig]]:
    """The configs of each protocol's networks.

    Raises:
        ValueError: a file for a network that no protocol names, or two for one.
    """
    named = {extractor.name for protocol in protocols for extractor in protocol.extractors}
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        raise ValueError(f"networks names {', '.join(names)}; give each once")
    if strangers := sorted(set(names) - named):
        raise ValueError(f"networks names {', '.join(strangers)}; the protocols have {', '.join(sorted(named))}")
    return [[with_files(extractor, files) for extractor in protocol.extractors] for protocol in protocols]


def load_networks(
    configs: Sequence[Sequence[ExtractorConfig]], makers: Mapping[str, ExtractorMaker] | None = None
) -> list[list[Extractor]]:
    """The networks of each protocol; equal configs share one.

    Raises:
        FileNotFoundError, ValueError: as `make_extractor`.
    """
    loaded: list[tuple[ExtractorConfig, Extractor]] = []

    def network(config: ExtractorConfig) -> Extractor:
        for other, extractor in loaded:
            if other == config:
                return extractor
        loaded.append((config, make_extractor(config, makers)))
        return loaded[-1][1]

    return [[network(config) for config in configs_of_one] for configs_of_one in configs]
