"""What every separator shares: how a piece of a mixture is laid out for the network, shifted, and cut back."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harken.errors import CheckpointError, InputError
from harken.layers.diffq import DiffQ
from harken.layers.packed_weights import is_packed, pack, unpack
from harken.models._base import Model, build, read_config, read_tensors

MAX_SHIFT = 0.5  # seconds by which the shift trick moves a mixture at most


class Separator(Model):
    """Base of systems that take a mixture and return its sources.

    A network may need inputs of certain lengths and may return less than it was given; :meth:`separate` and
    :meth:`separate_piece` hide both. What is saved of a model with a ``quantiser`` is quantised and packed.
    """

    quantiser: DiffQ | None

    def __init__(self, config: Any = None):
        super().__init__(config)
        self.quantiser = None

    @classmethod
    def from_files(cls, config: Path, weights: Path) -> Self:
        """The model of a configuration file and a weights file, plain or packed, ready for inference.

        Raises:
            CheckpointError: one of them is missing, damaged, or of another model.
        """
        made, state = read_config(cls, config), read_tensors(weights)
        if is_packed(state):
            with torch.device("meta"):
                expected = cls(made).state_dict()
            state = unpack(state, expected)
        return build(lambda: cls(made), state).eval()

    def _contiguous_state(self) -> dict[str, Tensor]:
        state = super()._contiguous_state()
        if self.quantiser is None:
            return state
        own = {name: tensor for name, tensor in state.items() if not name.startswith("quantiser.")}
        return pack(own, self.quantiser.quantise(self), self.quantiser.config)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of what comes out, in order."""
        return self.config.sources

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    @property
    def audio_channels(self) -> int:
        """Of the mixture and of each source."""
        return self.config.audio_channels

    @abstractmethod
    def valid_length(self, length: int) -> int:
        """The length of input whose output covers ``length`` samples, centred."""

    @property
    @abstractmethod
    def reach(self) -> int:
        """Samples around a piece that a window of valid length may hold on either side, whatever the piece's length."""

    @abstractmethod
    def forward(self, mix: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch sources channels made"]:
        """The network: of an input of valid length, centred sources that may be shorter than it."""

    def context(self, shifts: int = 0) -> int:
        """Samples on either side of a piece that :meth:`separate_piece` reads."""
        return self.reach + (self._max_shift if shifts else 0)

    @property
    def _max_shift(self) -> int:
        return int(MAX_SHIFT * self.sample_rate)

    def separate(
        self,
        mix: Float[Tensor, "batch channels samples"],
        *,
        shifts: int = 0,
        generator: torch.Generator | None = None,
        standardise: bool = True,
    ) -> Float[Tensor, "batch sources channels samples"]:
        """The sources of whole mixtures at ``sample_rate``, any length, in one pass.

        Args:
            mix: any scale.
            shifts: average over so many random shifts in time of at most half a second; 0 for one pass without.
            generator: of the shifts; seeded by 0 when None.
            standardise: bring the mean of the channels to mean 0 and deviation 1 before, and back afterwards.

        Raises:
            InputError: another number of channels, or no samples.
        """
        if mix.shape[-2] != self.audio_channels or mix.shape[-1] == 0:
            raise InputError(
                f"expected mixtures (batch, {self.audio_channels}, samples), got {tuple(mix.shape)}: "
                "repeat or average channels first"
            )
        length, context = mix.shape[-1], self.context(shifts)
        mean, deviation = level_of(mix) if standardise else (mix.new_zeros(()), mix.new_ones(()))
        held = F.pad((mix - mean) / deviation, (context, context))
        made = self.separate_piece(held, length, shifts=shifts, generator=generator)
        return made * deviation[..., None] + mean[..., None] if standardise else made

    def separate_piece(
        self,
        held: Float[Tensor, "batch channels held"],
        length: int,
        *,
        shifts: int = 0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch sources channels length"]:
        """The sources of the ``length`` samples in the middle of ``held``, with ``context(shifts)`` on either side.

        What surrounds a piece is what the recording has there, or zeros beyond its ends. With ``shifts``, the piece is
        separated anew after starting up to half a second earlier, so often, and the results are aligned and averaged:
        a network whose strides favour some offsets becomes nearly equivariant to them (arXiv 1911.13254, section 4.4).
        """
        start = self.context(shifts)
        if not shifts:
            return self._window(held, start, length)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        total: Tensor | float = 0.0
        for _ in range(shifts):
            early = int(torch.randint(self._max_shift + 1, (), generator=generator))
            total = total + self._window(held, start - early, length + early)[..., early:]
        assert isinstance(total, Tensor)
        return total / shifts

    def _window(self, held: Tensor, start: int, length: int) -> Tensor:
        valid = self.valid_length(length)
        first = start - (valid - length) // 2
        return center_trim(self(held[..., first : first + valid]), length)


def level_of(mix: Float[Tensor, "*batch channels samples"]) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``(*batch, 1, 1)`` of the mean of the channels; a silent or one-sample mix has deviation 1."""
    mono = mix.mean(-2, keepdim=True)
    mean = mono.mean(-1, keepdim=True)
    deviation = mono.std(-1, keepdim=True) if mix.shape[-1] > 1 else torch.zeros_like(mean)
    return mean, torch.where(deviation > 1e-8, deviation, torch.ones_like(deviation))


def center_trim(x: Float[Tensor, "*batch samples"], length: int) -> Float[Tensor, "*batch length"]:
    """``length`` samples of the middle; of an odd number too many, one more is dropped on the right."""
    left = (x.shape[-1] - length) // 2
    return x[..., left : left + length]


def check_sources(sources: tuple[str, ...], sample_rate: int, audio_channels: int, segment_length: int) -> None:
    """Raise where what every separator's configuration says is out of range.

    Raises:
        InputError: no sources, names that are not file names, or sizes that are not positive.
    """
    good = all(name and name.replace("_", "").replace("-", "").isalnum() for name in sources)
    if not 1 <= len(sources) <= 32 or len(set(sources)) != len(sources) or not good:
        raise InputError(f"expected 1 to 32 distinct sources with plain names, got {sources}")
    if not 1000 <= sample_rate <= 192_000 or not 1 <= audio_channels <= 16 or not 1 <= segment_length < 2**31:
        raise InputError(
            "expected a rate of 1 to 192 kHz, 1 to 16 channels and a positive segment, "
            f"got {sample_rate} Hz, {audio_channels}, {segment_length}"
        )


def authors_state(state_dict: object, name: str) -> dict[str, Tensor]:
    """The tensors of an authors' checkpoint: bare, or under ``state`` of a package.

    Raises:
        CheckpointError: the state is DiffQ's compressed form, or no dictionary of tensors.
    """
    state = state_dict
    if isinstance(state, dict) and isinstance(state.get("state"), dict):
        state = state["state"]
    if isinstance(state, dict) and set(state) == {"compressed"}:
        raise CheckpointError(
            "this checkpoint is compressed by DiffQ's own package: restore it there and save its state dictionary"
        )
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"this is not a checkpoint of {name}: expected tensors by name")
    return state
