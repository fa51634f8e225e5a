"""Where the golden cases of the published scoring scripts and the published prompt files lie, beside the checkout."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("RECA_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden/scorers"
PROMPTS = SHARED / "benchmarks"

needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no golden cases of scoring scripts beside the checkout")
needs_prompts = pytest.mark.skipif(not PROMPTS.is_dir(), reason="no published prompt files beside the checkout")
