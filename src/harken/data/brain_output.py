"""Brain recordings written to files, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from harken.data.brain import Recording, require_mne
from harken.errors import MissingExtraError, OutputError
from harken.whole_files import whole_file


def write_recording(recording: Recording, path: str | os.PathLike[str]) -> None:
    """As ``.npz`` (volts), MNE's ``.fif`` or ``.edf``, by the extension; whole or not at all.

    Raises:
        OutputError: another extension, or it cannot be written.
        MissingExtraError: MNE (or, for EDF, edfio) is needed and not installed.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".fif", ".edf"):
        raise OutputError(f"cannot write '{path}': expected a name that ends in .npz, .fif or .edf")
    try:
        with whole_file(path) as partial:
            if path.suffix == ".npz":
                with partial.open("wb") as file:
                    np.savez_compressed(
                        file,
                        data=recording.data,
                        sfreq=np.float64(recording.sfreq),
                        ch_names=np.array(recording.ch_names),
                        events=recording.events,
                        unit=np.array("V"),
                    )
            else:
                _write_by_mne(recording, partial, path.suffix)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from None


def _write_by_mne(recording: Recording, partial: Path, suffix: str) -> None:
    mne = require_mne()
    info = mne.create_info(list(recording.ch_names), recording.sfreq, "eeg", verbose="error")
    raw = mne.io.RawArray(recording.data.astype(np.float64), info, verbose="error")
    if recording.positions is not None and np.isfinite(recording.positions).all():
        places = dict(zip(recording.ch_names, recording.positions, strict=True))
        raw.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="error")
    names = [recording.event_names.get(int(code), str(code)) for _, code in recording.events]
    raw.set_annotations(mne.Annotations(recording.events[:, 0] / recording.sfreq, 0.0, names), verbose="error")
    # MNE looks at the name's end
    named = partial.with_name(f"{partial.name}_raw{suffix}")
    try:
        if suffix == ".fif":
            raw.save(named, verbose="error")
        else:
            try:
                raw.export(named, verbose="error")
            except (ImportError, RuntimeError) as error:
                if "edfio" not in str(error):
                    raise
                raise MissingExtraError("edfio", extra="brain") from None
        named.replace(partial)
    finally:
        named.unlink(missing_ok=True)
