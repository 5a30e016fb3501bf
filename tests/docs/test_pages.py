"""Every block of Python and YAML of the pages, run or read as the page says."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from finished_run import make_run
from PIL import Image

from sfseg.data.classes_file import load_label_space
from sfseg.data.toyscapes.scenes import Toyscapes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
IN_OTHER_TESTS = re.compile(r"# run\w*\.py\n")
"""Programs that read a file of ``sfseg-export``; tests/export and tests/commands run them."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def named(pages: list[Path]) -> list[object]:
    return [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages]


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_YAML = [page for page in PAGES if blocks(page, "yaml")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("pages")
    make_run(folder / "run", "trainer.precision=32-true").rename(folder / "last.ckpt")
    scene = Image.fromarray(Toyscapes("city", "test", length=1, size=(64, 128)).image(0))
    for name in ("a.jpg", "c.jpg"):
        scene.save(folder / name)
    return folder


@pytest.mark.parametrize("page", named(WITH_PYTHON))
def test_blocks_of_python_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would type them, in one program."""
    monkeypatch.chdir(folder)
    program = {"__name__": "__main__"}
    ran = 0
    for number, block in enumerate(blocks(page, "python"), start=1):
        if not IN_OTHER_TESTS.match(block):
            exec(compile(block, f"{page.name}, block {number}", "exec"), program)
            ran += 1
    assert ran or page.stem in {"export", "elsewhere"}


def test_what_is_left_to_other_tests_is_there() -> None:
    programs = {m[0].strip("# \n") for page in WITH_PYTHON for block in blocks(page, "python")
                if (m := IN_OTHER_TESTS.match(block))}  # fmt: skip
    assert programs == {"run.py", "run_pt2.py", "run_openvino.py"}
    tests = "".join(p.read_text() for p in (ROOT / "tests").rglob("*.py") if p != Path(__file__))
    assert all(program in tests for program in programs)


@pytest.mark.parametrize("page", named(WITH_YAML))
def test_blocks_of_yaml_are_read(page: Path, tmp_path: Path) -> None:
    """Files of classes by the reader of classes; those of methods are composed in test_plugin."""
    for block in blocks(page, "yaml"):
        content = yaml.safe_load(block)
        if "classes" in content:
            (tmp_path / "classes.yaml").write_text(block)
            assert load_label_space(tmp_path / "classes.yaml").num_classes > 1
        else:
            assert content["_target_"] == "mymethod.Entropy" and content["needs"] == ["target"]


def test_every_method_has_a_page_with_an_equation_or_a_link_to_it() -> None:
    methods = {p.stem for p in (ROOT / "conf" / "method").glob("[!_]*.yaml")}
    pages = {p.stem: p.read_text() for p in (ROOT / "docs" / "methods").glob("*.md")}
    index = pages.pop("index")
    assert set(pages) == methods
    for name, text in pages.items():
        assert "$$" in text or re.search(r"\]\(\w+\.md\)", text), name
        assert f"]({name}.md)" in index and f"\n{name}\n" in index, name


def test_the_readme_names_every_method_where_it_belongs() -> None:
    table = (ROOT / "README.md").read_text().split("## Methods")[1].split("## Read on")[0]
    rows = re.findall(r"^\| ([^|]*) \| (`[^|]*`) \|$", table, re.MULTILINE)
    found = {name: sees for sees, names in rows for name in re.findall(r"`(\w+)`", names)}
    methods = {p.stem for p in (ROOT / "conf" / "method").glob("[!_]*.yaml")}
    assert set(found) == methods
    assert sum(len(re.findall(r"`(\w+)`", names)) for _, names in rows) == len(methods)
    assert found["tent"].endswith("source-free") and found["oracle"] == "the target's labels"


@pytest.mark.parametrize("page", named(PAGES))
def test_links_of_the_repository_lead_to_files(page: Path) -> None:
    """As a reader of the repository follows them; anchors of pages are checked on the site."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path = link.partition("#")[0]
        if path and not path.startswith(("http://", "https://")):
            assert (page.parent / path).exists(), link


def targets(page: Path) -> list[str]:
    """Targets of make in shell blocks and in text."""
    return re.findall(r"(?:^|`|=\d )make ([a-z-]+)(?=[ `\n])", page.read_text(), re.MULTILINE)


def test_every_target_of_make_on_the_pages_exists() -> None:
    asked = sorted({target for page in PAGES for target in targets(page)})
    assert {"install", "test", "docs", "demo", "help"} <= set(asked)
    # Nothing is run; a target that is not there is an error.
    done = subprocess.run(
        ["make", "-n", *asked], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
