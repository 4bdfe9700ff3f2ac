"""Upsample HRTFs: a listener measured in a few directions in, impulse responses in every direction out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harken import models
from harken.data.hrtf import HRIRs, angles_between, find_listeners, magnitudes, read_hrirs, spread_directions
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.models.enhance.hrtf_baselines import BASELINES, Listeners, Measured
from harken.models.enhance.hrtfformer import HRTFformer, HRTFformerConfig
from harken.score.hrtf import arrival, score_hrtf, time_difference
from harken.signal.interaural_delay import DelayModel, fit_delays
from harken.signal.minimum_phase import delayed, minimum_phase

METHODS = ("hrtfformer", *BASELINES)
OF_A_MODEL = ("training-mean", "mean-harmonics", "kriging")  # what a model's own mean is enough for
OFFSET_DB = 6.0  # from here on, what all directions share is another measurement chain, not a listener
_FFT = 1024  # at least, for responses of minimum phase


@dataclass
class Upsampled:
    """What was made of one listener.

    Attributes:
        hrirs: in the wanted directions.
        method: by which the magnitudes were found.
        measured: how many directions were known.
        delay: how the times between ears were found, in words.
        head_radius_cm: of the sphere among it.
        delay_error_us: root mean square of what that model leaves of the measured times.
        offset_db: what was taken off all measured directions before, and put back after, root mean square; 0 for none.
        scores: with a truth: ``lsd_db``, ``ild_error_db``, ``itd_error_us``, ``neighbour_dissimilarity_db2``.
        notes: what a user should know.
    """

    hrirs: HRIRs
    method: str
    measured: int
    delay: str
    head_radius_cm: float
    delay_error_us: float
    offset_db: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data without the responses."""
        facts = {name: value for name, value in asdict(replace(self, hrirs=None)).items() if name != "hrirs"}  # type: ignore[arg-type]
        return {**facts, "directions": len(self.hrirs), "rate": self.hrirs.rate}


def upsample_hrtf(
    source: str | os.PathLike[str] | HRIRs,
    *,
    method: str = "hrtfformer",
    weights: str | os.PathLike[str] | None = None,
    directions: Float[np.ndarray, "directions 2"] | None = None,
    points: int | None = None,
    training: str | os.PathLike[str] | None = None,
    truth: str | os.PathLike[str] | HRIRs | None = None,
) -> Upsampled:
    """Impulse responses of a listener in many directions, from those in a few.

    Magnitudes are found by ``method``; the responses have them with minimum phase, and the delays of a model of the
    time between ears that is fitted to the measured responses (:func:`harken.signal.interaural_delay.fit_delays`).
    Rate, level and the number of taps stay.

    Args:
        source: a SOFA file (SimpleFreeFieldHRIR), a listener's folder of CIPIC, or responses.
        method: ``"hrtfformer"`` or one of :data:`harken.models.enhance.hrtf_baselines.BASELINES`.
        weights: of the network; None for those that ship. Methods that need no more than the mean of other listeners
            take it from there, too.
        directions: azimuth and elevation, degrees; the grid that the model knows when None.
        points: take only so many measured directions, far from one another.
        training: folder of other listeners, on one grid, for the methods that learn from them.
        truth: the same listener in many directions, to be compared with.

    Raises:
        InputError: a file that cannot be used, a method that does not exist, or one that lacks other listeners.
        CheckpointError: the weights cannot be used.
    """
    return Run.load(method, weights, training=training)(source, directions=directions, points=points, truth=truth)


