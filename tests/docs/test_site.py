"""The built site: links lead somewhere, nothing comes from elsewhere, nothing public is missing.

``make pages`` builds it, and ``make test`` does so first.
"""

import importlib
import inspect
import re
import shutil
import subprocess
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "docs"
EXTENSIONS = ROOT / "docs" / "_extensions"
LOADING = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"),
           ("source", "src"), ("video", "src")}  # fmt: skip
TAG = re.compile(r"<(a|script|link|img|iframe|source|video)\b([^>]*)>")
ATTRIBUTE = re.compile(r"([\w-]+)=\"([^\"]*)\"")
ANCHOR = re.compile(r"<[^>]*\s(?:id|name)=\"([^\"]*)\"")
CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(
    not (SITE / "objects.inv").is_file(), reason="no site in build/docs; `make pages` builds it"
)


class Page:
    """Anchors, links and what a page loads; a parser of HTML takes ten times as long."""

    def __init__(self, text: str) -> None:
        self.anchors = {unescape(anchor) for anchor in ANCHOR.findall(text)}
        tags = [(tag, dict(ATTRIBUTE.findall(rest))) for tag, rest in TAG.findall(text)]
        self.links = [unescape(own["href"]) for tag, own in tags if tag == "a" and "href" in own]
        self.loaded = [
            unescape(value)
            for tag, own in tags
            for name, value in own.items()
            if (tag, name) in LOADING and own.get("rel") not in {"index", "search", "next", "prev"}
        ]


@cache
def pages() -> dict[Path, Page]:
    return {p: Page(p.read_text()) for p in sorted(SITE.rglob("*.html"))}


def test_every_link_leads_to_a_page_and_a_place_on_it() -> None:
    broken = []
    for path, page in pages().items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme in {"http", "https", "mailto"} and (parts.netloc or parts.path)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (
                anchor and target.suffix == ".html" and anchor not in pages()[target].anchors
            ):
                broken.append((path.name, link))
    assert not broken


def test_pages_load_nothing_from_elsewhere() -> None:
    for path, page in pages().items():
        for link in page.loaded:
            assert not urlsplit(link).netloc, f"{path.name} loads {link}"
            if not link.startswith("data:"):
                assert (path.parent / unquote(urlsplit(link).path)).is_file(), link
    for style in SITE.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//", style.read_text()), style


def test_equations_are_mathml() -> None:
    text = (SITE / "methods" / "uniuvpt.html").read_text()
    assert text.count('display="block"') == 3 and "$$" not in text and "\\frac" not in text


def test_settings_are_those_of_the_configuration() -> None:
    text = re.sub(r"<[^>]+>", "", (SITE / "methods" / "cbst.html").read_text())
    # Its own, one of _self_training, one of _source_free; none of _base.
    for name in ("mrkld_weight", "portion_step", "plan.steps"):
        assert f"method.{name}" in text
    assert "method.log_every" not in text and "of the first round" in text


def documented() -> set[str]:
    from sphinx.util.inventory import InventoryFile

    with (SITE / "objects.inv").open("rb") as file:
        found = InventoryFile.load(file, "", lambda base, place: place)
    data = getattr(found, "data", found)
    return {name for kind, names in data.items() if kind.startswith("py:") for name in names}


def test_every_public_name_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes and functions without an underscore, of every module that the reference lists."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    reference = importlib.import_module("reference")
    names = documented()
    missing = []
    for module in (module for part in reference.PARTS for module in reference.modules(part)):
        for name, thing in vars(importlib.import_module(module)).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module:
                continue
            is_public = inspect.isclass(thing) or inspect.isfunction(thing)
            if is_public and thing.__doc__ and f"{module}.{name}" not in names:
                missing.append(f"{module}.{name}")
    assert not missing
    assert {"sfseg.prediction.model.load", "sfseg.methods.tent.Tent"} <= names


def test_rooms_of_the_reference_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method, a callback or an operation that is added is part of it."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    reference = importlib.import_module("reference")
    for room in ("methods", "callbacks", "ops"):
        files = {p.stem for p in (ROOT / "src" / "sfseg" / room).glob("[!_]*.py")}
        assert {name.rpartition(".")[2] for name in reference.modules(room)} == files


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("page", ["index.html", "methods/sfda.html", "own_data.html"])
def test_a_narrow_screen_shows_pages_whole(page: str, tmp_path: Path) -> None:
    """Nothing is wider than the screen; equations and tables scroll by themselves."""
    source = SITE / page
    probe = "<script>document.title = 'WIDTH ' + document.documentElement.scrollWidth</script>"
    copy = source.with_name(f"probe_{source.name}")
    copy.write_text(source.read_text().replace("</body>", f"{probe}</body>"))
    try:
        shown = subprocess.run(
            [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900",
             f"--user-data-dir={tmp_path}", "--dump-dom", copy.as_uri()],
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip
    finally:
        copy.unlink()
    width = re.search(r"<title>WIDTH (\d+)</title>", shown)
    assert width and int(width[1]) <= 500, shown[:300]
    assert "<math" in shown or "sfda" not in page
