"""Impulse responses: SOFA there and back, CIPIC's grid, and what is said to files that are none."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harken.data.hrtf import (
    CIPIC_LATERAL,
    CIPIC_POLAR,
    HRIRs,
    angles_between,
    cipic_directions,
    equiangular_grid,
    find_listeners,
    magnitudes,
    read_cipic,
    read_hrirs,
    read_sofa,
    sphere_grid,
    spread_directions,
    unit,
    write_sofa,
)
from harken.errors import InputError, OutputError
from tests.listeners import GRID, listener

pytest.importorskip("sofar")


def saved(path, **changes):
    """A SOFA file, with entries of one's own: ``Data_IR`` is the variable, ``SourcePosition__Type`` its attribute."""
    from netCDF4 import Dataset

    write_sofa(path, listener(0))
    if not changes:
        return path
    with Dataset(path) as good:
        kept = {name: (variable[:], variable.__dict__) for name, variable in good.variables.items()}
        general = {**good.__dict__, **{k[7:]: v for k, v in changes.items() if k.startswith("GLOBAL_")}}
    with Dataset(path, "w") as file:
        file.setncatts(general)
        for name, (values, attributes) in kept.items():
            own = {k.split("__")[1]: v for k, v in changes.items() if k.startswith(f"{name}__")}
            values = np.asarray(changes.get(name.replace(".", "_"), values), np.float64)
            for size in values.shape:
                if f"D{size}" not in file.dimensions:
                    file.createDimension(f"D{size}", size)
            made = file.createVariable(name, "f8", [f"D{size}" for size in values.shape])
            made.setncatts({**attributes, **own})
            made[...] = values
    return path


def test_sofa_there_and_back_is_the_same(tmp_path):
    one = replace(listener(1), notices={"License": "CC0", "DatabaseName": "made up"}, distance=1.5)
    write_sofa(tmp_path / "one.sofa", one, comment="a test")
    again = read_sofa(tmp_path / "one.sofa")
    np.testing.assert_allclose(again.responses, one.responses, atol=1e-7)
    np.testing.assert_allclose(angles_between(again.directions, one.directions).diagonal(), 0, atol=1e-6)
    assert (again.rate, again.distance, again.notices["License"]) == (one.rate, 1.5, "CC0")
    assert [path.name for path in tmp_path.iterdir()] == ["one.sofa"]


