"""Linear prediction by Burg's method, plain and on a warped frequency axis, of many signals at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from harken.errors import InputError

_AT_ONCE = 1 << 18  # numbers of a block of rows: few enough for a cache, enough to outweigh each call's cost
_FORGOTTEN = 1e-18  # of a recursive filter's past, below what double precision can add
_TINY = 1e-300


class LinearPrediction(NamedTuple):
    """An all-pole model ``x_t = -sum_i a_i x_(t-i) + e_t`` of each signal, in double precision.

    Attributes:
        coefficients: ``a_1 .. a_p``, ``(..., order)``; of the warped delay where the model is warped.
        error: power of ``e``, ``(...)``, in the signal's unit squared.
        reflection: ``k_1 .. k_p``, ``(..., order)``, within [-1, 1].
    """

    coefficients: Float[Tensor, "*signals order"]
    error: Float[Tensor, "*signals"]
    reflection: Float[Tensor, "*signals order"]


def burg(x: Float[Tensor, "*signals samples"], order: int, warp: float = 0.0) -> LinearPrediction:
    """Burg's recursion: each reflection coefficient makes forward and backward errors smallest together.

    ``k = -2 <b, f> / (<f, f> + <b, b>)``, ``f <- f + k b``, ``b <- b + k f``, ``E <- E (1 - k^2)``. With ``warp`` the
    unit delay of ``b`` becomes the all-pass ``(z^-1 - warp) / (1 - warp z^-1)``: positive values spend the poles on low
    frequencies. That recursive filter is applied by blocks, as products of matrices: no loop runs over samples.

    Neither mean nor window: take the mean out first if it means nothing. A silent signal gives zeros. Gradients flow.

    Args:
        x: signals, any unit.
        order: poles of the model, less than half the samples.
        warp: in (-1, 1).

    Raises:
        InputError: ``order`` or ``warp`` is out of range.

    Source: Burg 1975; the warped form is that of arXiv 2408.07292's code.

    >>> tone = torch.sin(0.3 * torch.arange(200))[None]  # x_t = 2 cos(0.3) x_(t-1) - x_(t-2)
    >>> [round(a, 2) for a in burg(tone, order=2).coefficients[0].tolist()]
    [-1.91, 1.0]
    """
    samples = x.shape[-1]
    if not 1 <= order < samples / 2:
        raise InputError(f"expected an order from 1 to below half of {samples} samples, got {order}")
    if not -1 < warp < 1:
        raise InputError(f"expected warp between -1 and 1, got {warp}")
    rows = x.reshape(-1, samples)
    parts = [_burg(block.double(), order, float(warp)) for block in rows.split(max(1, _AT_ONCE // samples))]
    reflection, error = (torch.cat(kind).reshape(*x.shape[:-1], -1) for kind in zip(*parts, strict=True))
    return LinearPrediction(step_up(reflection), error[..., 0], reflection)


def _burg(x: Tensor, order: int, warp: float) -> tuple[Tensor, Tensor]:
    """Reflection coefficients and error of each row.

    Errors keep their places in memory: what a stage loses is their first sample, so that nothing is moved. The power
    of forward and backward error together follows from that of the stage before, since an all-pass keeps it but for
    the samples at both ends; it is summed anew before the differences could cost digits.
    """
    delay = _AllPass(warp, x.shape[1])
    error = x.square().mean(-1)
    forward = delay.laid_out(x)
    backward = forward.clone()
    # written over and over where nobody needs what was there: fresh memory costs more than the arithmetic
    free = [None, None] if x.requires_grad else [torch.empty_like(forward) for _ in range(2)]
    total = known = 2 * x.shape[1] * error  # power of both, now and when it was summed last
    kept = 1 / (1 - warp * warp)
    found = []
    for start in range(delay.start, delay.start + order):
        first_f, first_b, last_b = forward[:, start].clone(), backward[:, start], backward[:, delay.end]
        delayed = delay(backward, start, free[0])
        forward[:, start] = 0.0
        left = last_b + warp * delayed[:, delay.end]
        total = total - first_f * first_f + (kept - 1) * first_b * first_b - kept * left * left
        if bool((total < 1e-6 * known).any()):
            total = known = forward.square().sum(-1) + delayed.square().sum(-1)
        product = torch.mul(forward, delayed, out=free[1]).sum(-1)
        k = (-2 * product / total.clamp_min(_TINY)).clamp(-1, 1)
        was = forward
        forward = torch.addcmul(was, delayed, k[:, None], out=free[1])
        backward = torch.addcmul(delayed, was, k[:, None], out=None if free[0] is None else backward)
        free = [None, None] if free[0] is None else [delayed, was]
        left_over = 1 - k * k
        total, error = total * left_over, error * left_over
        found.append(k)
    return torch.stack(found, -1), error[:, None]


class _AllPass:
    """The all-pass of many rows at once, whose recursive filter forgets within a block of ``size`` samples.

    A block of its output is one matrix times the block, and another times the block before: two products with no
    copies, where a recursion over samples would wait for each.
    """

    def __init__(self, warp: float, samples: int):
        self.warp, self.samples = warp, samples
        taps = 1 if warp == 0 else math.ceil(math.log(_FORGOTTEN) / math.log(abs(warp)))
        self.size = max(64, min(taps, samples))
        self.start, self.end = self.size, self.size + samples - 1
        powers = torch.tensor(warp, dtype=torch.float64) ** torch.arange(2 * self.size, dtype=torch.float64)
        response = (1 - warp**2) * powers.roll(1)
        response[0] = -warp
        lag = torch.arange(self.size)[None] - torch.arange(self.size)[:, None]
        self.same = torch.where(lag >= 0, response[lag.clamp_min(0)], 0.0)
        reach = min(taps, self.size)  # of the block before, only so many samples are still heard, and only so far
        self.before = response[lag + self.size][-reach:, :reach].contiguous()
        self.decay = powers[2 : 2 + taps]

    def laid_out(self, x: Tensor) -> Tensor:
        """Rows between a block of zeros and what fills the last block."""
        return F.pad(x, (self.size, -x.shape[1] % self.size))

    def __call__(self, b: Tensor, start: int, out: Tensor | None) -> Tensor:
        """``c_t = b_(t-1) - warp b_t + warp c_(t-1)`` behind ``start``, where ``c`` is zero."""
        if self.warp == 0.0:
            c = torch.empty_like(b) if out is None else out
            c[:, 1:] = b[:, :-1]
        else:
            blocks = b.reshape(-1, self.size)
            same, before = self.same.to(b.device), self.before.to(b.device)
            made = torch.mm(blocks, same, out=None if out is None else out.view(blocks.shape))
            reach = len(before)
            made[1:, :reach].addmm_(blocks[:-1, -reach:], before)
            c = made.view(b.shape)
            # the filter has heard nothing before the second sample
            begun = c[:, start + 1 : start + 1 + len(self.decay)]
            begun += b[:, start : start + 1] * self.decay[: begun.shape[1]].to(b.device)
        c[:, : start + 1] = 0.0
        c[:, self.end + 1 :] = 0.0
        return c


def step_up(reflection: Float[Tensor, "*signals order"]) -> Float[Tensor, "*signals order"]:
    """Coefficients from reflection coefficients (Levinson): ``a <- a + k reverse(a)``."""
    a = reflection.new_ones(*reflection.shape[:-1], 1)
    nothing = torch.zeros_like(a)
    for k in reflection.unbind(-1):
        longer = torch.cat((a, nothing), -1)
        a = longer + k[..., None] * longer.flip(-1)
    return a[..., 1:]


def warped(coefficients: Float[Tensor, "*signals order"], warp: float) -> Float[Tensor, "*signals order"]:
    """The model whose poles are ``(p - warp) / (1 - warp p)``: what an unwarped one is on the warped axis.

    By the polynomial itself, ``sum_i a_i (z^-1 + w)^i (1 + w z^-1)^(p-i)``: one small matrix for all signals, and no
    roots, which lose digits close to the unit circle.
    """
    order = coefficients.shape[-1]
    rows = [[1.0]]
    for _ in range(order):  # (1 + w z)^order, then one factor after another exchanged
        rows = [_times(rows[0], (1.0, warp)), *(_times(row, (warp, 1.0)) for row in rows)]
    matrix = torch.tensor(rows, dtype=torch.float64, device=coefficients.device)
    full = torch.cat((torch.ones_like(coefficients[..., :1]), coefficients), -1).double() @ matrix
    return (full[..., 1:] / full[..., :1]).to(coefficients.dtype)


def unwarped(coefficients: Float[Tensor, "*signals order"], warp: float) -> Float[Tensor, "*signals order"]:
    """The reverse of :func:`warped`: a warped model's poles on the ordinary frequency axis."""
    return warped(coefficients, -warp)


