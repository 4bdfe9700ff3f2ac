"""Convolutions over ``(batch, channels, time, freq)`` maps, normalised, each reading all earlier ones."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.layers.inference import only_computes

_WINDOW = 8192  # positions a convolution reads at a time, at inference
_PIECE = 1024  # positions normalised at a time: a piece stays in the cache between the passes over it


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of ``(batch, channels, time, freq)``: per bin, so blind to a chunk's length."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormAct(nn.Sequential):
    """Normalisation and a PReLU with one slope per channel, as they follow every convolution.

    At inference the instance norm of a ``channels_last`` map is computed here, because PyTorch's transposes it; it
    overwrites its input, which must be nobody else's.
    """

    def __init__(self, channels: int, norm: str):
        normalise = nn.InstanceNorm2d(channels, affine=True) if norm == "instance" else ChannelNorm(channels)
        super().__init__(normalise, nn.PReLU(channels))

    def forward(self, x: Tensor) -> Tensor:
        norm, act = cast(tuple[nn.Module, nn.PReLU], tuple(self))
        return _norm_act(self, x, norm, act)


class NormalisedConv(nn.Sequential):
    """A convolution, its normalisation and its PReLU."""

    def __init__(self, conv: nn.Conv2d, norm: str):
        super().__init__(conv, *NormAct(conv.out_channels, norm))

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, act = self.parts()
        return _norm_act(self, conv(x), norm, act)

    def parts(self) -> tuple[nn.Conv2d, nn.Module, nn.PReLU]:
        """The convolution, the normalisation and the PReLU."""
        return cast(tuple[nn.Conv2d, nn.Module, nn.PReLU], tuple(self))


def _norm_act(layer: nn.Module, x: Tensor, norm: nn.Module, act: nn.PReLU) -> Tensor:
    if not (_can_overwrite(layer, x, norm) and x.is_contiguous(memory_format=torch.channels_last)):
        return act(norm(x))
    for item in x.permute(0, 2, 3, 1):
        _normalise(item.flatten(0, 1), norm, act)
    return x


class DenseBlock(nn.Module):
    """Convolutions that each read all earlier ones, dilated in time: over the past, with ``look_ahead`` both ways."""

    def __init__(self, channels: int, norm: str, depth: int, *, look_ahead: bool = False):
        super().__init__()
        self.look_ahead = look_ahead
        kernel = (3 if look_ahead else 2, 3)
        self.layers = nn.ModuleList(
            NormalisedConv(nn.Conv2d(channels * (i + 1), channels, kernel, dilation=(2**i, 1)), norm)
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        if not self.look_ahead and _can_overwrite(self, x, self._parts()[0][1]):
            return self._compute(x)
        earlier = x
        for i, layer in enumerate(self.layers):
            x = layer(F.pad(earlier, (1, 1, 2**i, 2**i if self.look_ahead else 0)))
            if i + 1 < len(self.layers):
                earlier = torch.cat((x, earlier), 1)
        return x

    def _compute(self, x: Tensor) -> Tensor:
        """The same for inference: channels last, and nothing is concatenated.

        A convolution of several maps is the sum of theirs; its bias the norm takes away again. Every map begins with as
        many silent frames as the longest convolution looks back.
        """
        batch, channels, frames, bands = x.shape
        silent = 2 ** (len(self.layers) - 1)
        maps = x.new_empty(len(self.layers), silent + frames, bands, channels)
        maps[:, :silent] = 0
        outputs = x.new_empty(batch, frames, bands, channels)
        for item, output in zip(x.permute(0, 2, 3, 1), outputs, strict=True):
            maps[0, silent:] = item
            for done, (conv, norm, act) in enumerate(self._parts(), start=1):
                made = output if done == len(self.layers) else maps[done, silent:]
                _convolve_past(conv, maps[:done], made)
                _normalise(made.flatten(0, 1), norm, act)
        return outputs.permute(0, 3, 1, 2)

    def _parts(self) -> list[tuple[nn.Conv2d, nn.Module, nn.PReLU]]:
        return [cast(NormalisedConv, layer).parts() for layer in self.layers]


def _can_overwrite(layer: nn.Module, x: Tensor, norm: nn.Module) -> bool:
    """Whether the forms for inference apply; half precision is left to PyTorch, which sums it in single."""
    exact = x.dtype in (torch.float32, torch.float64)
    return exact and isinstance(norm, nn.InstanceNorm2d) and only_computes(layer, x)


def _convolve_past(
    conv: nn.Conv2d, maps: Float[Tensor, "maps padded freq channels"], out: Float[Tensor, "time freq channels"]
) -> None:
    """``conv`` over ``maps``, the newest of which its weights expect first, a few frames at a time."""
    (frames, bands, channels), past = out.shape, conv.dilation[0]
    silent, step = maps.shape[1] - frames, max(1, _WINDOW // bands)
    weights = [w.contiguous(memory_format=torch.channels_last) for w in conv.weight.split(channels, 1)][::-1]
    for start in range(0, frames, step):
        stop = min(start + step, frames)
        seen = maps[:, None, silent + start - past : silent + stop].permute(0, 1, 4, 2, 3)
        parts = (F.conv2d(x, w, padding=(0, 1), dilation=conv.dilation) for x, w in zip(seen, weights, strict=True))
        made = next(parts)
        for part in parts:
            made += part
        out[start:stop] = made[0].permute(1, 2, 0)


def _normalise(rows: Float[Tensor, "positions channels"], norm: nn.Module, act: nn.PReLU) -> None:
    """Instance norm and PReLU in place: ``prelu((x - mean) / sqrt(variance + eps) * weight + bias)`` per channel.

    The variance is put together from those of the pieces (Chan et al. 1979), each about its own mean: one visit to
    memory, and exact where ``mean(x ** 2) - mean(x) ** 2`` would cancel.
    """
    assert isinstance(norm, nn.InstanceNorm2d)
    pieces = rows.split(_PIECE)
    means, deviations = rows.new_empty(2, len(pieces), rows.shape[1])
    scratch = torch.empty_like(pieces[0])
    for piece, mean, deviation in zip(pieces, means, deviations, strict=True):
        torch.mean(piece, 0, out=mean)
        torch.sum(torch.sub(piece, mean, out=scratch[: len(piece)]).square_(), 0, out=deviation)
    share = rows.new_tensor([len(piece) for piece in pieces])[:, None] / len(rows)
    mean = (share * means).sum(0)
    variance = deviations.sum(0) / len(rows) + (share * (means - mean).square()).sum(0)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    shift = norm.bias - mean * scale
    for piece in pieces:
        piece.copy_(F.prelu(torch.addcmul(shift, piece, scale, out=scratch[: len(piece)]), act.weight))