@dataclass(frozen=True)
class Run:
    """A method, ready for listeners."""

    method: str
    frequencies: Float[np.ndarray, " bins"]
    model: HRTFformer | None
    listeners: Listeners | None

    @classmethod
    def load(
        cls,
        method: str = "hrtfformer",
        weights: str | os.PathLike[str] | None = None,
        *,
        training: str | os.PathLike[str] | None = None,
    ) -> Run:
        """Check the settings and load what the method needs.

        Raises:
            InputError: no such method, weights for a method without, or nothing to learn from.
            CheckpointError: the weights cannot be used.
        """
        if method not in METHODS:
            raise InputError(f"no method '{method}': one of {', '.join(METHODS)}")
        if method == "hrtfformer":
            model = models.load("hrtfformer", None if weights is None else os.fspath(weights))
            return cls(method, model.config.frequencies.numpy(), model, None)
        needs_listeners = BASELINES[method][1]
        if not needs_listeners:
            if weights is not None or training is not None:
                raise InputError(f"'{method}' learns from no one: leave --weights and --training out")
            return cls(method, HRTFformerConfig.small().frequencies.numpy(), None, None)
        if training is not None:
            return cls.learned(method, [read_hrirs(path) for path in find_listeners(training)])
        if method not in OF_A_MODEL:
            raise InputError(f"'{method}' learns from other listeners: name a folder of them with --training")
        model = models.load("hrtfformer", None if weights is None else os.fspath(weights))
        if not model.config.directions:
            raise CapabilityError(f"these weights keep no mean of listeners: name some with --training for '{method}'")
        return cls(method, model.config.frequencies.numpy(), model, None)

    @classmethod
    def learned(cls, method: str, others: Sequence[HRIRs]) -> Run:
        """A method that goes by other listeners, all on one grid."""
        first = others[0].directions
        for one in others:
            if one.directions.shape != first.shape or np.abs(one.directions - first).max() > 0.1:
                raise InputError(
                    f"'{one.name}' was measured in other directions than '{others[0].name}': one grid, please"
                )
        frequencies = HRTFformerConfig.small().frequencies.numpy()
        fields = torch.from_numpy(np.stack([magnitudes(one, frequencies) for one in others]))
        return cls(method, frequencies, None, Listeners(fields, torch.from_numpy(first)))

    @property
    def grid(self) -> Float[np.ndarray, "directions 2"] | None:
        """The directions that the method knows other listeners in."""
        if self.model is not None and self.model.config.directions:
            return self.model.grid.double().numpy()
        return None if self.listeners is None else self.listeners.directions.numpy()

    def __call__(
        self,
        source: str | os.PathLike[str] | HRIRs,
        *,
        directions: Float[np.ndarray, "directions 2"] | None = None,
        points: int | None = None,
        truth: str | os.PathLike[str] | HRIRs | None = None,
    ) -> Upsampled:
        """Upsample one listener; see :func:`upsample_hrtf`."""
        known = source if isinstance(source, HRIRs) else read_hrirs(source)
        compared = truth if truth is None or isinstance(truth, HRIRs) else read_hrirs(truth)
        if points is not None:
            if not 1 <= points <= len(known):
                raise InputError(f"'{known.name}' has {len(known)} directions: {points} of them cannot be taken")
            known = known.pick(spread_directions(known.directions, points))
        wanted = directions if directions is not None else self.grid
        if wanted is None:
            raise InputError(f"'{self.method}' knows no grid: say where to with --grid")
        delays = fit_delays(
            torch.from_numpy(known.directions), torch.from_numpy(time_difference(known.responses, known.rate))
        )
        made, offset = self._made(known, wanted, delays)
        result = Upsampled(
            made,
            self.method,
            len(known),
            delays.method,
            round(100 * delays.radius, 2),
            round(1e6 * delays.error, 1),
            round(offset, 2),
        )
        if offset:
            result.notes.append(
                f"all directions differ from other listeners by {offset:.1f} dB: taken off before, put back after"
            )
        if compared is not None:
            result.scores = self._scored(known, compared, delays)
        return result

    def _made(self, known: HRIRs, wanted: np.ndarray, delays: DelayModel) -> tuple[HRIRs, float]:
        """Responses in the wanted directions, and the offset that was taken off."""
        untrained = self.model is None and self.listeners is None
        taps = known.responses.shape[-1]
        size = max(_FFT, 4 * taps)
        fine = np.arange(size // 2 + 1) * known.rate / size
        # what learns from no one may as well look at every frequency
        frequencies = np.linspace(0, known.rate / 2, max(129, taps // 2 + 1)) if untrained else self.frequencies
        field, offset = self._field(known, wanted, frequencies)
        ears = field.reshape(len(wanted), 2, -1).double().numpy()
        gains = np.stack([[np.interp(fine, frequencies, ear) for ear in one] for one in ears])
        responses = minimum_phase(torch.from_numpy(10 ** (gains / 20)), taps)
        times = delays.at(torch.from_numpy(wanted)).numpy()
        # not before the beginning: what is cut off an earlier ear would be cut off the time between them
        middle = max(float(np.median(arrival(known.responses, known.rate))), float(np.abs(times).max()) / 2)
        arrivals = np.stack((middle - times / 2, middle + times / 2), -1)
        moved = delayed(responses, torch.from_numpy(arrivals * known.rate))
        made = replace(known, responses=moved.float().numpy(), directions=np.asarray(wanted, np.float64))
        return made, offset

    def _field(self, known: HRIRs, wanted: np.ndarray, frequencies: np.ndarray) -> tuple[Tensor, float]:
        """Magnitudes in dB in the wanted directions."""
        measured = torch.from_numpy(magnitudes(known, frequencies))
        at, to = torch.from_numpy(known.directions), torch.from_numpy(np.asarray(wanted, np.float64))
        shift = torch.zeros(measured.shape[-1])
        size = 0.0
        mean = self._mean(at)
        if mean is not None:
            common = (measured - mean).mean(0).view(2, -1).mean(0)
            size = float(common.square().mean().sqrt())
            if size > OFFSET_DB:
                shift = common.repeat(2)
            else:
                size = 0.0
        with torch.inference_mode():
            made = self._predicted(Measured(measured - shift, at, to))
        if not bool(torch.isfinite(made).all()):
            raise CheckpointError(f"the model answered '{known.name}' with NaN: its weights are damaged")
        return made + shift, size

    def _mean(self, directions: Tensor) -> Tensor | None:
        if self.model is not None and self.model.config.directions:
            return self.model.mean_field(directions)
        return None if self.listeners is None else self.listeners.at(self.listeners.mean_field, directions)

    def _predicted(self, new: Measured) -> Tensor:
        if self.method == "hrtfformer":
            assert self.model is not None
            return self.model.predict(new.magnitudes[None], new.directions, new.wanted)[0]
        listeners = self.listeners
        if listeners is None and self.model is not None:
            listeners = Listeners(self.model.mean[None], self.model.grid.double(), penalty=self.model.penalty)
        return BASELINES[self.method][0](new, listeners)

    def _scored(self, known: HRIRs, truth: HRIRs, delays: DelayModel) -> dict[str, float]:
        """What the whole way, responses included, makes of the truth's directions."""
        made, _ = self._made(known, truth.directions, delays)
        frequencies = self.frequencies[self.frequencies < min(known.rate, truth.rate) / 2]
        return _distances(made, truth, frequencies)


def score_hrtfs(
    estimate: str | os.PathLike[str] | HRIRs, reference: str | os.PathLike[str] | HRIRs
) -> dict[str, float]:
    """Distances between two sets of responses in the directions that both have.

    Returns:
        ``directions``, ``lsd_db``, ``ild_error_db``, ``itd_error_us``, ``neighbour_dissimilarity_db2``.

    Raises:
        InputError: a file that cannot be used, or no direction in common.
    """
    one, other = (part if isinstance(part, HRIRs) else read_hrirs(part) for part in (estimate, reference))
    angles = angles_between(other.directions, one.directions)
    both = angles.min(-1) < 0.5
    if not both.any():
        raise InputError(f"'{one.name}' and '{other.name}' have no direction in common (within half a degree)")
    matched, wanted = one.pick(angles.argmin(-1)[both]), other.pick(np.flatnonzero(both))
    frequencies = HRTFformerConfig.small().frequencies.numpy()
    frequencies = frequencies[frequencies < min(one.rate, other.rate) / 2]
    return {"directions": int(both.sum()), **_distances(matched, wanted, frequencies)}


def _distances(made: HRIRs, truth: HRIRs, frequencies: Float[np.ndarray, " bins"]) -> dict[str, float]:
    """Scores of responses in one and the same directions."""
    estimate, reference = (torch.from_numpy(magnitudes(one, frequencies)) for one in (made, truth))
    scores = score_hrtf(estimate, reference, torch.from_numpy(truth.directions))
    times = time_difference(made.responses, made.rate) - time_difference(truth.responses, truth.rate)
    scores["itd_error_us"] = float(np.abs(times).mean() * 1e6)
    return {name: round(value, 3) for name, value in scores.items()}


def find_sets(sources: Sequence[str | os.PathLike[str]]) -> list[tuple[Path, Path]]:
    """Files as they are named and every listener of the folders, each with the path that its result keeps."""
    found: list[tuple[Path, Path]] = []
    for source in sources:
        if not os.fspath(source):
            raise InputError("an input's name is empty: name a SOFA file or a folder")
        path = Path(source)
        if path.is_dir() and not (path / "hrir_final.mat").is_file():
            for one in find_listeners(path):
                kept = one.relative_to(path)
                found.append((one, kept.parent if one.name == "hrir_final.mat" and kept.parent.name else kept))
        else:
            found.append((path, Path(path.name)))
    if not found:
        raise InputError("nothing to do: name a SOFA file or a folder")
    return found
