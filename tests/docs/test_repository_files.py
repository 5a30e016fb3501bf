"""Files that hosts and readers of a repository look for."""

import ast
import re
from pathlib import Path

import pytest
import yaml

import sfseg

ROOT = Path(__file__).parents[2]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
KINDS = {"markdown", "input", "textarea", "dropdown", "checkboxes"}


def test_the_citation_is_complete_and_of_this_version() -> None:
    """What version 1.2.0 of the format asks for."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert all(
        isinstance(cited[key], str) and cited[key] for key in ("message", "title", "abstract")
    )
    assert cited["authors"] and all(author["name"] for author in cited["authors"])
    assert str(cited["version"]) == sfseg.__version__
    assert cited["license"] == "Apache-2.0"


@pytest.mark.parametrize("path", [f for f in FORMS if f.stem != "config"], ids=lambda f: f.stem)
def test_forms_of_issues_are_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"]
    fields = form["body"]
    assert fields and {field["type"] for field in fields} <= KINDS
    names = [field["id"] for field in fields if field["type"] != "markdown"]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w-]+", name) for name in names)
    for field in fields:
        assert field["attributes"].get("label") or field["type"] == "markdown"
        assert field["type"] != "dropdown" or len(set(field["attributes"]["options"])) > 1


def test_there_are_forms_for_bugs_methods_and_questions() -> None:
    assert {"bug", "method", "question"} <= {form.stem for form in FORMS}


def test_security_promises_what_the_code_does() -> None:
    """Whoever reads a file of PyTorch's does so by weights alone."""
    assert "weights_only=True" in (ROOT / "SECURITY.md").read_text()
    readers = 0
    for path in (ROOT / "src").rglob("*.py"):
        calls = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call))
        for call in calls:
            name = ast.unparse(call.func)
            assert name not in {"pickle.load", "pickle.loads", "eval", "exec"}, path
            if name == "torch.load":
                readers += 1
                (given,) = (k.value for k in call.keywords if k.arg == "weights_only")
                assert ast.unparse(given) == "True", path
    assert readers
