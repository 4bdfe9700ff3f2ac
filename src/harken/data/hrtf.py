"""Head-related impulse responses: SOFA files in and out, CIPIC's MATLAB files, grids, magnitudes."""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from harken.errors import HarkenError, InputError, MissingExtraError, OutputError
from harken.whole_files import whole_file

MAX_DIRECTIONS, MAX_TAPS, MAX_BYTES = 100_000, 65536, 1 << 30
CONVENTION = "SimpleFreeFieldHRIR"
FLOOR_DB = -120.0  # below the loudest bin of a response: what silence is


@dataclass(frozen=True)
class HRIRs:
    """The impulse responses of one listener.

    Attributes:
        responses: left and right ear, ``(directions, 2, taps)``, float32.
        directions: azimuth (counter-clockwise from the front, 0 to 360) and elevation, degrees, ``(directions, 2)``.
        rate: samples per second.
        distance: of the sources, metres.
        name: of the listener.
        notices: copyright, licence and origin, as a SOFA file's global attributes.
    """

    responses: Float[np.ndarray, "directions 2 taps"]
    directions: Float[np.ndarray, "directions 2"]
    rate: float
    distance: float = 1.2
    name: str = ""
    notices: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.responses.ndim != 3 or self.responses.shape[1] != 2 or self.directions.shape[1:] != (2,):
            raise InputError(
                f"expected responses (directions, 2 ears, taps), got {self.responses.shape} "
                f"with directions {self.directions.shape}"
            )
        if len(self.responses) != len(self.directions):
            raise InputError(f"{len(self.responses)} responses have {len(self.directions)} directions")
        if not len(self.responses) or not self.responses.shape[-1]:
            raise InputError("the set of responses is empty")
        if not (1000 <= self.rate <= 768_000):
            raise InputError(f"a sampling rate of 1 to 768 kHz is expected, got {self.rate:g} Hz")
        for name in ("responses", "directions"):
            if not np.isfinite(getattr(self, name)).all():
                raise InputError(f"the {name} hold NaN or infinite values: the file is damaged")
        silent = ~(np.abs(self.responses).max(-1) > 0)
        if silent.any():
            where = int(np.flatnonzero(silent.any(1))[0])
            raise InputError(f"the response of direction {where} is silent at one ear: leave that direction out")

    def __len__(self) -> int:
        return len(self.responses)

    def pick(self, index: Int[np.ndarray, " chosen"]) -> HRIRs:
        """Only some directions."""
        return replace(self, responses=self.responses[index], directions=self.directions[index])


