"""Lay out the training data of the bundled AP-BWE weights: which recordings train, which judge.

    python benchmarks/recipes/ap_bwe_data.py DATA OUT

DATA holds the speech/ folders named in the model cards. Links recordings into OUT/16k and OUT/48k, each with
train/clean and held_out/clean. At 16 kHz every ninth speaker of librispeech_many_speakers judges and trains nothing; at
48 kHz, where there is one reader alone, every tenth prompt.
"""

from __future__ import annotations

import sys
from pathlib import Path

HELD_OUT_SPEAKER, HELD_OUT_PROMPT = 9, 10  # one in so many


def main(data: Path, out: Path) -> None:
    """Make the four folders."""
    many = sorted((data / "speech/librispeech_many_speakers").glob("*.flac"))
    judge = many[HELD_OUT_SPEAKER - 1 :: HELD_OUT_SPEAKER]
    other = sorted((data / "speech/librispeech_test_other").rglob("*.flac"))
    link([path for path in many if path not in judge] + other, out / "16k/train/clean")
    link(judge, out / "16k/held_out/clean")
    prompts = sorted((data / "speech/kathleen_48k").glob("*.flac"))
    judge = prompts[HELD_OUT_PROMPT - 1 :: HELD_OUT_PROMPT]
    link([path for path in prompts if path not in judge], out / "48k/train/clean")
    link(judge, out / "48k/held_out/clean")


def link(paths: list[Path], folder: Path) -> None:
    """Symbolic links in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        target = folder / path.name
        target.unlink(missing_ok=True)
        target.symlink_to(path.resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
