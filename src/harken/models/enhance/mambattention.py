"""MambAttention: Mamba along time and frequency, each behind one shared attention (arXiv 2507.00966)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from harken.attention import create_attention
from harken.errors import CheckpointError
from harken.layers.conformer import ConformerBlock
from harken.layers.mamba import BothWays, ResidualMamba
from harken.layers.mlstm import ResidualMLstm
from harken.models._base import build
from harken.models.enhance.codec import CodecConfig, SpectrumEnhancer


@dataclass(frozen=True)
class MambAttentionConfig(CodecConfig):
    """Sizes and choices of :class:`MambAttention`; the defaults are the paper's.

    Attributes:
        core: what follows the attention along an axis: ``"mamba"``, ``"xlstm"``, ``"lstm"``, or ``"conformer"`` (which
            has an attention of its own and takes none before it).
        attention: any bidirectional mechanism of :func:`harken.list_attention`; None for none (the paper's baselines).
        shared: one attention for both axes of a block, norm included (the paper's point); False for one each.
        expand, states, kernel: of Mamba, and of the matrix LSTM where it has them.

    The others are those of :class:`~harken.models.enhance.codec.CodecConfig`.
    """

    heads: int = 8
    codec: Literal["subpixel", "transposed"] = "transposed"
    core: Literal["mamba", "xlstm", "lstm", "conformer"] = "mamba"
    attention: str | None = "softmax"
    shared: bool = True
    expand: int = 4
    states: int = 16
    kernel: int = 4

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **CodecConfig.choices,
        "core": ("mamba", "xlstm", "lstm", "conformer"),
    }

    @classmethod
    def small(cls) -> Self:
        """Quick to train and to run on a laptop's CPU."""
        return cls(
            channels=32,
            blocks=2,
            heads=4,
            norm="layer",
            freq_stride=8,
            decoder_depth=2,
            phase="rotation",
            codec="subpixel",
            expand=2,
            states=8,
        )


class MambAttention(SpectrumEnhancer):
    """MP-SENet's task with recurrent cores: linear in time but for the attention that is shared between the axes.

    Shape:
        - magnitude (compressed), phase in; the same out: ``(batch, n_fft // 2 + 1, frames)``

    >>> model = MambAttention(MambAttention.Config.small())
    >>> model.enhance(torch.randn(1, 8000)).shape
    torch.Size([1, 8000])
    """

    config: MambAttentionConfig
    slug: ClassVar[str] = "mambattention"
    Config: ClassVar[type[MambAttentionConfig]] = MambAttentionConfig

    def make_block(self) -> TimeFrequencyBlock:
        """Both axes in turn."""
        return TimeFrequencyBlock(self.config)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: MambAttentionConfig | None = None) -> Self:
        """Build from the authors' names: a generator's state dict, or their file ``{"generator": state_dict}``.

        Without a config the sizes are read off the tensors and the rest is the paper's.
        """
        state = state_dict.get("generator", state_dict)
        if not isinstance(state, Mapping) or "dense_encoder.dense_conv_1.0.weight" not in state:
            if isinstance(state, Mapping) and "encoder.lift.0.weight" in state:  # harken's own names
                return build(lambda: cls(config or MambAttentionConfig.small()), state)
            raise CheckpointError("not a MambAttention generator: 'dense_encoder.dense_conv_1.0.weight' is missing")
        try:
            config = config or _released_config(state)
            own = {_own_name(name): _own_tensor(name, tensor) for name, tensor in state.items()}
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"not the parameters of a MambAttention generator: {error}") from None
        return build(lambda: cls(config), own)


class TimeFrequencyBlock(nn.Module):
    """Attention and core along time, then along frequency: ``(batch, frames, bands, channels)`` to the same."""

    def __init__(self, c: MambAttentionConfig):
        super().__init__()
        count = 0 if c.attention is None or c.core == "conformer" else 1 if c.shared else 2
        self.attentions = nn.ModuleList(NormedAttention(c) for _ in range(count))
        self.time, self.freq = Axis(c), Axis(c)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, bands, channels = x.shape
        first = self.attentions[0] if self.attentions else None
        second = self.attentions[-1] if self.attentions else None
        x = self.time(x.transpose(1, 2).flatten(0, 1), first).view(batch, bands, frames, channels).transpose(1, 2)
        return self.freq(x.flatten(0, 1), second).view(batch, frames, bands, channels)


class NormedAttention(nn.Module):
    """``attention(layer_norm(x))``, which one axis or both may own."""

    def __init__(self, c: MambAttentionConfig):
        super().__init__()
        assert c.attention is not None
        self.norm = nn.LayerNorm(c.channels)
        self.attention = create_attention(c.attention, dim=c.channels, heads=c.heads)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.norm(x))


