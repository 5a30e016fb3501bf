"""A user's own method: one Python file and one YAML outside the package, as the README says."""

import re
import subprocess
import sys
from pathlib import Path

from conftest import DEBUG

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str, first: str) -> str:
    """The README's code block that begins with a comment."""
    found = re.search(rf"```{language}\n(# {first}\n.*?)```", README, re.DOTALL)
    assert found
    return found[1]


def test_the_readmes_method_trains(tmp_path: Path) -> None:
    (tmp_path / "mymethod.py").write_text(block("python", "mymethod.py"))
    (tmp_path / "myconf" / "method").mkdir(parents=True)
    yaml = tmp_path / "myconf" / "method" / "entropy.yaml"
    yaml.write_text(block("yaml", "myconf/method/entropy.yaml"))
    script = str(Path(sys.executable).with_name("sfseg-train"))
    done = subprocess.run(
        [script, "--config-dir", "myconf", "method=entropy", *DEBUG],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "target IoU" in done.stdout and "source IoU" not in done.stdout
