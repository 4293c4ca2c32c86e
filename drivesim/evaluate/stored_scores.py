"""An evaluation as its folder keeps it: scores, rows, and the way back to the features that they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from drivesim.core.files import read_json, read_rows
from drivesim.core.run_folder import ROWS_FILE
from drivesim.evaluate.controls import Variant
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.feature_store import FeatureSet, FeatureStore, StoredVideo
from drivesim.evaluate.run import SCORES_FILE
from drivesim.evaluate.scorer import Side
from drivesim.evaluate.text_vectors import TextVectors


@dataclass(kw_only=True, slots=True)
class StoredScores:
    """What an evaluation has left in its folder under one protocol."""

    folder: Path
    scores: dict[str, Any]  # of scores.json
    rows: list[dict[str, Any]]  # of rows.jsonl, one a video

    @classmethod
    def load(cls, path: Path) -> list[StoredScores]:
        """Reads a folder of `drivesim evaluate`, or its `scores.json`: what is there of each protocol.

        Raises:
            FileNotFoundError: no `scores.json` there.
            ValueError: it holds no scores.
        """
        folder = path.parent if path.name == SCORES_FILE else path
        if not (folder / SCORES_FILE).is_file():
            raise FileNotFoundError(f"{folder}: no {SCORES_FILE} in it; evaluate first, with out={folder}")
        content = read_json(folder / SCORES_FILE)
        parts = content.get("protocols", [content]) if isinstance(content, dict) else []
        if not parts or not all(isinstance(part, dict) and {"card", "scores"} <= set(part) for part in parts):
            raise ValueError(f"{folder / SCORES_FILE}: not the scores of an evaluation")
        rows = read_rows(folder / ROWS_FILE)
        names = [part["card"]["protocol"]["name"] for part in parts]
        return [
            cls(folder=folder, scores=part, rows=[row for row in rows if row.get("protocol", name) == name])
            for part, name in zip(parts, names, strict=True)
        ]

    def network(self, extractor: str) -> dict[str, Any]:
        """What the card says of an extractor."""
        return next(network for network in self.scores["card"]["extractors"] if network["name"] == extractor)

    def recipe(self, side: Side, extractor: str, variant: Variant = Variant.PLAIN) -> dict[str, Any] | None:
        """Where the features of one side lie in the store; None = there are none of that variant."""
        wanted = {"set": side.value, "extractor": extractor, "variant": variant.value}
        return next((stored for stored in self.scores["features"]["sets"] if wanted.items() <= stored.items()), None)

    @property
    def store_dir(self) -> Path:
        """Folder of the feature store."""
        return self.folder / str(self.scores["features"]["folder"])

    def texts(self, extractor: str, prompts: Sequence[str]) -> Tensor | None:
        """float32 (B, D): what a network says of prompts, from the store; None = not all of them are there."""
        return TextVectors(self.store_dir, self.network(extractor)["weights_sha256"]).load(prompts)

    def features(self, side: Side, extractor: str, variant: Variant = Variant.PLAIN) -> FeatureSet | None:
        """One side's features from the store; None = not all of them are there."""
        recipe = self.recipe(side, extractor, variant)
        if recipe is None:
            return None
        store = FeatureStore(self.store_dir)
        network = self.network(extractor)
        videos = []
        for row in self.rows:
            if row["set"] != side.value or not row["ok"]:
                continue
            path = store.path(recipe["recipe"], row["sha256"], row["name"] if recipe["by_name"] else None)
            if not store.has(path):
                return None
            videos.append(
                StoredVideo(
                    path=path,
                    name=row["name"],
                    sha256=row["sha256"],
                    drive=row["drive"],
                    clips=slice(0, row["num_clips"]),
                    prompt=row.get("prompt"),
                )
            )
        return FeatureSet(kind=FeatureKind(network["kind"]), feature_dim=network["feature_dim"], videos=videos)