class Axis(nn.Module):
    """``x + attention(x)``, ``x + linear(core(x))``: on ``(rows, length, channels)``."""

    def __init__(self, c: MambAttentionConfig):
        super().__init__()
        if c.core == "conformer":
            own = create_attention(c.attention or "softmax", dim=c.channels, heads=c.heads)
            self.core: nn.Module = ConformerBlock(c.channels, own)
            self.linear: nn.Module = nn.Identity()
        else:
            self.core = ResidualLstm(c.channels) if c.core == "lstm" else BothWays(_core(c), _core(c))
            self.linear = nn.Linear(2 * c.channels, c.channels)

    def forward(self, x: Tensor, attention: nn.Module | None) -> Tensor:
        if attention is not None:
            x = x + attention(x)
        return x + self.linear(self.core(x))


def _core(c: MambAttentionConfig) -> nn.Module:
    if c.core == "mamba":
        return ResidualMamba(c.channels, expand=c.expand, states=c.states, kernel=c.kernel)
    return ResidualMLstm(c.channels, expand=c.expand, kernel=c.kernel)


class ResidualLstm(nn.Module):
    """Both directions' ``x + linear(lstm(norm(x)))`` side by side; the wiring is ours, for the paper does not give it.

    One and a half channels of state for each of input come nearest to the parameters that the paper counts.
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = 3 * channels // 2
        self.norm = nn.LayerNorm(channels)
        self.lstm = nn.LSTM(channels, hidden, batch_first=True, bidirectional=True)
        self.forwards, self.backwards = nn.Linear(hidden, channels), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        ahead, back = self.lstm(self.norm(x))[0].chunk(2, -1)
        return torch.cat((x + self.forwards(ahead), x + self.backwards(back)), -1)


_AUTHORS_NAMES = (
    ("dense_encoder.dense_conv_1.", "encoder.lift."),
    ("dense_encoder.dense_conv_2.", "encoder.down."),
    ("dense_encoder.dense_block.dense_block.", "encoder.dense.layers."),
    ("decoder.dense_block.dense_block.", "decoder.dense.layers."),
    ("TFMambAttention.", "blocks."),
    (".tlinear.", ".time.linear."),
    (".flinear.", ".freq.linear."),
    (".time_mamba.", ".time.core."),
    (".freq_mamba.", ".freq.core."),
    (".forward_blocks.0.", ".forwards."),
    (".backward_blocks.0.", ".backwards."),
    (".mixer.A_log", ".mixer.log_a"),
    (".mixer.D", ".mixer.d"),
    (".mixer.conv1d.", ".mixer.conv."),
    (".mixer.dt_proj.", ".mixer.step_proj."),
    (".attention.attn.in_proj_", ".attentions.0.attention.in_proj."),
    (".attention.attn.", ".attentions.0.attention."),
    (".attention.layernorm.", ".attentions.0.norm."),
    ("mask_decoder.mask_conv.0.", "mask_decoder.up.conv."),
    ("mask_decoder.mask_conv.1.", "mask_decoder.out.0."),
    ("mask_decoder.mask_conv.2.", "mask_decoder.out.1."),
    ("mask_decoder.mask_conv.3.", "mask_decoder.out.2."),
    ("mask_decoder.mask_conv.4.", "mask_decoder.out.3."),
    ("mask_decoder.lsigmoid.slope", "mask_decoder.slope"),
    ("phase_decoder.phase_conv.0.", "phase_decoder.up.conv."),
    ("phase_decoder.phase_conv.1.", "phase_decoder.up.norm_act.0."),
    ("phase_decoder.phase_conv.2.", "phase_decoder.up.norm_act.1."),
    ("phase_decoder.phase_conv_r.", "phase_decoder.real."),
    ("phase_decoder.phase_conv_i.", "phase_decoder.imaginary."),
)


def _own_name(name: str) -> str:
    for theirs, ours in _AUTHORS_NAMES:
        name = name.replace(theirs, ours)
    return name


def _own_tensor(name: str, tensor: Tensor) -> Tensor:
    """Their linear layers are transposed convolutions of one position, ``(in, out, 1)``."""
    if name.endswith(("tlinear.weight", "flinear.weight")):
        return tensor.squeeze(-1).mT
    if name.endswith("mask_conv.4.weight") or name.endswith("slope"):
        return tensor.flatten()
    return tensor


def _released_config(state: Mapping[str, Any]) -> MambAttentionConfig:
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("TFMambAttention.")}
    n_fft = 2 * (len(state["mask_decoder.lsigmoid.slope"]) - 1)
    channels = len(state["dense_encoder.dense_conv_1.0.bias"])
    inner, states = state["TFMambAttention.0.time_mamba.forward_blocks.0.mixer.A_log"].shape
    return MambAttentionConfig(
        channels=channels,
        blocks=len(blocks),
        n_fft=n_fft,
        win_length=n_fft,
        hop_length=n_fft // 4,
        expand=inner // channels,
        states=states,
        kernel=state["TFMambAttention.0.time_mamba.forward_blocks.0.mixer.conv1d.weight"].shape[-1],
        attention="softmax" if "TFMambAttention.0.attention.layernorm.weight" in state else None,
        offsets=False,
    )
