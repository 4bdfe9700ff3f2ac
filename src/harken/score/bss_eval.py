"""SDR, SIR and SAR of separated sources: BSS Eval with filters of 512 taps (Vincent et al., 2006; v4, 2018)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError

_BOUND = 1e-10  # share of an energy added to both sides of a ratio: bounds it to +-100 dB


class BSSEval(NamedTuple):
    """Signal to distortion, interference and artifacts in dB, ``(sources,)`` or ``(sources, windows)``."""

    sdr: Float[Tensor, "sources *windows"]
    sir: Float[Tensor, "sources *windows"]
    sar: Float[Tensor, "sources *windows"]


def bss_eval(
    references: Float[Tensor, "sources samples"],
    estimates: Float[Tensor, "sources samples"],
    *,
    filter_length: int = 512,
    window: int | None = None,
) -> BSSEval:
    """Split each estimate into what a filter of its reference explains, what the other sources add, and the rest.

    With ``t`` the projection of an estimate on the delayed copies of its own reference, ``t + i`` that on the copies of
    all references, and ``a`` what remains: ``SDR = |t|^2 / |i + a|^2``, ``SIR = |t|^2 / |i|^2``, ``SAR = |t + i|^2 /
    |a|^2``, bounded to +-100 dB. The order is the references'; no permutation is searched.

    Args:
        references: the clean sources, none silent.
        estimates: what a system made of their mixture.
        filter_length: taps of the allowed filter.
        window: samples of a window; the filters stay those of the whole signal, as in version 4 (whose tables give the
            median over windows of 1 s). nan where a window of the reference or the estimate is silent.

    Raises:
        InputError: fewer than two sources, tensors of different shapes, a silent reference, signals shorter than the
            filter or the window.

    >>> one, two = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    >>> found = bss_eval(torch.stack((one, two)), torch.stack((one + 0.1 * two, two)))
    >>> round(float(found.sir[0]))
    20
    """
    if references.ndim != 2 or references.shape != estimates.shape or len(references) < 2:
        raise InputError(
            "expected references and estimates (sources, samples) of one shape and two sources or more, "
            f"got {tuple(references.shape)} and {tuple(estimates.shape)}"
        )
    samples = references.shape[-1]
    if samples < max(filter_length, window or 1):
        raise InputError(
            f"{samples} samples are fewer than the filter's {filter_length} or a window's {window}: give longer"
        )
    if not references.any(-1).all():
        raise InputError("a reference is silent: there is nothing to project on")
    references, estimates = references.double(), estimates.double()
    references = references / references.square().mean(-1, keepdim=True).sqrt()  # one scale for one ridge
    n_fft = 2 ** (samples + filter_length - 1).bit_length()
    sources, guesses = torch.fft.rfft(references, n_fft), torch.fft.rfft(estimates, n_fft)
    gram = _gram(sources, filter_length, n_fft)
    # <estimate, reference delayed by tau>
    cross = torch.fft.irfft(sources.conj() * guesses[:, None], n_fft)[..., :filter_length]
    count, length = len(references), samples + filter_length - 1
    both = torch.linalg.solve(gram.flatten(0, 1).flatten(1, 2), cross.flatten(1).mT).mT
    both = both.unflatten(1, (count, filter_length))
    explained = torch.fft.irfft((torch.fft.rfft(both, n_fft) * sources).sum(1), n_fft)[:, :length]
    own = torch.arange(count)
    alone = torch.linalg.solve(gram[own, :, own], cross[own, own, :, None])[..., 0]
    target = torch.fft.irfft(torch.fft.rfft(alone, n_fft) * sources, n_fft)[:, :length]
    estimates = torch.nn.functional.pad(estimates, (0, filter_length - 1))
    parts = (target, estimates - target, explained - target, explained, estimates - explained, estimates)
    if window is None:
        energies = [part.square().sum(-1) for part in parts]
    else:
        energies = [part[:, :samples].unfold(-1, window, window).square().sum(-1) for part in parts]
    target, distortion, interference, explained, artifacts, whole = energies
    guard = _BOUND * whole
    values = [
        torch.where(whole > 0, 10 * torch.log10((above + guard) / (below + guard)), torch.nan)
        for above, below in ((target, distortion), (target, interference), (explained, artifacts))
    ]
    if window is not None:
        is_heard = references.unfold(-1, window, window).any(-1)
        values = [torch.where(is_heard, value, torch.nan) for value in values]
    return BSSEval(*values)


def _gram(spectra: Tensor, filter_length: int, n_fft: int) -> Float[Tensor, "sources taps sources taps"]:
    """Inner products of all delayed copies: one Toeplitz block per pair, with a ridge for references that repeat."""
    correlation = torch.fft.irfft(spectra[:, None] * spectra[None].conj(), n_fft)
    tap = torch.arange(filter_length)
    gram = correlation[:, :, (tap[None] - tap[:, None]) % n_fft].transpose(1, 2)  # <x_i delayed a, x_j delayed b>
    size = len(spectra) * filter_length
    ridge = 1e-10 * correlation[:, :, 0].diagonal().mean() * torch.eye(size, dtype=gram.dtype)
    return gram + ridge.reshape(gram.shape)
