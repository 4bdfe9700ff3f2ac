"""Lay out the training data of the bundled Look Once to Hear weights: who and what trains, who and what judges.

    python benchmarks/recipes/look_once_data.py LAID CIPIC OUT

LAID is what mp_senet_data.py wrote: its LibriSpeech folders and noises are taken, with the same speakers and noises
held out. CIPIC is a clone of github.com/amini-allight/cipic-hrtf-database (copyright 2001 The Regents of the University
of California; free for any use with that notice). Writes speech/, noise/ and heads/ in OUT/train and OUT/held_out, as
links; the last five listeners are held out.
"""

from __future__ import annotations

import sys
from pathlib import Path

HELD_OUT_HEADS = 5


def main(laid: Path, cipic: Path, out: Path) -> None:
    """Write the six folders."""
    for part in ("train", "held_out"):
        for source in sorted((laid / part / "clean").glob("librispeech_*")):
            link(sorted(source.glob("*.flac")), out / part / "speech")
        link(sorted((laid / part / "noise").glob("*.flac")), out / part / "noise")
    listeners = sorted((cipic / "standard_hrir_database").glob("subject_*"))
    for part, some in (("train", listeners[:-HELD_OUT_HEADS]), ("held_out", listeners[-HELD_OUT_HEADS:])):
        for listener in some:
            link([listener / "hrir_final.mat"], out / part / "heads" / listener.name)
        print(f"{len(some):4d} heads  {out / part / 'heads'}")


def link(paths: list[Path], folder: Path) -> None:
    """Link files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        target = folder / path.name
        if not target.exists():
            target.symlink_to(path.resolve())
    if len(paths) > 1:
        print(f"{len(paths):4d} files  {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*(Path(argument) for argument in sys.argv[1:]))
