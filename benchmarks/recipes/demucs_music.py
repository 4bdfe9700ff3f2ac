"""Render songs stem by stem, for ``harken train demucs --tracks``: drums, bass and the rest, which sum to the mixture.

    pip install --no-deps tinysoundfont mido
    python benchmarks/recipes/demucs_music.py POP909.zip FONT.sf2 OUT [--train 64] [--held-out 8] [--seconds 20]

``POP909.zip`` holds, for each song, a folder ``NUMBER/`` with ``NUMBER.mid`` (tracks MELODY, BRIDGE, PIANO),
``beat_midi.txt`` and ``chord_midi.txt``, as github.com/music-x-lab/POP909-Dataset (MIT) has them. Melody, bridge and
piano become ``other``, each on an instrument drawn anew; the chords' roots become a bass line; drum patterns are drawn
and laid on the beats. All is played from a General MIDI soundfont (FluidR3_GM.sf2 of the Debian package
fluid-soundfont-gm, MIT), then panned, coloured, and put in a simple room, part by part. The last songs by number are
held out: none of their notes is trained on, though the soundfont is the same. There are no voices, and nothing here was
played by people.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from harken.data.audio import Audio, write

RATE = 44100
BASSES = range(32, 40)
OTHERS = (*range(0, 8), *range(16, 21), *range(24, 32), 40, 41, 48, 49, 50, 52, 56, 61, 62, 65, 66, 71, 73, 80, 81, 89)
KITS = (0, 8, 16, 24, 25, 32, 40)
ROOTS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# sixteenths of a bar: kick, snare, closed hat or ride
PATTERNS = (
    ("x...x...x...x...", "....x.......x...", "x.x.x.x.x.x.x.x."),
    ("x.......x.......", "....x.......x...", "x.x.x.x.x.x.x.x."),
    ("x..x..x.x.......", "....x.......x..x", "xxxxxxxxxxxxxxxx"),
    ("x.....x...x.....", "....x.......x...", "x...x...x...x..."),
    ("x.x.......x..x..", "....x..x.x..x...", "x.x.x.x.x.x.x.xx"),
    ("x...............", "........x.......", "..x...x...x...x."),
)
Note = tuple[float, float, int, int]  # start, end, key, velocity


def main() -> None:
    """Render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path)
    parser.add_argument("font", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    band = Band(arguments.font)
    with zipfile.ZipFile(arguments.songs) as archive:
        names = sorted({name.split("/")[0] for name in archive.namelist() if name.endswith(".mid")})
        held_out = names[-arguments.held_out :]
        plan = [("train", name) for name in names[: -arguments.held_out][: arguments.train]]
        for number, (part, name) in enumerate(plan + [("held_out", name) for name in held_out]):
            rng = np.random.default_rng((arguments.seed, number))
            song = {kind: archive.read(f"{name}/{kind}_midi.txt").decode() for kind in ("beat", "chord")}
            tracks = read_midi(archive.read(f"{name}/{name}.mid"))
            folder = arguments.out / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for stem, samples in render(song, tracks, band, arguments.seconds, rng).items():
                write(folder / f"{stem}.flac", Audio(samples, RATE))
            print(folder, flush=True)


def read_midi(data: bytes) -> dict[str, list[Note]]:
    """Notes of each track in seconds."""
    import mido

    midi = mido.MidiFile(file=io.BytesIO(data))
    tempi, tick = [(0, 500_000)], 0
    for message in mido.merge_tracks(midi.tracks):
        tick += message.time
        if message.type == "set_tempo":
            tempi.append((tick, message.tempo))
    starts, seconds = [0], [0.0]
    for (before, tempo), (after, _) in pairwise(tempi):
        starts.append(after)
        seconds.append(seconds[-1] + mido.tick2second(after - before, midi.ticks_per_beat, tempo))

    def time(tick: int) -> float:
        at = bisect_right(starts, tick) - 1
        return seconds[at] + mido.tick2second(tick - starts[at], midi.ticks_per_beat, tempi[at][1])

    found: dict[str, list[Note]] = {}
    for track in midi.tracks:
        tick, sounding = 0, {}
        for message in track:
            tick += message.time
            if message.type == "note_on" and message.velocity:
                sounding[message.note] = (time(tick), message.velocity)
            elif message.type in ("note_on", "note_off") and message.note in sounding:
                start, velocity = sounding.pop(message.note)
                found.setdefault(track.name, []).append((start, time(tick), message.note, velocity))
    return found


def render(
    song: dict[str, str], tracks: dict[str, list[Note]], band: Band, seconds: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Stems ``(frames, 2)`` of an excerpt, a fifth into the song."""
    beats = [tuple(map(float, line.split())) for line in song["beat"].split("\n") if line.strip()]
    chords = [line.split() for line in song["chord"].split("\n") if line.strip()]
    begin = beats[len(beats) // 5][0]
    shift, speed = int(rng.integers(-4, 5)), float(rng.uniform(0.85, 1.2))

    def cut(notes: list[Note], transpose: int) -> list[Note]:
        moved = [((a - begin) / speed, (b - begin) / speed, key + transpose, v) for a, b, key, v in notes]
        return [note for note in moved if 0 <= note[0] < seconds and 0 <= note[2] <= 127]

    times = np.array([beat[0] for beat in beats])
    strong = np.array([beat[2] > 0 for beat in beats])
    parts = [
        place(band.play(cut(notes, shift), int(rng.choice(OTHERS)), seconds), rng) for notes in tracks.values() if notes
    ]
    bass = place(band.play(cut(list(bass_line(chords, times, rng)), shift), int(rng.choice(BASSES)), seconds), rng, 0.1)
    hits = cut(list(drum_hits(times, strong, rng)), 0)
    drums = place(band.play(hits, int(rng.choice(KITS)), seconds, is_drums=True), rng, 0.05)
    stems = {"drums": level(drums, rng), "bass": level(bass, rng), "other": level(sum(parts), rng)}
    peak = max(1e-6, float(np.abs(sum(stems.values())).max()), *(float(np.abs(stem).max()) for stem in stems.values()))
    return {name: (0.9 / peak * stem).astype(np.float32) for name, stem in stems.items()}


def bass_line(chords: list[list[str]], beats: np.ndarray, rng: np.random.Generator) -> Iterator[Note]:
    """Roots of the chords, in a rhythm that is drawn for the song."""
    style = rng.integers(4)
    for start, end, label in chords:
        if label[0] not in ROOTS:
            continue
        key = 24 + (ROOTS[label[0]] + label.count("#", 0, 2) - label.count("b", 0, 2)) % 12 + 12 * (rng.random() < 0.3)
        inside = [float(b) for b in beats if float(start) - 0.05 <= b < float(end) - 0.05] or [float(start)]
        edges = [*inside, float(end)]
        for number, (a, b) in enumerate(pairwise(edges)):
            velocity = int(rng.integers(70, 115))
            if style == 0 and number:
                continue
            if style == 3:
                yield a, (a + b) / 2 - 0.02, key, velocity
                yield (a + b) / 2, b - 0.02, key + 12 * (rng.random() < 0.4), velocity
            else:
                step = 7 * (style == 2 and number % 2)
                yield a, (float(end) if style == 0 else b) - 0.02, key + step, velocity


def drum_hits(beats: np.ndarray, strong: np.ndarray, rng: np.random.Generator) -> Iterator[Note]:
    """A drawn pattern on every bar, a fill before every fourth, a crash after it."""
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    keys = (int(rng.choice((35, 36))), int(rng.choice((38, 40, 37))), int(rng.choice((42, 42, 51, 46))))
    loud = rng.uniform(0.6, 1.0, 3)
    first = int(np.flatnonzero(strong)[0]) if strong.any() else 0
    for bar, start in enumerate(range(first, len(beats) - 4, 4)):
        grid = np.interp(np.arange(16) / 4, np.arange(5), beats[start : start + 5])
        fill = bar % 4 == 3 and rng.random() < 0.6
        for row, key, gain in zip(pattern, keys, loud, strict=True):
            for at, mark in enumerate(row):
                if mark == "x" and rng.random() < 0.97 and not (fill and at >= 12):
                    velocity = int(np.clip(gain * rng.normal(105, 9), 20, 127))
                    yield float(grid[at] + rng.normal(0, 0.004)), float(grid[at] + 0.1), key, velocity
        for at in range(12, 16) if fill else ():
            yield float(grid[at]), float(grid[at] + 0.1), int(rng.choice((41, 43, 45, 47, 38))), 100
        if bar % 4 == 0 and rng.random() < 0.5:
            yield float(grid[0]), float(grid[0] + 1), 49, 95


class Band:
    """Instruments of a soundfont, one at a time."""

    def __init__(self, font: Path):
        import tinysoundfont

        self._synth = tinysoundfont.Synth(gain=-6.0, samplerate=RATE)
        self._font = self._synth.sfload(str(font))

    def play(self, notes: list[Note], program: int, seconds: float, *, is_drums: bool = False) -> np.ndarray:
        """``(frames, 2)`` of one instrument."""
        synth = self._synth
        synth.program_select(0, self._font, 128 if is_drums else 0, program, is_drums)
        events = sorted([(a, 1, key, v) for a, _, key, v in notes] + [(b, 0, key, 0) for _, b, key, _ in notes])
        made, now, total = [], 0, round(seconds * RATE)
        for at, on, key, velocity in [*events, (seconds, 0, 0, 0)]:
            frames = min(total, round(at * RATE)) - now
            if frames > 0:
                made.append(np.frombuffer(synth.generate(frames), np.float32).reshape(-1, 2).copy())
                now += frames
            if on:
                synth.noteon(0, key, velocity)
            else:
                synth.noteoff(0, key)
        synth.sounds_off(0)
        return np.concatenate(made) if made else np.zeros((total, 2), np.float32)


def place(dry: np.ndarray, rng: np.random.Generator, width: float = 0.5) -> np.ndarray:
    """Coloured, perhaps overdriven, panned, and in a room of decaying noise."""
    spectrum = np.fft.rfft(dry, axis=0)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(dry), 1 / RATE), 30) / 1000)
    curve = rng.uniform(-1.5, 1.5) * octaves + rng.uniform(0, 4) * np.sin(
        octaves * rng.uniform(0.7, 2) + rng.uniform(0, 6)
    )
    wet = np.fft.irfft(spectrum * (10 ** (curve / 20))[:, None], len(dry), axis=0)
    if rng.random() < 0.2:
        drive = rng.uniform(1, 6) / max(1e-6, float(np.abs(wet).max()))
        wet = np.tanh(drive * wet) / drive
    pan = rng.uniform(-width, width)
    wet = wet * np.sqrt([1 - pan, 1 + pan])
    if rng.random() < 0.7:
        length = round(rng.uniform(0.1, 0.8) * RATE)
        room = rng.standard_normal((length, 2)) * np.exp(-6.9 * np.arange(length) / length)[:, None]
        room /= np.sqrt(np.square(room).sum(0))
        size = 1 << (len(wet) + length).bit_length()
        tail = np.fft.irfft(np.fft.rfft(wet, size, axis=0) * np.fft.rfft(room, size, axis=0), size, axis=0)[: len(wet)]
        wet = wet + rng.uniform(0.03, 0.25) * tail
    return wet


def level(stem: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At an RMS within 4 dB of the others'."""
    return stem * (10 ** (rng.uniform(-4, 4) / 20) / max(1e-6, float(np.sqrt(np.square(stem).mean()))))


if __name__ == "__main__":
    main()
