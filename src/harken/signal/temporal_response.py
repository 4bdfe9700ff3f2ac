"""Temporal response functions: ridge regression from lagged signals, every regularization by one eigendecomposition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError
from harken.signal.correlation import correlation

Direction = Literal["forward", "backward"]
_LARGEST = 20_000  # columns: their matrix is a square


@dataclass(frozen=True)
class TemporalResponse:
    """A linear filter with several inputs and outputs: ``y_t = bias + sum_l weights[:, l] . x_{t - lag_l} / sfreq``.

    Attributes:
        weights: ``(inputs, lags, outputs)``, per second, so that they do not depend on the rate.
        bias: ``(outputs,)``, likewise.
        lags: in samples; a positive one takes what came before, and signals are zero outside.
        sfreq: samples a second.
        regularization: what they were fitted with.
    """

    weights: Float[Tensor, "inputs lags outputs"]
    bias: Float[Tensor, " outputs"]
    lags: tuple[int, ...]
    sfreq: float
    regularization: float

    @property
    def seconds(self) -> Float[Tensor, " lags"]:
        """The lags in seconds."""
        return torch.tensor(self.lags, dtype=torch.float64) / self.sfreq

    def predict(self, x: Float[Tensor, "*batch time inputs"]) -> Float[Tensor, "*batch time outputs"]:
        """The outputs that inputs make."""
        columns = lagged(x.double(), self.lags)
        flat = self.weights.double().transpose(0, 1).flatten(0, 1)
        return ((self.bias.double() + columns @ flat) / self.sfreq).to(x.dtype)


def lag_range(tmin: float, tmax: float, sfreq: float, direction: Direction = "forward") -> tuple[int, ...]:
    """Lags in samples that cover ``tmin`` to ``tmax`` seconds after the stimulus; backward ones are mirrored.

    Raises:
        InputError: the range is empty.

    >>> lag_range(0.0, 0.05, 64.0)
    (0, 1, 2, 3, 4)
    """
    if not (math.isfinite(tmin) and math.isfinite(tmax) and tmin < tmax and 0 < sfreq < math.inf):
        raise InputError(f"expected tmin below tmax and a rate above 0, got {tmin} to {tmax} s at {sfreq} Hz")
    if direction == "backward":
        tmin, tmax = -tmax, -tmin
    # a hair's breadth, so that 0.3 s at 10 Hz is three samples and not four
    first, last = math.floor(tmin * sfreq + 1e-9), math.ceil(tmax * sfreq - 1e-9)
    return tuple(range(first, last + 1))


def lagged(x: Float[Tensor, "*batch time inputs"], lags: Sequence[int]) -> Float[Tensor, "*batch time columns"]:
    """Copies of signals, one a lag beside one another, each lag with all inputs; zeros come in from outside.

    >>> lagged(torch.tensor([[1.0], [2.0], [3.0]]), (0, 1))
    tensor([[1., 0.],
            [2., 1.],
            [3., 2.]])
    """
    time = x.shape[-2]
    before, after = max(0, *lags), max(0, *(-lag for lag in lags))
    padded = torch.nn.functional.pad(x, (0, 0, before, after))
    return torch.cat([padded[..., before - lag : before - lag + time, :] for lag in lags], -1)


@dataclass(frozen=True)
class Moments:
    """What a fit needs of some trials: means of ``X'X`` and ``X'y`` with ``X = [1, lagged inputs]``. They add up.

    Attributes:
        gram: ``(columns, columns)``; cross: ``(columns, outputs)``; both summed over trials.
        trials: how many.
    """

    gram: Float[Tensor, "columns columns"]
    cross: Float[Tensor, "columns outputs"]
    trials: int

    @classmethod
    def of(
        cls, x: Float[Tensor, "trials time inputs"], y: Float[Tensor, "trials time outputs"], lags: Sequence[int]
    ) -> Moments:
        """Of trials, one after the other, so that memory holds one trial's lagged copies."""
        count = 1 + len(lags) * x.shape[-1]
        if count > _LARGEST:
            raise InputError(f"{len(lags)} lags of {x.shape[-1]} inputs are too many: lower the rate, or pick channels")
        gram = x.new_zeros((count, count), dtype=torch.float64)
        cross = x.new_zeros((count, y.shape[-1]), dtype=torch.float64)
        for inputs, outputs in zip(x.double(), y.double(), strict=True):
            columns = torch.nn.functional.pad(lagged(inputs, lags), (1, 0), value=1.0)
            gram += columns.mT @ columns
            cross += columns.mT @ outputs
        return cls(gram, cross, len(x))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.cross + other.cross, self.trials + other.trials)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.gram - other.gram, self.cross - other.cross, self.trials - other.trials)


