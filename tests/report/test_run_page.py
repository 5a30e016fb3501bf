"""The page on a run: complete in one file, harmless, and readable in a browser."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from written_run import AFTER, LABEL_FREE, iou_of, write, write_run

from sfseg.report.html import is_page
from sfseg.report.pages.page import render, script
from sfseg.report.pages.run_files import read_run
from sfseg.report.pages.sections import context

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)  # fmt: skip
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
EVIL = "</td><script>alert(1)</script>&\"'"
VOID = {"meta", "img", "input", "br", "link"}


def page_on(folder: Path, changed: list[tuple[str, str, str]] | None = None) -> str:
    return render("report.html.j2", context(read_run(folder), changed)).decode()


class Elements(HTMLParser):
    """Elements of a page, their attributes, and whether each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_all_sections_are_there_and_every_link_leads_to_one(tmp_path: Path) -> None:
    text = page_on(write_run(tmp_path / "run"), [("lr", "0.1", "0.2")])
    elements = Elements(text)
    assert elements.open == []
    ids = {attributes.get("id") for _, attributes in elements.found} - {None}
    assert ids == {
        "run", "distrust", "alarms", "classes", "confusion", "pictures", "curves", "label-free",
        "cost", "settings",
    }  # fmt: skip
    assert {a["href"] for a in elements.of("a")} == {f"#{name}" for name in ids}
    for words in (
        "finished, 10 steps", "sfseg-train method=tent seed=0", "12 seconds, mean of 10",
        "100 of 1,000 (10.0%)", "512 MiB of the process", "3 classes, whole images", "200 images",
    ):  # fmt: skip
        assert words in text
    for value in iou_of(AFTER):
        assert f"{100 * value:.2f}" in text  # type: ignore[operator]
    (tmp_path / "report.html").write_text(text)
    assert is_page(tmp_path / "report.html")


