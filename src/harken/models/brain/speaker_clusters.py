"""Kinds of voices: k-means on speaker embeddings, whose centroids stand for whom a listener attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harken.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class SpeakerClusters:
    """Centroids of speaker embeddings; the class of a voice is the nearest.

    Attributes:
        centroids: ``(clusters, embedding)``: the intention vectors.

    >>> voices = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0]])
    >>> clusters = SpeakerClusters.fit(voices, clusters=2)
    >>> kinds = clusters.predict(voices)
    >>> bool(kinds[0] == kinds[1]), bool(kinds[0] == kinds[2])
    (True, False)
    """

    centroids: Float[Tensor, "clusters embedding"]

    @classmethod
    def fit(cls, embeddings: Float[Tensor, "voices embedding"], clusters: int = 8, seed: int = 0) -> Self:
        """By scikit-learn's k-means; the voices of a neural test set must not be among them.

        Raises:
            InputError: fewer voices than clusters.
            MissingExtraError: scikit-learn is not installed.
        """
        if not 1 <= clusters <= len(embeddings):
            raise InputError(
                f"cannot make {clusters} clusters of {len(embeddings)} voices: give more, or ask for fewer"
            )
        try:
            from sklearn.cluster import KMeans
        except ImportError:
            raise MissingExtraError("scikit-learn", extra="brain") from None
        found = KMeans(clusters, n_init=10, random_state=seed).fit(embeddings.double().cpu().numpy())
        return cls(torch.from_numpy(found.cluster_centers_).float())

    def __len__(self) -> int:
        return len(self.centroids)

    def predict(self, embeddings: Float[Tensor, "voices embedding"]) -> Int[Tensor, " voices"]:
        """The cluster of each voice."""
        return nearest_centroid(embeddings, self.centroids)

    def intention(self, cluster: Int[Tensor, " batch"]) -> Float[Tensor, "batch embedding"]:
        """The centroid that stands for a cluster."""
        return self.centroids[cluster]


def nearest_centroid(
    embeddings: Float[Tensor, "voices embedding"], centroids: Float[Tensor, "clusters embedding"]
) -> Int[Tensor, " voices"]:
    """The number of the centroid at the smallest Euclidean distance."""
    return torch.cdist(embeddings.double(), centroids.double()).argmin(-1)