def test_sources_in_metres_and_delays_kept_apart_are_understood(tmp_path):
    one = listener(0)
    path = saved(
        tmp_path / "one.sofa",
        SourcePosition=1.2 * unit(one.directions),
        SourcePosition__Type="cartesian",
        SourcePosition__Units="metre",
        Data_Delay=np.array([[3.0, 5.0]]),
    )
    again = read_sofa(path)
    np.testing.assert_allclose(angles_between(again.directions, one.directions).diagonal(), 0, atol=1e-5)
    np.testing.assert_allclose(again.responses[:, 0, 3:-2], one.responses[:, 0], atol=1e-7)
    np.testing.assert_allclose(again.responses[:, 1, 5:], one.responses[:, 1], atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Data_IR": np.ones((len(GRID), 1, 8))}, "2 receivers"),
        ({"Data_IR": np.full((len(GRID), 2, 8), np.nan)}, "NaN"),
        ({"Data_IR": np.zeros((len(GRID), 2, 8))}, "silent"),
        ({"GLOBAL_SOFAConventions": "SimpleFreeFieldHRTF"}, "SimpleFreeFieldHRIR is expected"),
        ({"Data_SamplingRate": [-5.0]}, "1 to 768 kHz"),
        ({"SourcePosition": np.zeros((3, 3))}, "source positions"),
        ({"SourcePosition": np.tile([0.0, 120.0, 1.0], (len(GRID), 1))}, "beyond 90"),
        ({"Data_Delay": np.full((1, 2), 1e9)}, "delays"),
    ],
)
def test_sofa_files_that_are_no_listener_are_named_in_one_line(tmp_path, changes, message):
    path = saved(tmp_path / "odd.sofa", **changes)
    with pytest.raises(InputError, match=message) as caught:
        read_sofa(path)
    assert "odd.sofa" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_sofa_at_all(tmp_path):
    whole = saved(tmp_path / "one.sofa").read_bytes()
    for name, content in {"text": b"hello", "empty": b"", "cut": whole[: len(whole) // 2], "head": whole[:8]}.items():
        (tmp_path / f"{name}.sofa").write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.sofa"):
            read_sofa(tmp_path / f"{name}.sofa")
    with pytest.raises(InputError, match="no file"):
        read_hrirs(tmp_path / "absent.sofa")


def test_a_small_file_that_announces_terabytes_is_refused(tmp_path):
    from netCDF4 import Dataset

    with Dataset(tmp_path / "bomb.sofa", "w") as file:
        file.createDimension("M", 10**7)
        file.createDimension("N", 10**6)
        file.createVariable("Data.IR", "f8", ("M", "N"))
    with pytest.raises(InputError, match="announces"):
        read_sofa(tmp_path / "bomb.sofa")


def test_an_output_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_sofa(tmp_path / "absent" / "one.sofa", listener(0))


def test_cipics_grid_in_azimuth_and_elevation():
    directions = cipic_directions()
    at = {(lateral, polar): i for i, (lateral, polar) in enumerate((a, b) for a in CIPIC_LATERAL for b in CIPIC_POLAR)}
    np.testing.assert_allclose(directions[at[0.0, 0.0]], [0, 0], atol=1e-9)
    np.testing.assert_allclose(directions[at[0.0, 90.0]][1], 90, atol=1e-6)
    np.testing.assert_allclose(directions[at[80.0, 0.0]], [280, 0], atol=1e-9)  # CIPIC's right is positive
    np.testing.assert_allclose(directions[at[-80.0, 180.0]], [100, 0], atol=1e-9)


def test_a_listener_of_cipic(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    folder = tmp_path / "subject_003"
    folder.mkdir()
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 25, 50, 20))
    scipy_io.savemat(folder / "hrir_final.mat", {"hrir_l": left, "hrir_r": right})
    one = read_hrirs(folder)
    assert (one.name, one.rate, one.responses.shape) == ("subject_003", 44100, (1250, 2, 20))
    np.testing.assert_allclose(one.responses[50 * 3 + 7, 1], right[3, 7], rtol=1e-6)
    assert "Regents of the University of California" in one.notices["License"]
    assert find_listeners(tmp_path) == [folder / "hrir_final.mat"]
    scipy_io.savemat(tmp_path / "other.mat", {"hrir_l": left[:3]})
    (tmp_path / "broken.mat").write_bytes(b"x" * 200)
    for name in ("other.mat", "broken.mat"):
        with pytest.raises(InputError, match=name):
            read_cipic(tmp_path / name)


def test_no_listeners(tmp_path):
    with pytest.raises(InputError, match="no listeners"):
        find_listeners(tmp_path)


def test_magnitudes_are_those_of_the_transform_at_any_rate():
    one = listener(0)
    taps = one.responses.shape[-1]
    spectrum = np.abs(np.fft.rfft(one.responses, axis=-1))
    frequencies = np.fft.rfftfreq(taps, 1 / one.rate)
    wanted = 20 * np.log10(spectrum)
    np.testing.assert_allclose(magnitudes(one, frequencies).reshape(wanted.shape), wanted, atol=1e-3)
    assert magnitudes(one, np.array([5000.0, 8000.0, 20000.0]))[:, 2] == pytest.approx(
        magnitudes(one, np.array([8000.0]))[:, 0]
    )


def test_spread_directions_are_far_apart_and_on_the_grid():
    grid = sphere_grid(300)
    chosen = grid[spread_directions(grid, 12)]
    apart = angles_between(chosen, chosen) + 360 * np.eye(12)
    assert apart.min() > 40
    with pytest.raises(InputError, match="cannot be chosen"):
        spread_directions(grid, 301)


def test_an_equiangular_grid_has_each_pole_once():
    grid = equiangular_grid(30.0)
    assert (np.abs(grid[:, 1]) == 90).sum() == 2
    assert len(np.unique(grid, axis=0)) == len(grid) == 12 * 5 + 2
    with pytest.raises(InputError, match="step"):
        equiangular_grid(0.1)


@pytest.mark.parametrize("bad", [{"rate": 0.0}, {"directions": np.zeros((3, 2))}, {"responses": np.ones((1, 3, 4))}])
def test_impossible_sets_are_refused(bad):
    with pytest.raises(InputError):
        replace(listener(0), **bad)


def test_real_files_where_there_are_some():
    root = os.environ.get("HARKEN_HRTF_DATA")
    if not root or not list(Path(root).glob("*.sofa")):
        pytest.skip("HARKEN_HRTF_DATA names no folder of SOFA files")
    for path in Path(root).glob("*.sofa"):
        one = read_hrirs(path)
        assert isinstance(one, HRIRs) and len(one) > 500
