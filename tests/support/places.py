"""Where things lie in this repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
UNIT, SUPPORT = ROOT / "tests" / "unit", ROOT / "tests" / "support"