def poles(coefficients: Float[Tensor, "*signals order"]) -> Complex[Tensor, "*signals order"]:
    """Roots of ``z^p + a_1 z^(p-1) + ... + a_p``; of a model by :func:`burg` all are inside the unit circle."""
    order = coefficients.shape[-1]
    companion = torch.zeros(*coefficients.shape, order, dtype=torch.float64, device=coefficients.device)
    companion[..., 0, :] = -coefficients
    companion[..., 1:, :-1] = torch.eye(order - 1, dtype=torch.float64, device=coefficients.device)
    return torch.linalg.eigvals(companion)


def cepstrum(
    coefficients: Float[Tensor, "*signals order"], error: Float[Tensor, "*signals"], count: int | None = None
) -> Float[Tensor, "*signals count"]:
    """``c_0 = ln E`` and ``c_n = -a_n - sum_(m<n) (1 - m / n) a_m c_(n-m)``: the model's log spectrum as a series.

    Args:
        coefficients, error: the model.
        count: terms with ``c_0``; ``order + 1`` when None.
    """
    order = coefficients.shape[-1]
    terms = [error.clamp_min(_TINY).log()]
    for n in range(1, order + 1 if count is None else count):
        term = -coefficients[..., n - 1] if n <= order else torch.zeros_like(error)
        for m in range(1, min(n, order + 1)):
            term = term - (1 - m / n) * coefficients[..., m - 1] * terms[n - m]
        terms.append(term)
    return torch.stack(terms, -1)


