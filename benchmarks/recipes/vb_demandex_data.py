"""Lay out a corpus like VB-DemandEx, on which MambAttention trains: noisy and clean utterances at -10 to 20 dB.

    python benchmarks/recipes/vb_demandex_data.py CLEAN NOISE OUT [--kinds recorded babble speech-shaped] [--seed 0]

CLEAN holds utterances whose names begin with the voice (VoiceBank's ``p232_001.wav``); NOISE recordings such as
DEMAND's. Writes OUT/{train,validation,test}/{noisy,clean} and a manifest of each. Train on it with
``harken train mambattention --clean OUT/train/clean ...``, or compare with ``harken score enhancement``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harken.data.noisy_corpus import KINDS, CorpusConfig, make_corpus


def main() -> None:
    """Read the command line, write the corpus, say how much it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clean", type=Path)
    parser.add_argument("noise", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--snrs", nargs="+", type=float, default=CorpusConfig.snrs, metavar="DB")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = CorpusConfig(kinds=tuple(args.kinds), snrs=tuple(args.snrs), seed=args.seed)
    for split, count in make_corpus(args.clean, args.noise, args.out, config).items():
        print(f"{count:6d} pairs  {args.out / split}")


if __name__ == "__main__":
    main()
