"""The bench: who is timed, beside whom, and when a mechanism leaves the race."""

import json

import pytest

from harken.cli import main
from harken.errors import CapabilityError, InputError
from harken.hardware.attention_bench import BenchReport, Timing, bench_attention, draw_bench, interleaved, parse_length


def timing(mechanism: str, length: int, speedup: float | None) -> Timing:
    return Timing(mechanism, True, "forward", length, 1.0, speedup, None, None)


@pytest.fixture(scope="module")
def report() -> BenchReport:
    return bench_attention(["linear"], [16, 8], dim=8, heads=2, rounds=1)


def test_softmax_and_its_matrix_run_beside_every_mechanism(report):
    assert {(t.mechanism, t.mode, t.length) for t in report.timings} == {
        *(
            (name, mode, n)
            for name in ("softmax", "linear")
            for mode in ("forward", "train", "decode")
            for n in (8, 16)
        ),
        *(("written out", "forward", n) for n in (8, 16)),
    }
    assert all(t.seconds > 0 and t.speedup > 0 and t.causal for t in report.timings)
    assert all(t.speedup == 1 for t in report.timings if t.mechanism == "softmax")


def test_a_share_of_the_machine_is_given_where_arithmetic_is_known(report):
    shares = [t.flop_share for t in report.timings if t.mode == "forward" and t.mechanism != "written out"]
    assert all(0 <= share < 2 for share in shares)


def test_the_report_is_plain_json(report):
    again = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert len(again["timings"]) == len(report.timings)


def test_who_is_too_slow_leaves_the_race():
    report = bench_attention(["linear"], [8, 4096], modes=["forward"], dim=8, heads=2, rounds=1, longest_call=1e-6)
    assert {t.length for t in report.timings} == {8}
    assert any("linear, forward, 4,096 positions" in line for line in report.skipped)


def test_a_mechanism_pays_from_the_length_after_which_it_is_always_faster():
    rows = [timing("m", n, s) for n, s in ((64, 2.0), (128, 0.9), (256, 1.1), (512, 3.0), (1024, None))]
    report = BenchReport({}, 8, 2, 1, tuple(rows), ())
    assert report.crossover("m", "forward", True) == 256
    never = BenchReport({}, 8, 2, 1, (timing("m", 64, 2.0), timing("m", 128, 0.5)), ())
    assert never.crossover("m", "forward", True) is None


def test_calls_take_turns():
    order: list[str] = []
    interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 2)
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize(("text", "length"), [("512", 512), ("4k", 4096), (" 1M ", 1 << 20)])
def test_lengths_as_one_writes_them(text, length):
    assert parse_length(text) == length


@pytest.mark.parametrize("text", ["", "k", "-4", "1.5k", "0", "99m", "²"])
def test_what_is_no_length(text):
    with pytest.raises(InputError, match="expected a length"):
        parse_length(text)


def test_a_picture_is_drawn(report, tmp_path):
    pytest.importorskip("matplotlib")
    draw_bench(report, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_an_order_that_a_mechanism_lacks_is_refused():
    pytest.importorskip("harken.attention.hilo")
    with pytest.raises(CapabilityError, match="hilo"):
        bench_attention(["hilo"], [16], causal=True, dim=8, heads=2)


def test_the_command_prints_a_table_and_saves(tmp_path, capsys):
    saved = tmp_path / "bench.json"
    small = ["--lengths", "8", "--dim", "8", "--heads", "2", "--rounds", "1", "--modes", "forward"]
    assert main(["bench", "attention", "--mechanisms", "linear", *small, "--json", str(saved)]) == 0
    assert "linear" in capsys.readouterr().out
    assert json.loads(saved.read_text())["dim"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mechanisms", "nope"], "no attention mechanism named 'nope'"),
        (["--mechanisms", "linear:window=3"], "cannot be built with these options"),
        (["--lengths", "x"], "expected a length"),
        (["--modes", "sideways"], "no mode 'sideways'"),
        (["--mechanisms", "linear", "--heads", "7"], "multiple of heads=7"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["bench", "attention", *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