def from_cepstrum(
    terms: Float[Tensor, "*signals count"], order: int
) -> tuple[Float[Tensor, "*signals order"], Float[Tensor, "*signals"]]:
    """Coefficients and error of the model with a cepstrum of at least ``order + 1`` terms."""
    if terms.shape[-1] <= order:
        raise InputError(f"order {order} needs {order + 1} cepstral terms, got {terms.shape[-1]}")
    found: list[Tensor] = []
    for n in range(1, order + 1):
        value = -terms[..., n]
        for m in range(1, n):
            value = value - (1 - m / n) * found[m - 1] * terms[..., n - m]
        found.append(value)
    return torch.stack(found, -1), terms[..., 0].exp()


def power_spectrum(
    coefficients: Float[Tensor, "*signals order"],
    error: Float[Tensor, "*signals"],
    frequencies: Float[Tensor, " bins"],
    sfreq: float,
    warp: float = 0.0,
) -> Float[Tensor, "*signals bins"]:
    """One-sided power density of a model, ``2 E / (sfreq |A|^2)``, in the signal's unit squared per hertz.

    A warped model is read at the warped frequencies, times their density ``dv / dw``, so that the area stays the power.

    Args:
        coefficients, error: the model, as :func:`burg` gave it.
        frequencies: hertz, from 0 to ``sfreq / 2``.
        sfreq: samples a second.
        warp: that of the model.
    """
    angles = frequencies.double() * (2 * math.pi / sfreq)
    turned = angles + 2 * torch.atan2(warp * angles.sin(), 1 - warp * angles.cos())
    density = (1 - warp**2) / (1 - 2 * warp * angles.cos() + warp**2)
    steps = torch.arange(1, coefficients.shape[-1] + 1, dtype=torch.float64, device=angles.device)
    waves = torch.polar(torch.ones_like(turned[:, None] * steps), -turned[:, None] * steps)
    response = 1 + torch.einsum("...p,wp->...w", coefficients.to(waves.dtype), waves)
    return 2 / sfreq * error[..., None] * density / response.abs().square().clamp_min(_TINY)


def _times(polynomial: list[float], factor: tuple[float, float]) -> list[float]:
    """A polynomial times ``factor[0] + factor[1] z``."""
    longer = [*polynomial, 0.0]
    return [factor[0] * a + factor[1] * b for a, b in zip(longer, [0.0, *polynomial], strict=True)]
