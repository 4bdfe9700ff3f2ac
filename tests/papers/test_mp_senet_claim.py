"""The verdict of MP-SENet's claim follows a rule that was fixed before its experiment ran."""

import pytest

from harken.papers.mp_senet import _judge

PLAIN = {"pesq_wb": 1.50, "si_sdr": 8.0}


@pytest.mark.parametrize(
    ("pesq", "distance", "verdict"),
    [
        (1.60, 9.0, "holds in direction"),
        (1.51, 9.0, "not shown here"),  # within the margin
        (1.60, 7.0, "not shown here"),  # one metric each way
        (1.40, 7.0, "fails here"),
    ],
)
def test_both_metrics_must_gain_by_more_than_the_margin(pesq, distance, verdict):
    results = {"magnitude_only": PLAIN, "absolute_phase": {"pesq_wb": pesq, "si_sdr": distance}}
    assert _judge(results) == verdict
