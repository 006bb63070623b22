"""The wheel of the release before this one, which the tests of an upgrade run.

python -m tests.upgrade.keep_wheel    build it again, from the tag
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TAG, WHEEL = "v0.2", Path(__file__).with_name("orion_streams-0.2.0-py3-none-any.whl")
ROOT = Path(__file__).parents[2]


def main() -> int:
    """Build the wheel from the tag and put it beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        packed = subprocess.run(["git", "archive", TAG], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", str(tree)], input=packed.stdout, check=True)
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(tree)]
        subprocess.run(pip, check=True)
        shutil.copy(Path(folder) / WHEEL.name, WHEEL)
    sys.stdout.write(f"{WHEEL}: {WHEEL.stat().st_size:,} bytes\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
