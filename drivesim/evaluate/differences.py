"""The paired difference of two evaluations in one score, from their stored features; nothing is decoded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from drivesim.core.wording import number_of
from drivesim.evaluate.drive_jackknife import Jackknife, jackknife_difference
from drivesim.evaluate.extractors import ClassScores
from drivesim.evaluate.feature_store import FeatureSet
from drivesim.evaluate.frechet import Covariance
from drivesim.evaluate.kernel_distance import kernel_difference
from drivesim.evaluate.metric_kinds import DISTANCES, MetricKind
from drivesim.evaluate.score_rows import sample_of
from drivesim.evaluate.scorer import Side
from drivesim.evaluate.set_values import inception_value, text_value
from drivesim.evaluate.stored_scores import StoredScores
from drivesim.evaluate.uncertainty import Interval, UncertaintyConfig, frechet_difference, why_no_interval

Difference = tuple[Interval | None, str | None]  # first - second at infinitely many vectors, or why there is none


@dataclass(kw_only=True, slots=True)
class Pair:
    """Two evaluations under one network."""

    first: StoredScores
    second: StoredScores
    extractor: str
    config: UncertaintyConfig

    def difference(self, kind: MetricKind) -> Difference:
        """How far the generated sets lie apart in one score."""
        if not all("features" in result.scores for result in (self.first, self.second)):
            return None, "no features were stored; evaluate again"
        is_distance = kind in DISTANCES
        if is_distance and self.first.scores["card"]["real"]["sha256"] != self.second.scores["card"]["real"]["sha256"]:
            return None, "the real sets differ"
        judged = Side.REAL if is_distance else Side.GENERATED
        if self.first.recipe(judged, self.extractor) != self.second.recipe(judged, self.extractor):
            return None, f"the {judged.value} features were made in different ways"
        sources = [(self.first, Side.GENERATED), (self.second, Side.GENERATED)]
        sources += [(self.first, Side.REAL)] if is_distance else []
        sets = []
        for result, side in sources:
            features = result.features(side, self.extractor)
            if features is None:
                return None, f"features of {result.folder} are gone; evaluate it again"
            sets.append(features)
        return self._of_distances(kind, sets) if is_distance else self._of_sets(kind, sets)

    def _of_distances(self, kind: MetricKind, sets: Sequence[FeatureSet]) -> Difference:
        if kind is MetricKind.FRECHET and sets[0].feature_dim > self.config.max_features:
            # Said before the vectors are read.
            return None, f"{sets[0].feature_dim} features, above uncertainty.max_features {self.config.max_features}"
        first, second, real = (sample_of(features) for features in sets)
        if kind is MetricKind.KERNEL:
            fewest = min(side.num_drives for side in (first, second, real))
            if fewest < self.config.min_drives:
                return None, f"{number_of(fewest, 'drive')}: an interval asks for {self.config.min_drives} on each side"
            return kernel_difference(first, second, real, self.config), None
        if problem := why_no_interval([first, second, real], self.config):
            return None, problem
        covariance = Covariance(self.first.scores["card"]["protocol"]["covariance"])
        return frechet_difference(first, second, real, self.config, covariance), None

    def _of_sets(self, kind: MetricKind, sets: Sequence[FeatureSet]) -> Difference:
        if kind is MetricKind.INCEPTION_SCORE and "class_scores" not in self.first.network(self.extractor):
            return None, f"{self.first.folder} is of an earlier version, which kept no kind of classes; evaluate again"
        try:
            first, second = (
                self._value(kind, result, features)
                for result, features in zip((self.first, self.second), sets, strict=True)
            )
        except FileNotFoundError as error:
            return None, str(error)
        for side in (first, second):
            if problem := side.why_no_interval(self.config.min_drives):
                return None, problem
        return jackknife_difference(first, second, self.config.level), None

    def _value(self, kind: MetricKind, result: StoredScores, features: FeatureSet) -> Jackknife:
        if kind is MetricKind.INCEPTION_SCORE:
            class_scores = ClassScores(self.first.network(self.extractor)["class_scores"])
            return inception_value(features, class_scores, self.extractor)[1]

        def texts(prompts: Sequence[str]) -> Tensor:
            found = result.texts(self.extractor, prompts)
            if found is None:
                raise FileNotFoundError(f"vectors of the prompts of {result.folder} are gone; evaluate it again")
            return found

        return text_value(features, [video.prompt for video in features.videos], texts)
