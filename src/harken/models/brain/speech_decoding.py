"""Brain module: M/EEG to the speech that was heard, in the feature space of an audio model (arXiv 2208.12266)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from harken.errors import CheckpointError, InputError
from harken.models._base import Model, build
from harken.observation import emit

UNKNOWN = -0.1  # both coordinates of a sensor without a position
_MARGIN = 0.2  # added to positions in [0, 1] before they are divided by the period, so that edges are not neighbours
_PERIOD = 1.0 + 2 * _MARGIN


@dataclass(frozen=True)
class SpeechDecodingConfig:
    """Sizes of :class:`SpeechDecoding`; the defaults are those of the paper's published configuration.

    Attributes:
        features: rows of the speech representation that is predicted (1024 of wav2vec 2.0, or mel bands).
        subjects: people that it has a matrix for.
        virtual_sensors: what the spatial attention makes of any montage.
        position_dim: of the Fourier embedding of a sensor's position: twice a square.
        ban_radius: in training, sensors within this distance of a random place are not listened to.
        mixed: channels behind the 1x1 convolution, of each subject's matrix.
        hidden, layers, kernel_size: of the dilated convolutions.
        dilation_period: layers after which the dilation starts again at 1.
        glu_every: layers from one gated convolution to the next; 0 for none.
        glu_context: samples on each side that a gate sees.
    """

    features: int = 1024
    subjects: int = 27
    virtual_sensors: int = 270
    position_dim: int = 2048
    ban_radius: float = 0.2
    mixed: int = 270
    hidden: int = 320
    layers: int = 10
    kernel_size: int = 3
    dilation_period: int = 5
    glu_every: int = 2
    glu_context: int = 1

    def __post_init__(self) -> None:
        sizes = (self.features, self.subjects, self.virtual_sensors, self.mixed, self.hidden, self.layers)
        if min(sizes) < 1 or max(sizes) > 65536 or self.layers > 1000:
            raise InputError("every size must be from 1 to 65536, and layers at most 1000")
        if not 2 <= self.position_dim <= 65536 or 2 * math.isqrt(self.position_dim // 2) ** 2 != self.position_dim:
            raise InputError(f"position_dim must be twice a square (128, 2048), got {self.position_dim}")
        if self.kernel_size % 2 != 1 or not 1 <= self.kernel_size <= 63 or not 1 <= self.dilation_period <= 16:
            raise InputError("kernel_size must be odd, up to 63, and dilation_period from 1 to 16")
        if min(self.glu_every, self.glu_context) < 0 or self.glu_context > 63 or not 0 <= self.ban_radius < math.inf:
            raise InputError("glu_every, glu_context (at most 63) and ban_radius must not be negative")

    @classmethod
    def small(cls) -> Self:
        """For 40 mel bands, a few people and minutes on a laptop."""
        return cls(features=40, subjects=4, virtual_sensors=32, position_dim=128, mixed=32, hidden=48, layers=6)


class SpeechDecoding(Model):
    """Any montage to virtual sensors by position, one matrix a person, dilated convolutions, speech features.

    ``z = head(blocks(W_s (L A(positions) x)))``: the weights ``A`` of sensors follow from where they are alone, so that
    montages can differ; ``W_s`` is a person's own; the rest is shared. :meth:`merged` folds what is linear.

    Shape:
        - x: ``(batch, channels, samples)``, scaled and clamped, at 120 Hz
        - subject: ``(batch,)``, whole numbers
        - positions: ``(channels, 2)`` of one montage or ``(batch, channels, 2)``, in [0, 1]; -0.1 where not known
        - speech: ``(batch, features, samples)``

    >>> model = SpeechDecoding(SpeechDecodingConfig.small()).eval()
    >>> model(torch.randn(2, 19, 90), torch.tensor([0, 3]), torch.rand(19, 2)).shape
    torch.Size([2, 40, 90])
    """

    config: SpeechDecodingConfig
    slug: ClassVar[str] = "brain-speech-decoding"
    Config: ClassVar[type[SpeechDecodingConfig]] = SpeechDecodingConfig

    def __init__(self, config: SpeechDecodingConfig | None = None):
        super().__init__(config)
        c = self.config
        self.sensors = SensorAttention(c.virtual_sensors, c.position_dim, c.ban_radius)
        self.mix = nn.Conv1d(c.virtual_sensors, c.mixed, 1)
        self.subjects = SubjectLayer(c.subjects, c.mixed)
        self.blocks = DilatedBlocks(c.mixed, c)
        self.head = FeatureHead(c.hidden, c.features)

    def forward(
        self,
        x: Float[Tensor, "batch channels samples"],
        subject: Int[Tensor, " batch"],
        positions: Float[Tensor, "*batch channels 2"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch features samples"]:
        heard = self.sensors(x, positions, generator=generator)
        return self.head(self.blocks(self.subjects(self.mix(heard), subject)))

    @property
    def reach(self) -> int:
        """Samples on each side that a sample of the output depends on."""
        return self.blocks.reach

    @torch.no_grad()
    def merged(self, positions: Float[Tensor, "channels 2"]) -> MergedSpeechDecoding:
        """The same function in evaluation for one montage, with everything linear folded.

        Attention, 1x1 convolution and a person's matrix become one matrix ``(mixed, channels)`` a person; batch
        normalisation becomes part of the convolution before it.
        """
        weights = self.sensors.weights(positions)
        shared = self.mix.weight[:, :, 0] @ weights
        assert self.mix.bias is not None
        matrices = self.subjects.weight.mT @ shared
        offsets = self.subjects.weight.mT @ self.mix.bias
        return MergedSpeechDecoding(matrices, offsets, self.blocks.folded(), self.head)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: SpeechDecodingConfig | None = None) -> Self:
        """Build from the ``SimpleConv`` of brainmagick with one kind of recording, as ``clip_conv`` configures it.

        What a state does not tell (dilation period, radius of the dropout) is as published where ``config`` is None.

        Raises:
            CheckpointError: parameters are missing, left over, or of another size.
        """
        state = {str(name).removeprefix("model."): tensor for name, tensor in state_dict.items()}
        kinds = sorted({name.split(".")[1] for name in state if name.startswith("encoders.")})
        if len(kinds) != 1:
            raise CheckpointError(
                "expected the weights of a brain module with one encoder ('encoders.meg.sequence...')"
            )
        if isinstance(last := state.get("final.2.weight"), Tensor) and last.ndim == 3:
            state["final.2.weight"] = last.transpose(0, 1)  # a transposed convolution of one sample is a matrix, turned
        own = {_own_name(name, kinds[0]): tensor for name, tensor in state.items()}
        if config is None:
            try:
                config = _sizes(own)
            except (KeyError, AttributeError, IndexError, ValueError, InputError) as error:
                raise CheckpointError(f"these are not the weights of a brain module: {error}") from None
        return build(lambda: cls(config), own)


class SensorAttention(nn.Module):
    """Virtual sensors, each a convex mixture of the real ones, by attention over where these are.

    ``out_o = sum_c softmax_c(<head_o, e(position_c)>) x_c``, without a scale; a sensor without a position has weight 0.
    In training, sensors within ``ban_radius`` of a random place get none either, one place for the whole batch; where
    that would leave nobody to listen to, nobody is banned.
    """

    def __init__(self, virtual: int, position_dim: int, ban_radius: float = 0.2):
        super().__init__()
        self.position_dim, self.ban_radius = position_dim, ban_radius
        self.heads = nn.Parameter(torch.randn(virtual, position_dim) * position_dim**-0.5)

    def forward(
        self,
        x: Float[Tensor, "batch channels samples"],
        positions: Float[Tensor, "*batch channels 2"],
        *,
        ban: Float[Tensor, "2"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch virtual samples"]:
        """Mix the channels.

        Args:
            x, positions: of the sensors.
            ban: the place around which no sensor is listened to; in training a random one when None.
            generator: of that place; torch's own when None.
        """
        if ban is None and self.training and self.ban_radius > 0:
            ban = torch.rand(2, generator=generator, device=generator.device if generator else None).to(positions)
        weights = self.weights(positions, ban=ban)
        emit(self, "weights", weights)
        return weights.to(x.dtype) @ x

    def weights(
        self, positions: Float[Tensor, "*batch channels 2"], *, ban: Float[Tensor, "2"] | None = None
    ) -> Float[Tensor, "*batch virtual channels"]:
        """How much each virtual sensor listens to each real one; rows sum to 1, or to 0 where no position is known."""
        known = has_position(positions)
        allowed = known
        if ban is not None:
            allowed = known & ((positions - ban).norm(dim=-1) > self.ban_radius)
            allowed = torch.where(allowed.any(-1, keepdim=True), allowed, known)
        scores = self.heads @ fourier_embedding(positions, self.position_dim).to(self.heads.dtype).mT
        allowed = allowed[..., None, :]
        # the lowest finite number instead of -inf: a montage of unknown sensors gives zeros rather than NaN
        return scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1) * allowed


class SubjectLayer(nn.Module):
    """A square matrix a person: ``out_d = sum_c x_c W[subject, c, d]``."""

    def __init__(self, subjects: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(subjects, channels, channels) * channels**-0.5)

    def forward(
        self, x: Float[Tensor, "batch channels samples"], subject: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels samples"]:
        return self.weight.index_select(0, subject).mT @ x


class DilatedBlocks(nn.Module):
    """Residual convolutions ``x + GELU(BN(conv(x)))`` of growing dilation, a gate after every other one.

    The first has no residual where the channels differ. The gate is ``GLU(conv(x))``.

    Shape: ``(batch, in, samples)`` to ``(batch, hidden, samples)``.
    """

    def __init__(self, channels: int, config: SpeechDecodingConfig):
        super().__init__()
        c = config
        self.convolutions, self.norms, self.gates = nn.ModuleList(), nn.ModuleList(), nn.ModuleDict()
        self.reach = 0
        for number in range(c.layers):
            dilation = 2 ** (number % c.dilation_period)
            padding = c.kernel_size // 2 * dilation
            inputs = channels if number == 0 else c.hidden
            self.convolutions.append(nn.Conv1d(inputs, c.hidden, c.kernel_size, padding=padding, dilation=dilation))
            self.norms.append(nn.BatchNorm1d(c.hidden))
            self.reach += padding
            if c.glu_every and (number + 1) % c.glu_every == 0:
                width = 2 * c.glu_context + 1
                self.gates[str(number)] = nn.Conv1d(c.hidden, 2 * c.hidden, width, padding=c.glu_context)
                self.reach += c.glu_context

    def forward(self, x: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch hidden samples"]:
        for number in range(len(self.convolutions)):
            x = self.layer(number, x)
        return x

    def layer(self, number: int, x: Tensor) -> Tensor:
        """One convolution with its residual, and the gate behind it where there is one."""
        y = self.branch(number, x)
        x = x + y if x.shape == y.shape else y
        name = str(number)
        return F.glu(self.gates[name](x), dim=1) if name in self.gates else x

    def branch(self, number: int, x: Tensor) -> Tensor:
        """What one convolution adds."""
        return F.gelu(self.norms[number](self.convolutions[number](x)))

    @torch.no_grad()
    def folded(self) -> FoldedBlocks:
        """For evaluation: each normalisation folded into its convolution."""
        return FoldedBlocks(self)


class FoldedBlocks(nn.Module):
    """:class:`DilatedBlocks` in evaluation, half the passes over memory."""

    def __init__(self, blocks: DilatedBlocks):
        super().__init__()
        self.convolutions = nn.ModuleList()
        for conv, norm in zip(blocks.convolutions, blocks.norms, strict=True):
            assert isinstance(conv, nn.Conv1d) and isinstance(norm, nn.BatchNorm1d)
            assert norm.running_mean is not None and norm.running_var is not None
            made = nn.Conv1d(
                conv.in_channels,
                conv.out_channels,
                conv.kernel_size[0],
                padding=conv.padding[0],
                dilation=conv.dilation[0],
                device=conv.weight.device,
                dtype=conv.weight.dtype,
            )
            made.weight, made.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            self.convolutions.append(made)
        self.gates = blocks.gates

    def forward(self, x: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch hidden samples"]:
        for number, conv in enumerate(self.convolutions):
            y = F.gelu(conv(x))
            x = y.add_(x) if x.shape == y.shape else y
            if str(number) in self.gates:
                x = F.glu(self.gates[str(number)](x), dim=1)
        return x


class FeatureHead(nn.Module):
    """Two 1x1 convolutions, twice the channels between them, to the rows of the speech representation."""

    def __init__(self, hidden: int, features: int):
        super().__init__()
        self.up = nn.Conv1d(hidden, 2 * hidden, 1)
        self.down = nn.Conv1d(2 * hidden, features, 1)

    def forward(self, x: Float[Tensor, "batch hidden samples"]) -> Float[Tensor, "batch features samples"]:
        return self.down(F.gelu(self.up(x)))


class MergedSpeechDecoding(nn.Module):
    """A :class:`SpeechDecoding` for one montage, for inference alone: ``head(blocks(M_s x + b_s))``."""

    matrices: Tensor
    offsets: Tensor

    def __init__(
        self,
        matrices: Float[Tensor, "subjects mixed channels"],
        offsets: Float[Tensor, "subjects mixed"],
        blocks: nn.Module,
        head: nn.Module,
    ):
        super().__init__()
        self.register_buffer("matrices", matrices)
        self.register_buffer("offsets", offsets)
        self.blocks, self.head = blocks, head
        self.eval()

    @torch.inference_mode()
    def forward(
        self, x: Float[Tensor, "batch channels samples"], subject: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch features samples"]:
        mixed = torch.baddbmm(self.offsets[subject][..., None], self.matrices[subject], x)
        return self.head(self.blocks(mixed))


def fourier_embedding(positions: Float[Tensor, "*batch 2"], dim: int) -> Float[Tensor, "*batch dim"]:
    """Cosines, then sines, of ``2 pi (k x + l y)`` for whole ``k, l`` below ``sqrt(dim / 2)``, ``k`` outermost.

    ``x`` and ``y`` are the positions, shifted by 0.2 and divided by 1.4: a margin, so that opposite edges differ.

    >>> fourier_embedding(torch.tensor([[0.5, 0.5]]), 8).round().int()
    tensor([[ 1, -1, -1,  1,  0,  0,  0,  0]], dtype=torch.int32)
    """
    count = math.isqrt(dim // 2)
    x, y = (positions.float() + _MARGIN).div(_PERIOD).unbind(-1)
    turns = 2 * math.pi * torch.arange(count, dtype=x.dtype, device=x.device)
    phases = (x[..., None, None] * turns[:, None] + y[..., None, None] * turns).flatten(-2)
    return torch.cat((phases.cos(), phases.sin()), -1)


def has_position(positions: Float[Tensor, "*batch 2"]) -> Bool[Tensor, "*batch"]:
    """Which sensors have one."""
    return ~((positions - UNKNOWN).abs() < 1e-6).all(-1)


def _own_name(name: str, kind: str) -> str:
    prefix = f"encoders.{kind}."
    for theirs, ours in (
        ("merger.", "sensors."),
        ("initial_linear.0.", "mix."),
        ("subject_layers.weights", "subjects.weight"),
        ("final.0.", "head.up."),
        ("final.2.", "head.down."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    parts = name.removeprefix(prefix).split(".")
    if name.startswith(prefix) and len(parts) == 4:
        group, number, part, what = parts
        if group == "sequence" and part in ("0", "1"):
            return f"blocks.{'convolutions' if part == '0' else 'norms'}.{number}.{what}"
        if group == "glus" and part == "0":
            return f"blocks.gates.{number}.{what}"
    return name


def _sizes(own: dict[str, Any]) -> SpeechDecodingConfig:
    """The configuration that a state under our names is of."""
    virtual, position_dim = own["sensors.heads"].shape
    subjects, mixed, _ = own["subjects.weight"].shape
    hidden, _, kernel_size = own["blocks.convolutions.0.weight"].shape
    layers = sum(name.startswith("blocks.convolutions.") and name.endswith("weight") for name in own)
    gates = sorted(int(name.split(".")[2]) for name in own if name.startswith("blocks.gates.") and "weight" in name)
    context = own[f"blocks.gates.{gates[0]}.weight"].shape[2] // 2 if gates else 1
    return SpeechDecodingConfig(
        features=own["head.down.bias"].shape[0],
        subjects=subjects,
        virtual_sensors=virtual,
        position_dim=position_dim,
        mixed=mixed,
        hidden=hidden,
        layers=layers,
        kernel_size=kernel_size,
        glu_every=gates[0] + 1 if gates else 0,
        glu_context=context,
    )