def test_nothing_is_fetched_and_no_other_script_runs(tmp_path: Path) -> None:
    text = page_on(write_run(tmp_path / "run"))
    assert "http" not in text.replace("http-equiv", "")
    elements = Elements(text)
    assert all(str(image["src"]).startswith("data:image/jpeg") for image in elements.of("img"))
    assert len(elements.of("script")) == 1 and not elements.of("link")
    assert not any(name.startswith("on") for _, found in elements.found for name in found)
    policy = next(str(m["content"]) for m in elements.of("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy and "img-src data:" in policy
    assert f"<script>{script()}</script>" in text


def test_names_are_text_whatever_they_say(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run", classes=(EVIL, "car", "sky"), record={"tags": [EVIL], "host": EVIL},
        config={"run_name": EVIL}, results={"protocol": EVIL},
    )  # fmt: skip
    rows = LABEL_FREE.replace(",3,,False,0.7", ",1,</script><b>,True,")
    write(folder / "label_free.csv", rows)
    write(folder / "csv" / "metrics.csv", "step,train/<script>x\n0,1\n1,2\n")
    sheet = json.loads((folder / "panels" / "sheet.json").read_text())
    write(folder / "panels" / "sheet.json", json.dumps({**sheet, "rows": [EVIL, EVIL], "classes": [
        EVIL, "b", "c"], "columns": [EVIL, "a", "b", "c"]}))  # fmt: skip
    elements = Elements(page_on(folder, [(EVIL, EVIL, EVIL)]))
    assert len(elements.of("script")) == 1 and len(elements.of("b")) == 1  # of the score
    assert elements.open == []


def test_bars_are_as_long_as_their_numbers(tmp_path: Path) -> None:
    text = page_on(write_run(tmp_path / "run"))
    section = text.partition('id="classes"')[2].partition("</section>")[0]
    widths = [float(w) for w in re.findall(r'class="a"[^>]*width="([\d.]+)"', section)]
    assert widths[:3] == pytest.approx([100 * v for v in iou_of(AFTER)], abs=0.01)  # type: ignore[operator]
    assert all(0 <= width <= 100 for width in widths)


def test_what_a_run_lacks_is_left_out_or_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    for name in ("label_free.csv", "csv/metrics.csv"):
        (folder / name).unlink()
    shutil.rmtree(folder / "panels")
    text = page_on(folder)
    assert Elements(text).open == []
    for words in (
        "No final scores",
        "No curves",
        "has drawn no predictions",
        "cost.json is written",
    ):
        assert words in text
    for anchor in ("label-free", "classes", "confusion", "pseudo-labels"):
        assert f'id="{anchor}"' not in text and f'href="#{anchor}"' not in text


def test_a_run_that_began_and_was_killed_has_a_page(tmp_path: Path) -> None:
    write(tmp_path / "run.json", '{"seed": 0}')
    text = page_on(tmp_path)
    assert "ended before its end, after step 0" in text and Elements(text).open == []


def test_an_older_run_shows_whole_sheets(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "panels" / "sheet.json").unlink()
    (folder / "confusion.json").unlink()
    text = page_on(folder)
    assert text.count('class="slide"') == 1 and "kept no confusion matrix" in text
    (folder / "panels" / "step_000010.png").write_bytes(b"x")
    assert "is no PNG picture" in page_on(folder)


def test_pseudo_labels_and_their_picture(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    shutil.copy(folder / "panels" / "step_000000.png", folder / "early_learning.png")
    write(folder / "label_correction.csv",
          "class,iteration,passes,closed,changed,refused,known,right_before,right_after,"
          "right_before_share,right_after_share\ncar,1,0.1,1,100,3,50,5,40,0.1,0.8\n"
          "car,9,0.9,2,100,0,50,5,40,0.1,0.8\nsky,2,0.2,1,7,0,0,0,0,,\n")  # fmt: skip
    text = page_on(folder)
    assert "<td>car</td><td>2</td><td>200</td><td>3</td><td>10.00</td><td>80.00</td>" in text
    assert "<td>sky</td><td>1</td><td>7</td><td>0</td><td>-</td><td>-</td>" in text
    assert "How early learning went" in text


def dumped(path: Path, *flags: str) -> str:
    """The elements that the browser makes of a page."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000",
         f"--user-data-dir={path.parent / 'profile'}", *flags, "--dump-dom", path.as_uri()],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


MEASURE = """<script>
const out = [...document.querySelectorAll("main *")].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !e.closest(".scroll");
}).map((e) => e.tagName + "." + e.className);
const bars = [...document.querySelectorAll("td.bars rect")].filter((e) => {
  const box = e.getBoundingClientRect(), frame = e.ownerSVGElement.getBoundingClientRect();
  return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
}).length;
document.title = JSON.stringify({width: document.documentElement.scrollWidth, inner: innerWidth,
  out, bars, images: [...document.images].filter((i) => i.complete && i.naturalWidth).length,
  text: document.querySelector("main").innerText.length,
  cut: getComputedStyle(document.querySelector(".after")).position});
</script></body>"""


@browser
@pytest.mark.parametrize("width", [390, pytest.param(1400, marks=pytest.mark.slow)])
def test_a_browser_shows_it_within_its_screen(tmp_path: Path, width: int) -> None:
    names = ("road", "a class of a name that is longer than any screen is wide " * 3, "sky")
    text = page_on(write_run(tmp_path / "run", classes=names), [("a.b", "1", "x" * 500)])
    # Measured by a script of a copy, which the page's own policy would not let run.
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    measured = policy.sub("", text).replace("</body>", MEASURE)
    (tmp_path / "copy.html").write_text(measured)
    # No window is as narrow as a telephone.
    write(tmp_path / "frame.html",
          f"<iframe id=f src=copy.html style='width:{width}px;height:900px;border:0'></iframe>"
          "<script>f.onload=()=>{document.title=f.contentDocument.title}</script>")  # fmt: skip
    found = dumped(tmp_path / "frame.html", "--allow-file-access-from-files")
    values = json.loads(html.unescape(re.findall(r"<title>(.*?)</title>", found)[0]))
    assert values["out"] == [] and values["width"] <= values["inner"] == width
    assert values["bars"] == 0 and values["images"] == 12 and values["text"] > 1500
    assert values["cut"] == "absolute"


@browser
def test_scripts_make_the_slider_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page_on(write_run(tmp_path / "run")))
    with_script = dumped(tmp_path / "page.html")
    # As of a browser that runs none: the page then allows another script in place of its own.
    forbidden = re.sub("script-src 'sha256-[^']*'", "script-src 'sha256-AAAA'", page_on(
        tmp_path / "run"))  # fmt: skip
    (tmp_path / "without.html").write_text(forbidden)
    without = dumped(tmp_path / "without.html")
    assert '<html lang="en" class="script">' in with_script
    assert '<html lang="en">' in without
    for text in (with_script, without):
        assert text.count("data:image/jpeg") == 12 and "Where to distrust it" in text
    # A script that is not the page's own does not run.
    text = page_on(write_run(tmp_path / "more"))
    evil = text.replace("</main>", "<script>document.title = 'taken'</script></main>")
    (tmp_path / "evil.html").write_text(evil)
    assert "<title>taken" not in dumped(tmp_path / "evil.html")


def test_a_model_that_adapts_nothing_is_not_compared(tmp_path: Path) -> None:
    config = {"method": {"needs": ["source"], "_target_": "sfseg.methods.source_only.SourceOnly"}}
    text = page_on(write_run(tmp_path / "run", before=None, config=config))
    assert "nothing was adapted" in text and "before and after</h2>" not in text
    assert "no model before this one" in text and "no gain can be said" not in text
    assert "no class vanished" not in text
