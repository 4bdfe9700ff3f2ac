"""``python -m harken``: the same as ``harken``; what ``accelerate launch -m harken`` and ``torchrun -m`` start."""

from __future__ import annotations

import sys

from harken.cli import main

if __name__ == "__main__":
    sys.exit(main())
