"""The wheel carries its configuration and works from another folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import DEBUG

ROOT = Path(__file__).parents[1]


def python(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel alone; dependencies come from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    built = python("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_configuration_and_types(site: Path) -> None:
    assert (site / "sfseg" / "py.typed").is_file()
    shipped = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    installed = {
        path.relative_to(site / "sfseg" / "conf")
        for path in (site / "sfseg" / "conf").rglob("*.yaml")
    }
    assert installed == shipped
    templates = Path("sfseg", "report", "pages", "templates")
    assert {path.name for path in (ROOT / "src" / templates).iterdir()} == {
        path.name for path in (site / templates).iterdir()
    }
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    for name, module in (("train", "train"), ("eval", "evaluate"), ("data", "data")):
        assert f"sfseg-{name} = sfseg.commands.{module}:main" in entry_points.read_text()


def test_wheel_runs_from_another_folder(site: Path, tmp_path: Path) -> None:
    where = python("-c", "import sfseg; print(sfseg.__file__)", cwd=tmp_path, PYTHONPATH=str(site))
    assert where.stdout.startswith(str(site)), where.stdout
    asked = python("-m", "sfseg.commands.train", "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert asked.returncode == 0 and "sfseg-train method=uniuvpt" in asked.stdout
    done = python("-m", "sfseg.commands.train", *DEBUG, cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.rglob("results.json"))


def test_help_does_not_import_torch(tmp_path: Path) -> None:
    commands = ["train", "evaluate", "predict", "data", "generate"]
    names = ", ".join(f"sfseg.commands.{name}" for name in commands)
    code = f"import sys, {names}; print('torch' in sys.modules)"
    assert python("-c", code, cwd=tmp_path).stdout.strip() == "False"
