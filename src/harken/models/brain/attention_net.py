"""Which kind of voice is attended to? A BiLSTM on brain signals, as AAD-LLM decodes a listener (arXiv 2502.16794).

The paper gives the outline alone (a bidirectional LSTM, trained per patient on minutes of data, that names one of eight
clusters of speakers); sizes, scaling and window are our reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.errors import CheckpointError, InputError
from harken.models._base import Model, build


@dataclass(frozen=True)
class AttentionNetConfig:
    """Sizes of :class:`AttentionNet`.

    Attributes:
        electrodes: how many each patient has: one input layer each.
        clusters: of speakers.
        width, hidden, layers, dropout: of the input layers and the LSTM.
    """

    electrodes: tuple[int, ...] = (64,)
    clusters: int = 8
    width: int = 128
    hidden: int = 128
    layers: int = 2
    dropout: float = 0.3

    def __post_init__(self) -> None:
        if not self.electrodes or min(self.electrodes) < 1 or max(self.electrodes) > 65536:
            raise InputError("expected a number of electrodes for each patient, 1 to 65536")
        if min(self.clusters, self.width, self.hidden, self.layers) < 1 or self.layers > 100:
            raise InputError("clusters, width, hidden and layers (at most 100) must be positive")
        if max(self.clusters, self.width, self.hidden) > 65536 or not 0 <= self.dropout < 1:
            raise InputError("sizes are at most 65536, and dropout is a probability below 1")

    @classmethod
    def small(cls) -> Self:
        """Two patients, 32 channels inside, for minutes of data on a laptop."""
        return cls(electrodes=(16, 24), clusters=4, width=32, hidden=32, layers=1)


class AttentionNet(Model):
    """Brain signals to logits of speaker clusters: an input layer a patient, a BiLSTM, a mean over time.

    Shape:
        - neural: ``(batch, electrodes of the patient, samples)``, scaled by electrode, at 50 to 100 Hz
        - mask: ``(batch, samples)``, True where a sample is real; padding comes last
        - logits: ``(batch, clusters)``

    >>> model = AttentionNet(AttentionNetConfig.small()).eval()
    >>> model(torch.randn(3, 24, 50), patient=1).shape
    torch.Size([3, 4])
    """

    config: AttentionNetConfig
    slug: ClassVar[str] = "aad-attention"
    Config: ClassVar[type[AttentionNetConfig]] = AttentionNetConfig

    def __init__(self, config: AttentionNetConfig | None = None):
        super().__init__(config)
        c = self.config
        self.patients = nn.ModuleList(nn.Linear(electrodes, c.width) for electrodes in c.electrodes)
        self.lstm = nn.LSTM(
            c.width,
            c.hidden,
            c.layers,
            batch_first=True,
            bidirectional=True,
            dropout=c.dropout if c.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(c.dropout)
        self.head = nn.Linear(2 * c.hidden, c.clusters)

    def forward(
        self,
        neural: Float[Tensor, "batch electrodes samples"],
        mask: Bool[Tensor, "batch samples"] | None = None,
        *,
        patient: int = 0,
    ) -> Float[Tensor, "batch clusters"]:
        if not 0 <= patient < len(self.patients):
            raise InputError(f"there is no patient {patient}: the network knows {len(self.patients)}")
        if neural.shape[1] != self.config.electrodes[patient]:
            expected = self.config.electrodes[patient]
            raise InputError(f"patient {patient} has {expected} electrodes, these signals have {neural.shape[1]}")
        x = self.dropout(self.patients[patient](neural.mT))
        if mask is None:
            return self.head(self.dropout(self.lstm(x)[0].mean(1)))
        lengths = mask.sum(1)
        if not bool((mask == (torch.arange(mask.shape[1], device=mask.device) < lengths[:, None])).all()):
            raise InputError("padding comes after the signal: a mask is True up to a length, then False")
        if not bool((lengths > 0).all()):
            raise InputError("a signal is all padding: drop it")
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.head(self.dropout((out * mask[..., None]).sum(1) / lengths[:, None]))

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: AttentionNetConfig | None = None) -> Self:
        """Build from a state dictionary of harken's own names: the authors published no weights."""
        if config is None:
            raise CheckpointError("an attention decoder's weights need their config.json beside them: pass the folder")
        return build(lambda: cls(config), state_dict)
