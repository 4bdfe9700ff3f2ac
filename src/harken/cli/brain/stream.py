"""``harken brain stream``: a saved decoder on a signal that is still arriving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from harken.cli.brain import options


def register(brain: typer.Typer) -> None:
    """Add the command."""
    brain.command("stream", no_args_is_help=True)(stream)


def stream(
    decoder: Annotated[Path, typer.Argument(help="Folder that --save of another command wrote.")],
    source: Annotated[str, typer.Argument(help="A recording, - for 32-bit floats on standard input, or lsl:NAME.")],
    chunk: Annotated[float, typer.Option(help="Seconds that arrive together.", rich_help_panel=options.SIGNALS)] = 0.05,
    step: Annotated[
        float, typer.Option(help="Seconds from one decision to the next.", rich_help_panel=options.SIGNALS)
    ] = 0.25,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="Play a recording at its own pace.", rich_help_panel=options.SIGNALS)
    ] = False,
    sfreq: Annotated[
        float | None,
        typer.Option(help="Rate of the signal, hertz.", show_default="the decoder's", rich_help_panel=options.SIGNALS),
    ] = None,
    channels: options.Channels = None,
    low: options.Low = None,
    high: options.High = None,
    notch: options.Notch = None,
    unit: options.Unit = "uV",
    plot: options.Plot = None,
    report: options.Report = None,
) -> None:
    """Decode a signal while it arrives: one line of JSON a decision, and how long it took.

    A window as long as the decoder's trials slides over the signal; filters are causal. A recording is pushed through
    in chunks, as fast as it goes or, with --real-time, at its own pace. Standard input takes interleaved little-endian
    32-bit floats (every channel of a sample, then the next), lsl:NAME a stream of the Lab Streaming Layer (pip install
    pylsl). The last line on standard error tells the median and the 99th percentile of the latency.

    Example: harken brain decode trials.npz --save decoder && harken brain stream decoder rest.edf --step 0.5
    """
    import numpy as np

    from harken.data.brain_files import read_recording, volts_per
    from harken.errors import InputError
    from harken.figures import require_matplotlib
    from harken.models.brain import load_estimator
    from harken.tasks import stream_brain
    from harken.whole_files import write_text

    if plot is not None:
        require_matplotlib()
    fitted = load_estimator(decoder)
    rate = sfreq or getattr(fitted, "sfreq_", None) or getattr(fitted, "sfreq", None)
    recording = None
    if source not in ("-",) and not source.startswith("lsl:"):
        names = options.channel_names(channels) or getattr(fitted, "ch_names_", None)
        recording = read_recording(source, sfreq=rate, channels=names, unit=unit)
        rate = recording.sfreq
    if rate is None:
        raise InputError("the decoder does not know its rate: give --sfreq, in hertz")
    if not 0 < chunk <= 60 or not 0 < step <= 3600:
        raise InputError("expected --chunk in (0, 60] and --step in (0, 3600] seconds")
    flow = stream_brain.DecoderStream(fitted, rate, step=max(1, round(step * rate)), band=(low, high), notch=notch)
    size = max(1, round(chunk * rate))
    if recording is not None:
        chunks = stream_brain.chunks_of(recording, size, real_time=real_time)
    elif source == "-":
        pipe = stream_brain.standard_input()
        chunks = stream_brain.chunks_of_pipe(pipe, flow.channels, size, scale=volts_per(unit))
    else:
        chunks = stream_brain.chunks_of_lsl(source[4:], flow.channels, size, scale=volts_per(unit))
    made = []
    try:
        for part in chunks:
            for decision in flow.push(part):
                made.append(decision)
                typer.echo(json.dumps(decision.as_json(flow.classes)))
    except KeyboardInterrupt:
        if not made:
            raise
    if not made:
        raise InputError(f"the signal is shorter than a trial of the decoder ({flow.window / rate:g} s)")
    latency = np.array([decision.latency_ms for decision in made])
    median, slow = float(np.median(latency)), float(np.quantile(latency, 0.99))
    summary = {
        "decisions": len(made),
        "latency_ms_median": median,
        "latency_ms_99th_percentile": slow,
        "step_ms": 1000 * flow.step / rate,
        "window_ms": 1000 * flow.window / rate,
    }
    typer.echo(
        f"{len(made)} decisions on windows of {flow.window / rate:g} s; latency {median:.1f} ms, "
        f"99th percentile {slow:.1f} ms, of {1000 * flow.step / rate:g} ms between decisions",
        err=True,
    )
    if report is not None:
        told = [decision.as_json(flow.classes) for decision in made]
        write_text(report, json.dumps({**summary, "decided": told}, indent=2) + "\n")
    if plot is not None:
        from harken.tasks.stream_pictures import draw_decisions

        draw_decisions(made, [str(name) for name in flow.classes], plot)