def ridge_path(
    moments: Moments, regularization: Sequence[float], sfreq: float
) -> Float[Tensor, "regularizations columns outputs"]:
    """Weights for every regularization: ``sfreq (G + r sfreq diag(0, 1, ..., 1))^-1 c``, G and c means over trials.

    The first column is not penalised and is taken out of the others (its Schur complement); what is left is
    ``Q diag(e) Q'``, and each regularization costs one scaling by ``1 / (e + r sfreq)``.

    Raises:
        InputError: no regularization, or one that is negative.
    """
    _check_regularization(regularization)
    gram, cross = moments.gram / moments.trials, moments.cross / moments.trials
    one, shared, first = gram[0, 0], gram[0, 1:], cross[:1]
    inner = gram[1:, 1:] - torch.outer(shared, shared) / one
    target = cross[1:] - shared[:, None] * first / one
    values, vectors = torch.linalg.eigh(inner)
    # what the data do not span has an eigenvalue of rounding errors, of either sign
    floor = values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    turned = vectors.mT @ target
    scale = values.new_tensor(list(regularization))[:, None] * sfreq + values.clamp_min(0)
    inverse = torch.where(scale > floor, 1 / scale.clamp_min(torch.finfo(values.dtype).tiny), 0.0)
    weights = vectors @ (inverse[..., None] * turned)
    bias = (first - (shared @ weights)[:, None]) / one
    return sfreq * torch.cat((bias, weights), 1)


def _ridge_path_reference(moments: Moments, regularization: Sequence[float], sfreq: float) -> Tensor:
    """One solve each."""
    gram, cross = moments.gram / moments.trials, moments.cross / moments.trials
    penalty = torch.ones(len(gram), dtype=gram.dtype)
    penalty[0] = 0
    solved = [torch.linalg.solve(gram + r * sfreq * penalty.diag(), cross) for r in regularization]
    return sfreq * torch.stack(solved)


def fit_temporal_response(
    inputs: Float[Tensor, "trials time inputs"],
    outputs: Float[Tensor, "trials time outputs"],
    sfreq: float,
    tmin: float,
    tmax: float,
    *,
    regularization: float | Sequence[float] = 1.0,
    direction: Direction = "forward",
) -> TemporalResponse | list[TemporalResponse]:
    """Fit one, or one for each of several regularizations.

    Args:
        inputs: stimulus features (forward), or the brain's channels (backward).
        outputs: the brain's channels (forward), or the stimulus features (backward).
        sfreq: samples a second.
        tmin, tmax: seconds by which the brain lags behind the stimulus, in either direction.
        regularization: of ridge regression, in the inputs' squared unit times seconds.
        direction: see above.

    Raises:
        InputError: trials that do not fit one another, no lags, or a negative regularization.

    >>> x = torch.randn(1, 200, 1, generator=torch.Generator().manual_seed(0))
    >>> y = 2 * x + torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
    >>> found = fit_temporal_response(x, y, 1.0, 0.0, 1.0, regularization=0.0)
    >>> found.weights.squeeze().round(decimals=3)
    tensor([2., 1.])
    """
    if inputs.shape[:2] != outputs.shape[:2] or not inputs.numel():
        raise InputError(
            f"inputs have shape {tuple(inputs.shape)}, outputs {tuple(outputs.shape)}: expected equal trials"
        )
    several = [regularization] if isinstance(regularization, (int, float)) else list(regularization)
    lags = lag_range(tmin, tmax, sfreq, direction)
    path = ridge_path(Moments.of(inputs, outputs, lags), several, sfreq)
    made = [
        as_response(w, r, lags, inputs.shape[-1], sfreq) for w, r in zip(path.to(inputs.dtype), several, strict=True)
    ]
    return made[0] if isinstance(regularization, (int, float)) else made


def as_response(
    weights: Float[Tensor, "columns outputs"], regularization: float, lags: Sequence[int], inputs: int, sfreq: float
) -> TemporalResponse:
    """A row of :func:`ridge_path` as a filter."""
    shaped = weights[1:].unflatten(0, (len(lags), inputs)).transpose(0, 1)
    return TemporalResponse(shaped.contiguous(), weights[0], tuple(lags), sfreq, float(regularization))


def leave_one_out(
    inputs: Float[Tensor, "trials time inputs"],
    outputs: Float[Tensor, "trials time outputs"],
    sfreq: float,
    lags: Sequence[int],
    regularization: Sequence[float],
    folds: int | None = None,
) -> Float[Tensor, "trials regularizations outputs"]:
    """Correlation of prediction and truth for each trial and regularization, fitted on other trials.

    Moments are computed once; what a fold is fitted on is their sum less its own, and one eigendecomposition.

    Args:
        inputs, outputs, sfreq, lags, regularization: as above.
        folds: into how many stretches of whole trials they are cut; one trial each when None.

    Raises:
        InputError: fewer than two trials.
    """
    if len(inputs) < 2:
        raise InputError("choosing a regularization needs two trials or more: give one regularization, or more trials")
    count = min(len(inputs), folds or len(inputs))
    left_out = list(zip(inputs.double().tensor_split(count), outputs.double().tensor_split(count), strict=True))
    parts = [Moments.of(x, y, lags) for x, y in left_out]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    found = []
    for (inside, outside), part in zip(left_out, parts, strict=True):
        path = ridge_path(total - part, regularization, sfreq)
        flat = path.transpose(0, 1).flatten(1)
        for x, y in zip(inside, outside, strict=True):
            columns = torch.nn.functional.pad(lagged(x, lags), (1, 0), value=1.0)
            made = (columns @ flat).unflatten(-1, path.shape[::2])
            found.append(correlation(made, y[:, None].expand_as(made), dim=0))
    return torch.stack(found)


def _check_regularization(regularization: Sequence[float]) -> None:
    if not len(regularization) or not all(0 <= value < math.inf for value in regularization):
        raise InputError(f"expected regularizations of at least 0, got {list(regularization)[:5]}")
