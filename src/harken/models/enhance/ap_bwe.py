"""AP-BWE: give narrowband speech its upper band, amplitude and phase side by side (arXiv 2401.06387)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import CheckpointError, InputError
from harken.layers.convnext import ConvNeXtBlock
from harken.models._base import Model, build
from harken.signal.spectrum import pad_to_frames

# target rate -> the source rates that the paper extends to it, Hz
PAIRS: dict[int, tuple[int, ...]] = {16000: (2000, 4000, 8000), 48000: (8000, 12000, 16000, 24000)}

_FLOOR = 1e-4  # added to amplitudes before the logarithm: what silence is
_LOUDEST = 10.0  # of a logarithmic amplitude before it is raised again


@dataclass(frozen=True)
class APBWEConfig:
    """Sizes of :class:`APBWE`; the defaults are the paper's for 16 kHz.

    Attributes:
        channels, layers: width, and ConvNeXt blocks in each of the two streams.
        sample_rate: of input and output, Hz; the input was resampled to it.
        source_rate: the rate below half of which the input holds anything, Hz.
        n_fft, hop_length, win_length: the spectrum; the window is shorter than the transform.
        lowest_source_rate: of weights that were trained for several, the narrowest; None for one.
    """

    channels: int = 512
    layers: int = 8
    sample_rate: int = 16000
    source_rate: int = 8000
    n_fft: int = 1024
    hop_length: int = 80
    win_length: int = 320
    lowest_source_rate: int | None = None

    def __post_init__(self) -> None:
        if not (1 <= self.channels <= 4096 and 1 <= self.layers <= 256):
            raise InputError(f"channels={self.channels} must be 1 to 4096 and layers={self.layers} 1 to 256")
        if not 0 < self.source_rate <= self.sample_rate:
            raise InputError(f"expected 0 < source_rate <= sample_rate, got {self.source_rate} and {self.sample_rate}")
        if self.lowest_source_rate is not None and not 0 < self.lowest_source_rate <= self.source_rate:
            raise InputError(
                f"expected 0 < lowest_source_rate <= source_rate, got {self.lowest_source_rate} and {self.source_rate}"
            )
        if not 0 < self.hop_length <= self.win_length <= self.n_fft <= 65536:
            raise InputError("expected 0 < hop_length <= win_length <= n_fft <= 65536")

    @classmethod
    def paper(cls, sample_rate: int = 16000, source_rate: int = 8000) -> Self:
        """The paper's size for one of :data:`PAIRS` of rates: the spectrum is the same for all of them.

        Raises:
            InputError: the paper has no such pair.
        """
        _check_pair(sample_rate, source_rate)
        return cls(sample_rate=sample_rate, source_rate=source_rate)

    @classmethod
    def small(cls, sample_rate: int = 16000, source_rate: int = 8000) -> Self:
        """40 times smaller, many times faster than real time on a laptop's CPU.

        Raises:
            InputError: the paper has no such pair.
        """
        _check_pair(sample_rate, source_rate)
        return cls(channels=64, layers=4, sample_rate=sample_rate, source_rate=source_rate)


class APBWE(Model):
    """Two streams of ConvNeXt blocks at the rate of frames, one for amplitude and one for phase, that hear each other.

    Each norm is over the channels of a frame, so that a frame depends on :attr:`reach` frames around it and no others:
    a long recording in pieces is the recording as a whole.

    Shape:
        - log amplitude (natural, of ``|X| + 1e-4``), phase in; the same out: ``(batch, n_fft // 2 + 1, frames)``

    >>> model = APBWE(APBWE.Config.small())
    >>> model.extend(torch.randn(1, 8000)).shape
    torch.Size([1, 8000])
    """

    config: APBWEConfig
    slug: ClassVar[str] = "ap-bwe"
    Config: ClassVar[type[APBWEConfig]] = APBWEConfig
    window: Tensor

    def __init__(self, config: APBWEConfig | None = None):
        super().__init__(config)
        c = self.config
        self.sample_rate, bins = c.sample_rate, c.n_fft // 2 + 1
        self.register_buffer("window", torch.hann_window(c.win_length), persistent=False)
        self.amplitude, self.phase = Stream(c), Stream(c)
        self.to_amplitude = nn.Linear(c.channels, bins)
        self.to_real, self.to_imaginary = nn.Linear(c.channels, bins), nn.Linear(c.channels, bins)

    @property
    def reach(self) -> int:
        """Frames on each side that a frame depends on."""
        return 3 * (self.config.layers + 1)

    @property
    def context(self) -> int:
        """Samples on each side that a sample depends on, whole hops: the reach, and a window at either end of it.

        A piece of a recording that begins at a whole hop is, further inside than this, what the whole would be there.
        """
        hops_of_half_a_window = -(-self.config.win_length // (2 * self.config.hop_length))
        return (self.reach + 2 * hops_of_half_a_window) * self.config.hop_length

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next."""
        return self.config.hop_length

    def at_rates(self, sample_rate: int, source_rate: int) -> Self:
        """The same model under other rates: a bare checkpoint does not say to which it belongs."""
        self.config = replace(self.config, sample_rate=sample_rate, source_rate=source_rate)
        self.sample_rate = sample_rate
        return self

    def analyse(
        self, waveform: Float[Tensor, "batch samples"]
    ) -> tuple[Float[Tensor, "batch bins frames"], Float[Tensor, "batch bins frames"]]:
        """Log amplitude and phase of a waveform.

        Raises:
            InputError: fewer samples than the reflected edges need.
        """
        c = self.config
        if waveform.shape[-1] <= c.n_fft // 2:
            raise InputError(f"{waveform.shape[-1]} samples are too few for n_fft={c.n_fft}: pad with zeros first")
        window = self.window.to(waveform.dtype)
        bins = torch.stft(
            waveform, c.n_fft, c.hop_length, c.win_length, window, center=True, pad_mode="reflect", return_complex=True
        )
        power = bins.real.square() + bins.imag.square()
        amplitude = (power + torch.finfo(power.dtype).tiny).sqrt()  # a gradient in silence, too
        return (amplitude + _FLOOR).log(), torch.atan2(bins.imag, bins.real)

    def synthesise(
        self,
        log_amplitude: Float[Tensor, "batch bins frames"],
        phase: Float[Tensor, "batch bins frames"],
        length: int | None = None,
    ) -> Float[Tensor, "batch samples"]:
        """The waveform of a log amplitude and a phase."""
        spectrum = torch.polar(log_amplitude.float().clamp_max(_LOUDEST).exp(), phase.float())
        return self._invert(spectrum, length)

    def _invert(self, spectrum: Tensor, length: int | None) -> Float[Tensor, "batch samples"]:
        c = self.config
        return torch.istft(
            spectrum, c.n_fft, c.hop_length, c.win_length, self.window.float(), center=True, length=length
        )

    def forward(
        self, log_amplitude: Float[Tensor, "batch bins frames"], phase: Float[Tensor, "batch bins frames"]
    ) -> tuple[Float[Tensor, "batch bins frames"], Float[Tensor, "batch bins frames"]]:
        """Wideband log amplitude and phase of narrowband ones."""
        made, real, imaginary = self._predict(log_amplitude, phase)
        return made, torch.atan2(imaginary, real)

    def _predict(
        self, log_amplitude: Float[Tensor, "batch bins frames"], phase: Float[Tensor, "batch bins frames"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log amplitude, and the two numbers of which the phase is the angle."""
        m, p = self.amplitude.enter(log_amplitude), self.phase.enter(phase)
        for of_amplitude, of_phase in zip(self.amplitude.blocks, self.phase.blocks, strict=True):
            m = m + p
            p = p + m  # the amplitude as it is by now
            m, p = of_amplitude(m), of_phase(p)
        m, p = self.amplitude.norm_out(m), self.phase.norm_out(p)
        return log_amplitude + self.to_amplitude(m).mT, self.to_real(p).mT, self.to_imaginary(p).mT

    def extend(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
        """Waveforms at ``sample_rate`` that hold nothing above half of ``source_rate``, with what belongs there."""
        samples = waveform.shape[-1]
        padded = pad_to_frames(waveform, self.config.n_fft)
        made, real, imaginary = self._predict(*self.analyse(padded))
        # brought to length one, the two are cosine and sine: no angle need be found and undone
        length = torch.hypot(real.float(), imaginary.float()).clamp_min(1e-20)
        scale = made.float().clamp_max(_LOUDEST).exp() / length
        spectrum = torch.complex(scale * real.float(), scale * imaginary.float())
        return self._invert(spectrum, padded.shape[-1])[:, :samples].to(waveform.dtype)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: APBWEConfig | None = None) -> Self:
        """Build from the authors' names: a generator's state dict, or their file ``{"generator": state_dict}``.

        Without a config the sizes are read off the tensors, the rates stay at 16 and 8 kHz.
        """
        state = state_dict.get("generator", state_dict)
        if not isinstance(state, Mapping) or "conv_pre_mag.weight" not in state:
            if isinstance(state, Mapping) and "amplitude.lift.weight" in state:  # harken's own names
                return build(lambda: cls(config or APBWEConfig.small()), state)
            raise CheckpointError("not an AP-BWE generator: 'conv_pre_mag.weight' is missing")
        try:
            channels, bins, _ = state["conv_pre_mag.weight"].shape
            layers = len({name.split(".")[1] for name in state if name.startswith("convnext_mag.")})
            sizes = config or APBWEConfig(channels=channels, layers=layers, n_fft=2 * (bins - 1))
            own = {_own_name(name): tensor for name, tensor in state.items()}
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"not the parameters of an AP-BWE generator: {error}") from None
        return build(lambda: cls(sizes), own)


class Stream(nn.Module):
    """What amplitude and phase have one each of: the way in, the blocks, and a norm at the end."""

    def __init__(self, c: APBWEConfig):
        super().__init__()
        self.lift = nn.Conv1d(c.n_fft // 2 + 1, c.channels, 7, padding=3)
        self.norm_in = nn.LayerNorm(c.channels, eps=1e-6)
        self.blocks = nn.ModuleList(ConvNeXtBlock(c.channels, scale=1 / c.layers) for _ in range(c.layers))
        self.norm_out = nn.LayerNorm(c.channels, eps=1e-6)
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def enter(self, x: Float[Tensor, "batch bins frames"]) -> Float[Tensor, "batch frames channels"]:
        """Frames of ``channels``."""
        return self.norm_in(self.lift(x).mT)


def _check_pair(sample_rate: int, source_rate: int) -> None:
    if source_rate not in PAIRS.get(sample_rate, ()):
        known = "; ".join(f"{', '.join(map(str, sources))} to {target}" for target, sources in PAIRS.items())
        raise InputError(f"no preset extends {source_rate} Hz to {sample_rate} Hz: {known}")


_AUTHORS_NAMES = (
    ("conv_pre_mag.", "amplitude.lift."),
    ("conv_pre_pha.", "phase.lift."),
    ("norm_pre_mag.", "amplitude.norm_in."),
    ("norm_pre_pha.", "phase.norm_in."),
    ("norm_post_mag.", "amplitude.norm_out."),
    ("norm_post_pha.", "phase.norm_out."),
    ("convnext_mag.", "amplitude.blocks."),
    ("convnext_pha.", "phase.blocks."),
    (".dwconv.", ".depthwise."),
    (".pwconv1.", ".up."),
    (".pwconv2.", ".down."),
    (".gamma", ".scale"),
    ("linear_post_mag.", "to_amplitude."),
    ("linear_post_pha_r.", "to_real."),
    ("linear_post_pha_i.", "to_imaginary."),
)


def _own_name(name: str) -> str:
    for theirs, ours in _AUTHORS_NAMES:
        name = name.replace(theirs, ours)
    return name