def magnitudes(hrirs: HRIRs, frequencies: Float[np.ndarray, " bins"]) -> Float[np.ndarray, "directions values"]:
    """Magnitudes in dB at any frequencies, the left ear's before the right ear's; whatever the rate, nothing resampled.

    Frequencies above half the rate take the value there. Silence is 120 dB below the loudest bin.

    >>> click = HRIRs(np.ones((1, 2, 1), np.float32), np.zeros((1, 2)), 48000)
    >>> magnitudes(click, np.array([1000.0, 2000.0])).round(3).tolist()
    [[0.0, 0.0, 0.0, 0.0]]
    """
    taps = np.arange(hrirs.responses.shape[-1])
    radians = 2 * np.pi * np.minimum(frequencies, hrirs.rate / 2) / hrirs.rate
    waves = np.exp(-1j * taps[:, None] * radians)
    spectrum = np.concatenate(
        [np.abs(part.astype(np.float64) @ waves) for part in np.array_split(hrirs.responses, -(-len(hrirs) // 512))]
    )
    floor = spectrum.max() * 10 ** (FLOOR_DB / 20)
    return (20 * np.log10(np.maximum(spectrum, floor))).reshape(len(hrirs), -1).astype(np.float32)


def read_hrirs(path: str | os.PathLike[str]) -> HRIRs:
    """One listener: a SOFA file, or a ``hrir_final.mat`` of the CIPIC database (or the folder that holds it).

    Raises:
        InputError: no such file, or not one of these.
        MissingExtraError: the package for it is not installed.
    """
    path = Path(path)
    if path.is_dir() and (path / "hrir_final.mat").is_file():
        path = path / "hrir_final.mat"
    if not path.is_file():
        raise InputError(f"no file '{path}': a SOFA file is expected, or a listener's folder of CIPIC")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"'{path}' is larger than {MAX_BYTES >> 30} GiB: not the responses of one listener")
    return read_cipic(path) if path.suffix == ".mat" else read_sofa(path)


def read_sofa(path: str | os.PathLike[str]) -> HRIRs:
    """A SOFA file of the convention SimpleFreeFieldHRIR, with sources in degrees or metres and two receivers.

    Delays that the file keeps apart from its responses are put back, as whole samples.

    Raises:
        InputError: not a SOFA file, damaged, of another convention, not two receivers, NaN, or too large.
        MissingExtraError: sofar is not installed.
    """
    sofa = _open_sofa(Path(path))
    try:
        convention = str(sofa.GLOBAL_SOFAConventions)
        if convention != CONVENTION:
            raise InputError(f"'{path}' is of the convention {convention[:60]}: {CONVENTION} is expected")
        responses = np.asarray(sofa.Data_IR)
        if responses.ndim != 3 or responses.shape[1] != 2:
            raise InputError(f"'{path}' has responses {responses.shape}: (directions, 2 receivers, taps) is expected")
        if responses.shape[0] > MAX_DIRECTIONS or responses.shape[2] > MAX_TAPS:
            raise InputError(f"'{path}' has responses {responses.shape}: too many for one listener")
        rates = np.unique(np.asarray(sofa.Data_SamplingRate, np.float64))
        if len(rates) != 1:
            raise InputError(f"'{path}' has {len(rates)} sampling rates: one is expected")
        directions, distance = _directions(sofa, len(responses), path)
        delayed = _delayed(responses.astype(np.float32), np.asarray(sofa.Data_Delay, np.float64), path)
        notices = {
            name: str(getattr(sofa, f"GLOBAL_{name}", "") or "")
            for name in ("License", "Organization", "AuthorContact", "References", "DatabaseName", "ListenerShortName")
        }
        name = notices["ListenerShortName"] or Path(path).stem
        return HRIRs(delayed, directions, float(rates[0]), distance, name, notices)
    except HarkenError as error:
        text = str(error)
        raise InputError(text if str(path) in text else f"'{path}': {text}") from None
    except (AttributeError, TypeError, ValueError, IndexError, MemoryError) as error:
        raise InputError(f"'{path}' is not a usable SOFA file: {_first_line(error)}") from None


def _open_sofa(path: Path) -> Any:
    try:
        import sofar
    except ImportError:
        raise MissingExtraError("sofar", extra="spatial") from None
    with path.open("rb") as file:
        magic = file.read(8)
    if magic != b"\x89HDF\r\n\x1a\n":
        raise InputError(f"'{path}' is not a SOFA file (no HDF5 at its beginning)")
    _check_announced(path)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return sofar.read_sofa(str(path), verify=False, verbose=False)
    except Exception as error:  # netCDF's and sofar's readers raise anything at all on damaged files
        raise InputError(f"'{path}' is not a readable SOFA file, truncated or damaged: {_first_line(error)}") from None


def _check_announced(path: Path) -> None:
    """What the file says that it holds, before any of it is read: a small file can announce terabytes."""
    from netCDF4 import Dataset

    try:
        with Dataset(str(path), "r") as file:
            sizes = {name: math.prod(variable.shape) for name, variable in file.variables.items()}
    except Exception as error:
        raise InputError(f"'{path}' is not a readable SOFA file, truncated or damaged: {_first_line(error)}") from None
    for name, size in sizes.items():
        if size * 8 > MAX_BYTES:
            raise InputError(f"'{path}' announces {size} values of {name[:40]}: too many for one listener")


def _directions(sofa: Any, count: int, path: Any) -> tuple[np.ndarray, float]:
    places = np.atleast_2d(np.asarray(sofa.SourcePosition, np.float64))
    if places.shape != (count, 3):
        raise InputError(f"'{path}' has source positions {places.shape} for {count} responses")
    if str(sofa.SourcePosition_Type).lower() == "cartesian":
        distance = np.linalg.norm(places, axis=-1)
        if not (distance > 0).all():
            raise InputError(f"'{path}' has a source in the middle of the head")
        azimuth = np.degrees(np.arctan2(places[:, 1], places[:, 0]))
        elevation = np.degrees(np.arcsin(places[:, 2] / distance))
    else:
        azimuth, elevation, distance = places.T
        if (np.abs(elevation) > 90.001).any():
            raise InputError(f"'{path}' has elevations beyond 90 degrees: are its units degrees?")
    return np.stack((azimuth % 360, np.clip(elevation, -90, 90)), -1), float(np.median(distance))


def _delayed(responses: np.ndarray, delay: np.ndarray, path: Any) -> np.ndarray:
    """Responses with the delays, in samples, that were kept apart from them."""
    if not np.any(delay):
        return responses
    try:
        delay = np.broadcast_to(np.atleast_2d(delay), responses.shape[:2])
    except ValueError:
        raise InputError(f"'{path}' has delays {delay.shape} for responses {responses.shape}") from None
    if not np.isfinite(delay).all() or delay.max() > MAX_TAPS or delay.min() < 0:
        raise InputError(f"'{path}' has delays from {delay.min():g} to {delay.max():g} samples")
    whole = np.round(delay).astype(int)
    made = np.zeros((*responses.shape[:2], responses.shape[2] + whole.max()), np.float32)
    index = whole[..., None] + np.arange(responses.shape[2])
    np.put_along_axis(made, index, responses, -1)
    return made


def write_sofa(path: str | os.PathLike[str], hrirs: HRIRs, *, comment: str = "", history: str = "") -> None:
    """Write a SOFA file (SimpleFreeFieldHRIR), whole or not at all.

    Raises:
        OutputError: it cannot be written.
        MissingExtraError: sofar is not installed.
    """
    try:
        import sofar
    except ImportError:
        raise MissingExtraError("sofar", extra="spatial") from None
    sofa = sofar.Sofa(CONVENTION)
    sofa.Data_IR = hrirs.responses.astype(np.float64)
    sofa.Data_SamplingRate = float(hrirs.rate)
    sofa.Data_Delay = np.zeros((1, 2))
    distance = np.full((len(hrirs), 1), hrirs.distance)
    sofa.SourcePosition = np.concatenate((hrirs.directions, distance), -1)
    sofa.ReceiverPosition = np.array([[0, 0.09, 0], [0, -0.09, 0]])
    sofa.GLOBAL_Title = f"HRIRs of {hrirs.name}" if hrirs.name else "HRIRs"
    for name, text in {**hrirs.notices, "Comment": comment, "History": history}.items():
        if text:
            setattr(sofa, f"GLOBAL_{name}", text)
    target = Path(path)
    try:
        with whole_file(target) as partial, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            made = partial.with_name(f"{partial.name}.sofa")  # sofar insists on the extension
            try:
                sofar.write_sofa(str(made), sofa)
                made.replace(partial)
            finally:
                made.unlink(missing_ok=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise OutputError(f"cannot write '{path}': {_first_line(error)}") from None


# CIPIC's grid is interaural-polar: 25 lateral angles (right is positive) by 50 angles around the axis of the ears
CIPIC_LATERAL = np.array([-80.0, -65.0, -55.0, *range(-45, 46, 5), 55.0, 65.0, 80.0])
CIPIC_POLAR = -45 + 5.625 * np.arange(50)
CIPIC_RATE = 44100.0
CIPIC_NOTICE = "Copyright (c) 2001 The Regents of the University of California. All Rights Reserved"


def cipic_directions() -> Float[np.ndarray, "1250 2"]:
    """Azimuth and elevation of CIPIC's grid, degrees, lateral angle by lateral angle."""
    lateral, polar = (part.ravel() for part in np.meshgrid(CIPIC_LATERAL, CIPIC_POLAR, indexing="ij"))
    lateral, polar = np.radians(lateral), np.radians(polar)
    front, left, up = np.cos(lateral) * np.cos(polar), -np.sin(lateral), np.cos(lateral) * np.sin(polar)
    azimuth = np.degrees(np.arctan2(left, front)) % 360
    return np.stack((azimuth, np.degrees(np.arcsin(np.clip(up, -1, 1)))), -1)


def read_cipic(path: str | os.PathLike[str]) -> HRIRs:
    """A listener of the CIPIC database: ``hrir_final.mat``, with ``hrir_l`` and ``hrir_r``.

    Raises:
        InputError: not such a file.
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.io import loadmat, whosmat
    except ImportError:
        raise MissingExtraError("scipy", extra="spatial") from None
    path = Path(path)
    shape = (len(CIPIC_LATERAL), len(CIPIC_POLAR))
    try:
        announced = {name: size for name, size, _ in whosmat(str(path))}
        for name in ("hrir_l", "hrir_r"):
            if announced.get(name, ())[:2] != shape or math.prod(announced[name]) > math.prod(shape) * MAX_TAPS:
                raise InputError(f"'{path}' is not a listener of CIPIC: no {name} of 25 x 50 directions")
        arrays = loadmat(str(path), variable_names=["hrir_l", "hrir_r"])
        ears = [np.asarray(arrays[name], np.float32).reshape(math.prod(shape), -1) for name in ("hrir_l", "hrir_r")]
        responses = np.stack(ears, 1)
    except InputError:
        raise
    except Exception as error:  # scipy's reader raises anything at all on damaged files
        raise InputError(f"'{path}' is not a readable MATLAB file: {_first_line(error)}") from None
    name = path.parent.name if path.stem == "hrir_final" else path.stem
    notices = {"License": CIPIC_NOTICE, "DatabaseName": "CIPIC", "ListenerShortName": name}
    return HRIRs(responses, cipic_directions(), CIPIC_RATE, 1.0, name, notices)


def find_listeners(folder: str | os.PathLike[str]) -> list[Path]:
    """Every listener below a folder, by name: SOFA files, and CIPIC's ``hrir_final.mat``.

    Raises:
        InputError: there is none.
    """
    root = Path(folder)
    found = [root] if root.is_file() else [*root.rglob("*.sofa"), *root.rglob("hrir_final.mat")]
    paths = sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(root).parts))
    if not paths:
        raise InputError(f"no listeners in '{folder}': SOFA files are expected, or CIPIC's hrir_final.mat")
    return paths


def angles_between(one: Float[np.ndarray, "a 2"], other: Float[np.ndarray, "b 2"]) -> Float[np.ndarray, "a b"]:
    """Degrees between all pairs of directions."""
    u, v = unit(one), unit(other)
    # better than the arc cosine where it matters: for directions that are nearly the same
    halves = np.linalg.norm(u[:, None] - v[None], axis=-1) / 2
    return np.degrees(2 * np.arcsin(np.clip(halves, 0, 1)))


def unit(directions: Float[np.ndarray, "directions 2"]) -> Float[np.ndarray, "directions 3"]:
    """Front, left, up, of azimuth and elevation in degrees."""
    azimuth, elevation = np.radians(directions).T
    cosine = np.cos(elevation)
    return np.stack((np.cos(azimuth) * cosine, np.sin(azimuth) * cosine, np.sin(elevation)), -1)


def spread_directions(directions: Float[np.ndarray, "directions 2"], count: int, first: int = 0) -> np.ndarray:
    """Indices of directions far from one another: from ``first`` on, always the one farthest from all before it.

    Raises:
        InputError: more than there are.

    >>> spread_directions(np.array([[0.0, 0.0], [10.0, 0.0], [180.0, 0.0], [90.0, 0.0]]), 3).tolist()
    [0, 2, 3]
    """
    if not 1 <= count <= len(directions):
        raise InputError(f"{count} of {len(directions)} directions cannot be chosen")
    vectors = unit(directions)
    chosen = [first]
    closest = vectors @ vectors[first]
    for _ in range(count - 1):
        chosen.append(int(closest.argmin()))
        closest = np.maximum(closest, vectors @ vectors[chosen[-1]])
    return np.array(chosen)


def sphere_grid(count: int) -> Float[np.ndarray, "directions 2"]:
    """Nearly even directions over the whole sphere, on a spiral (Fibonacci's).

    >>> sphere_grid(100).shape
    (100, 2)
    """
    index = np.arange(count) + 0.5
    return np.stack((np.degrees(index * np.pi * (1 + 5**0.5)) % 360, np.degrees(np.arcsin(1 - 2 * index / count))), -1)


def equiangular_grid(step: float, lowest: float = -90.0) -> Float[np.ndarray, "directions 2"]:
    """Azimuths and elevations in equal steps of degrees, each pole once.

    Raises:
        InputError: a step below 1 or above 45 degrees.

    >>> len(equiangular_grid(45.0))
    26
    """
    if not 1 <= step <= 45:
        raise InputError(f"a step of 1 to 45 degrees is expected, got {step:g}")
    elevations = np.arange(math.ceil(lowest / step), math.floor(90 / step) + 1) * step
    found = []
    for elevation in elevations:
        azimuths = np.zeros(1) if abs(elevation) == 90 else np.arange(0, 360, step)
        found.append(np.stack((azimuths, np.full_like(azimuths, elevation)), -1))
    return np.concatenate(found)


def _first_line(error: BaseException) -> str:
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)
