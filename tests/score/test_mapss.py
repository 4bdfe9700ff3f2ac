from __future__ import annotations

import numpy as np
import pytest
import torch

from harken.errors import InputError
from harken.score._distortion_banks import match_bank, separation_bank
from harken.score._frame_measures import measure_frames
from harken.score._manifold import Cluster, diffusion_map
from harken.score._manifold_uncertainty import schur_terms
from harken.score.mapss import _on_all_cores, active_frames, mapss

SIZES = (12, 10)


def clouds(seed: int = 0, frames: int = 2, dim: int = 3, sizes: tuple[int, ...] = SIZES, gap: float = 1.5):
    """References, outputs and distortions of sources that lie ``gap`` apart."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randn(frames, size + 2, dim, generator=generator, dtype=torch.float64) * 0.5 + gap * number
        for number, size in enumerate(sizes)
    ]
    return torch.cat(parts, 1)


def placed(points: torch.Tensor, output: int, at: int) -> torch.Tensor:
    """The same points with row ``output`` moved onto row ``at``."""
    points = points.clone()
    points[:, output] = points[:, at]
    return points


REF, OUT, OTHER_REF, OTHER_OUT = 0, 1, SIZES[0] + 2, SIZES[0] + 3


@pytest.mark.parametrize("measure", ["ps", "pm"])
def test_rotating_or_shifting_the_points_changes_nothing(measure):
    points = clouds()
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    for ours, theirs in zip(
        measure_frames(points, SIZES, measure), measure_frames(points @ rotation + 5, SIZES, measure), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_an_output_on_its_reference_matches_and_is_separated():
    points = placed(clouds(), OUT, REF)
    assert (measure_frames(points, SIZES, "pm").value[:, 0] > 0.999).all()
    assert (measure_frames(points, SIZES, "ps").value[:, 0] > 0.6).all()


def test_an_output_on_the_other_reference_is_not_separated():
    points = placed(clouds(), OUT, OTHER_REF)
    assert (measure_frames(points, SIZES, "ps").value[:, 0] < 0.4).all()
    assert (measure_frames(points, SIZES, "pm").value[:, 0] < 0.2).all()


def test_swapped_sources_swap_their_scores():
    points = clouds()
    there, back = points.split([SIZES[0] + 2, SIZES[1] + 2], 1)
    for measure in ("ps", "pm"):
        ours = measure_frames(points, SIZES, measure)
        theirs = measure_frames(torch.cat((back, there), 1), SIZES[::-1], measure)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other.flip(-1), atol=1e-7, rtol=1e-6)


def test_frames_do_not_depend_on_those_beside_them():
    points = torch.cat((clouds(0), clouds(1, gap=0.3)))  # that keep different numbers of coordinates
    for measure in ("ps", "pm"):
        together = measure_frames(points, SIZES, measure)
        alone = [measure_frames(frame[None], SIZES, measure) for frame in points]
        for part, values in enumerate(together):
            torch.testing.assert_close(values, torch.cat([one[part] for one in alone]), atol=1e-8, rtol=1e-6)


def test_more_distortions_make_narrower_intervals():
    few, many = (measure_frames(clouds(2, sizes=(n, n)), (n, n), "ps").half_width.mean() for n in (20, 120))
    assert many < few


@pytest.mark.parametrize("measure", ["ps", "pm"])
def test_the_gradient_in_an_output_equals_finite_differences(measure):
    points = clouds(3, frames=1)

    def value(output: torch.Tensor) -> torch.Tensor:
        return measure_frames(
            torch.cat((points[:, :OUT], output, points[:, OUT + 1 :]), 1), SIZES, measure, uncertainty=False
        ).value

    assert torch.autograd.gradcheck(value, points[:, OUT : OUT + 1].clone().requires_grad_(), eps=1e-6, atol=1e-5)


def test_repeated_points_leave_the_gradient_finite():
    points = placed(placed(clouds(4), 4, 3), 5, 3).requires_grad_()
    for measure in ("ps", "pm"):
        (gradient,) = torch.autograd.grad(measure_frames(points, SIZES, measure).value.sum(), points)
        assert gradient.isfinite().all() and gradient[:, OUT].abs().max() > 0


def test_schur_terms_equal_the_inverse_written_out():
    found = diffusion_map(clouds(5, frames=1))
    rows = slice(2, 2 + SIZES[0])
    kept, rest = found.kept[:, rows], found.dropped[:, rows]
    kept, rest = kept - kept.mean(1, keepdim=True), rest - rest.mean(1, keepdim=True)
    cluster = Cluster.around(kept, found.is_kept)
    ours = schur_terms(cluster, rest, kept[:, :2], rest[:, :2], ~found.is_kept)
    d, c, n = kept[0], rest[0], SIZES[0] - 1
    cross = d.T @ c / n
    schur = (
        c.T @ c / n - cross.T @ torch.linalg.solve(cluster.covariance[0], cross) + (1e-6 + 1e-9) * torch.eye(c.shape[1])
    )
    residual = c[:2].T - cross.T @ torch.linalg.solve(cluster.covariance[0], d[:2].T)
    torch.testing.assert_close(ours[0], (residual * torch.linalg.solve(schur, residual)).sum(0), rtol=1e-5, atol=1e-9)


@pytest.mark.border
@pytest.mark.parametrize(
    ("points", "sizes", "message"),
    [(torch.zeros(2, 12, 3), (10,), "two or more sources"), (torch.zeros(2, 12, 3), (5, 5), "expected points")],
)
def test_wrong_counts_are_named(points, sizes, message):
    with pytest.raises(InputError, match=message):
        measure_frames(points, sizes, "ps")


def voices(samples: int = 7000) -> torch.Tensor:
    time = torch.arange(samples) / 16000
    return torch.stack(
        [
            sum(torch.sin(2 * torch.pi * k * pitch * time + k) / k for k in range(1, 10)) * (1.3 + torch.sin(9 * time))
            for pitch in (118.0, 207.0)
        ]
    )


def test_leakage_lowers_ps_of_the_source_it_reaches():
    clean = voices()
    leaking = torch.stack((clean[0] + 0.8 * clean[1], clean[1]))
    scores = mapss(clean, leaking, uncertainty=False).mean()["ps"]
    assert scores[0] < scores[1] - 0.2


def test_the_seed_decides_and_silence_is_not_judged():
    clean = voices(12000)
    clean[1, 9000:] = 0
    one, two = (mapss(clean, clean + 0.01, uncertainty=False, seed=3) for _ in range(2))
    torch.testing.assert_close(one.ps.value, two.ps.value, equal_nan=True)
    assert one.ps.value[-5:].isnan().all() and one.ps.value[:20].isfinite().all()
    assert one.ps.radius.isnan().all()
    assert len(one.seconds) == len(one.ps.value) == (12000 - 1) // 320


def test_parts_of_a_long_signal_are_scored_one_by_one():
    clean = voices(33000)
    done: list[float] = []
    scores = mapss(clean, clean.flip(0), uncertainty=False, segment_seconds=1.5, progress=done.append)
    assert scores.ps.value.shape == (103, 2) and scores.ps.value.isfinite().all()
    assert done == sorted(done) and done[-1] == pytest.approx(1)


def test_the_estimates_have_a_gradient():
    clean = voices()
    estimates = (clean + 0.2 * clean.flip(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(mapss(clean, estimates, uncertainty=False).mean()["ps"].sum(), estimates)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.border
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x[:1], x[:1]), "at least 2 sources"),
        (lambda x: (x, x[:, :-5]), "of one shape"),
        (lambda x: (x[:, :3000], x[:, :3000]), "too short"),
        (lambda x: (x, x * 0), "estimate 1 is silent"),
        (lambda x: (x / 0, x), "reference 1 holds NaN"),
    ],
)
def test_what_cannot_be_scored_is_named(change, message):
    with pytest.raises(InputError, match=message):
        mapss(*change(voices()))


def test_a_frame_that_ends_with_the_signal_is_left_out():
    assert active_frames(torch.ones(2, 640)).shape == (1, 2)
    assert active_frames(torch.ones(2, 641)).shape == (2, 2)


def test_the_banks_have_the_sizes_the_paper_gives():
    signal = voices(8000)[0].double().numpy()
    bank = separation_bank(signal, np.random.default_rng(0))
    assert bank.shape == (71, 8000) and np.isfinite(bank).all()
    bank = match_bank(signal, np.random.default_rng(0))
    assert bank.shape[1] == 8000 and 50 <= len(bank) <= 90 and np.isfinite(bank).all()
    with pytest.raises(InputError, match="no distortion named 'fuzz'"):
        match_bank(signal, np.random.default_rng(0), ["fuzz"])


def test_several_cores_change_nothing_and_pass_the_gradient_on():
    points = [clouds(seed).requires_grad_() for seed in range(3)]
    before = torch.get_num_threads()
    values, gradients = [], []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            parts = list(_on_all_cores(lambda part: measure_frames(part, SIZES, "ps", uncertainty=False), points))
            assert torch.get_num_threads() == threads
            values.append(torch.cat([part.value for part in parts]))
            gradients.append(torch.cat(torch.autograd.grad(values[-1].sum(), points)))
            with torch.inference_mode():
                parts = list(_on_all_cores(lambda part: measure_frames(part, SIZES, "pm"), points))
            assert all(part.value.is_inference() for part in parts)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
