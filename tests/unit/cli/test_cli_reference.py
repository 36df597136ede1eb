"""The reference in docs/ is what the commands say of themselves."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts/generate_cli_reference.py"


def _run(script: Path, *arguments: str) -> int:
    return subprocess.run([sys.executable, script, *arguments], check=False, capture_output=True).returncode


def test_it_is_fresh() -> None:
    assert _run(SCRIPT, "--check") == 0, "run scripts/generate_cli_reference.py"


def test_a_stale_one_is_noticed(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / SCRIPT.name
    script.parent.mkdir()
    script.write_text(SCRIPT.read_text())
    assert _run(script, "--check") == 1
    assert _run(script) == 0
    assert _run(script, "--check") == 0
    page = tmp_path / "docs/reference/cli.md"
    page.write_text(page.read_text().replace("fallow up", "fallow down"))
    assert _run(script, "--check") == 1
