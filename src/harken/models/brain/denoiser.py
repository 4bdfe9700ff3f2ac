"""AT-AT: an autoencoder cleans EEG roughly, and a transformer what it points at (arXiv 2502.05332; 2502.05334)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.attention import create_attention
from harken.errors import InputError
from harken.layers.transformer import TransformerBlock
from harken.models._base import Model, build
from harken.signal.correlation import correlation


@dataclass(frozen=True)
class DenoiserConfig:
    """Sizes of :class:`EEGDenoiser`.

    Attributes:
        samples: of an epoch, a multiple of ``patch`` and of eight.
        sfreq: samples a second.
        widths: channels of the autoencoder, each layer at half the rate of the one before.
        kernel: of its convolutions.
        patch: samples of a token.
        dim, layers, heads: of the transformer.
        threshold: correlation of input and autoencoder below which a patch counts as dirty.
        softness: of that decision, in training.
        attention: any bidirectional mechanism.
    """

    samples: int = 512
    sfreq: float = 256.0
    widths: tuple[int, ...] = (16, 32, 64)
    kernel: int = 7
    patch: int = 32
    dim: int = 64
    layers: int = 3
    heads: int = 4
    threshold: float = 0.9
    softness: float = 0.05
    attention: str = "softmax"

    def __post_init__(self) -> None:
        if min(self.samples, self.patch, self.dim, self.layers, self.heads, self.kernel, *self.widths) < 1:
            raise InputError("sizes must be at least 1")
        if self.samples % self.patch or self.samples % 2 ** len(self.widths) or not self.kernel % 2:
            raise InputError("expected samples divisible by patch and by 2 to the number of widths, and an odd kernel")
        if not (-1 < self.threshold < 1 and self.softness > 0 and self.sfreq > 0):
            raise InputError("expected a threshold in (-1, 1), and softness and sfreq above 0")

    @classmethod
    def small(cls) -> DenoiserConfig:
        """What the bundled weights use: the default."""
        return cls()


class Denoised(NamedTuple):
    """What a pass made, each ``(batch, samples)`` but the last.

    Attributes:
        clean: the result.
        coarse: the autoencoder's.
        gate: how far each patch was replaced, ``(batch, patches)``.
    """

    clean: Tensor
    coarse: Tensor
    gate: Tensor


class EEGDenoiser(Model):
    """Autoencoder-targeted transformer for one channel of EEG.

    The autoencoder's output ``a`` of an epoch ``y`` is kept where it agrees with the input. A patch ``p`` in which it
    does not, ``r_p = corr(y_p, a_p) < threshold``, gets ``a_p + g_p t_p``, with ``t`` a transformer's on the patches of
    both; ``g = sigmoid((threshold - r) / softness)`` in training, 0 or 1 afterwards. The published text gives the idea
    without sizes; those here are our reconstruction.

    Shape:
        - noisy: ``(batch, samples)``, any unit; each row is standardised inside
        - output: :class:`Denoised`, in the unit of the input
    """

    slug = "eeg-denoiser"
    Config = DenoiserConfig

    def __init__(self, config: DenoiserConfig | None = None):
        super().__init__(config)
        c = self.config
        widths, padding = (1, *c.widths), c.kernel // 2
        down: list[nn.Module] = []
        for before, after in pairwise(widths):
            down += [
                nn.Conv1d(before, after, c.kernel, padding=padding),
                nn.BatchNorm1d(after),
                nn.ReLU(),
                nn.MaxPool1d(2),
            ]
        up: list[nn.Module] = []
        for before, after in zip(widths[:0:-1], (*widths[-2:0:-1], c.widths[0]), strict=True):
            up += [nn.Upsample(scale_factor=2), nn.Conv1d(before, after, c.kernel, padding=padding)]
            up += [nn.BatchNorm1d(after), nn.ReLU()]
        self.autoencoder = nn.Sequential(*down, *up, nn.Conv1d(c.widths[0], 1, c.kernel, padding=padding))
        self.embed = nn.Linear(2 * c.patch, c.dim)
        self.positions = nn.Parameter(0.02 * torch.randn(c.samples // c.patch, c.dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(c.dim, create_attention(c.attention, dim=c.dim, heads=c.heads, causal=False))
            for _ in range(c.layers)
        )
        self.norm = nn.LayerNorm(c.dim)
        self.residual = nn.Linear(c.dim, c.patch)
        nn.init.zeros_(self.residual.weight)  # begins as the autoencoder alone
        nn.init.zeros_(self.residual.bias)

    def forward(self, noisy: Float[Tensor, "batch samples"]) -> Denoised:
        c = self.config
        if noisy.shape[1] != c.samples:
            raise InputError(f"expected epochs of {c.samples} samples, got {noisy.shape[1]}: see denoise() for others")
        centre = noisy.mean(1, keepdim=True)
        size = (noisy - centre).square().mean(1, keepdim=True).clamp_min(1e-30).sqrt()
        x = (noisy - centre) / size
        coarse = self.autoencoder(x[:, None])[:, 0]
        of_input, of_coarse = (part.unflatten(1, (-1, c.patch)) for part in (x, coarse))
        # the gate points, and is not itself learned
        agreement = correlation(of_input, of_coarse.detach())
        soft = torch.sigmoid((c.threshold - agreement) / c.softness)
        gate = soft if self.training else (agreement < c.threshold).to(x.dtype)
        tokens = self.embed(torch.cat((of_input, of_coarse), -1)) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        clean = of_coarse + gate[..., None] * self.residual(self.norm(tokens))
        return Denoised(clean.flatten(1) * size, coarse * size, gate)

    @torch.inference_mode()
    def denoise(
        self,
        signal: Float[np.ndarray, "*channels samples"],
        *,
        at_once: int = 128,
        progress: Callable[[float, str], None] | None = None,
    ) -> Float[np.ndarray, "*channels samples"]:
        """Signals of any length at ``config.sfreq``: epochs that overlap by half, cross-faded, so many at once.

        The mean of each channel is kept; what changes more slowly than an epoch is not. Flat channels stay as they are.

        Raises:
            InputError: NaN or infinite values, or no samples.
        """
        if not signal.size or not np.isfinite(signal).all():
            raise InputError("expected a signal of finite numbers, got none, or NaN among them")
        samples, length = signal.shape[-1], self.config.samples
        hop = length // 2
        rows = signal.reshape(-1, samples).astype(np.float32)
        centre = rows.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
        epochs = max(1, -(-max(0, samples - length) // hop) + 1)
        total = length + (epochs - 1) * hop
        how = "reflect" if samples > length else "constant"
        padded = np.pad(rows - centre, ((0, 0), (0, total - samples)), mode=how)  # type: ignore[call-overload]
        cut = np.lib.stride_tricks.sliding_window_view(padded, length, axis=1)[:, ::hop]
        window = np.sin(np.pi * (np.arange(length, dtype=np.float32) + 0.5) / length) ** 2
        out, weight = np.zeros_like(padded), np.zeros(total, np.float32)
        was_training, device = self.training, next(self.parameters()).device
        self.eval()
        together = max(1, at_once // len(rows))
        for first in range(0, epochs, together):
            part = torch.tensor(cut[:, first : first + together].reshape(-1, length), device=device)
            clean = torch.cat([self(rows_).clean for rows_ in part.split(at_once)]).float().cpu().numpy()
            for number, epoch in enumerate(clean.reshape(len(rows), -1, length).swapaxes(0, 1), first):
                out[:, number * hop : number * hop + length] += epoch * window
                weight[number * hop : number * hop + length] += window
            if progress is not None:
                progress(min(1.0, (first + together) / epochs), f"{first * hop / self.config.sfreq:.0f} s")
        self.train(was_training)
        flat = np.ptp(rows, axis=1, keepdims=True) == 0
        cleaned = np.where(flat, rows, out[:, :samples] / np.maximum(weight[:samples], 1e-6) + centre)
        return cleaned.reshape(signal.shape)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: DenoiserConfig | None = None) -> Self:
        """No weights were published: parameters are expected under harken's own names."""
        return build(lambda: cls(config), state_dict)
