"""``python -m harken.cli``: the same as ``harken``."""

from __future__ import annotations

import sys

from harken.cli import main

if __name__ == "__main__":
    sys.exit(main())
