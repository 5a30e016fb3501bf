import re
from pathlib import Path
from typing import Any

import pytest
from handwritten import COST, docs_of, failed, finished
from results_page import rendered
from results_record import ROOT, new_record, write_record
from results_rows import read_definitions

from sfseg.errors import ConfigError

ROWS = {"tent": {"set": ["method=tent"]}, "hcl": {"set": ["method=hcl", "method.lr=1"]}}
PAGE = "# Title\n<!-- generated: {} -->\n<!-- end -->\nLast words.\n"


def page_of(
    folder: Path,
    records: dict[str, dict[str, Any]],
    *,
    block: str = "table one",
    table: dict[str, Any] | None = None,
    seeds: tuple[int, ...] = (0, 1),
) -> str:
    """The page of one table, by seeds of its rows."""
    docs = docs_of(folder / "docs", {"one": {"rows": ROWS, **(table or {})}}, PAGE.format(block),
                   seeds=seeds)  # fmt: skip
    rows = read_definitions(docs / "results" / "rows.yaml")
    for name, own in records.items():
        record = new_record(rows.rows[name]) | {"seeds": own}
        write_record(docs / "results" / f"{name}.json", record)
    files = rendered(docs, rows)
    text = files[docs / "results.md"]
    assert text.startswith("# Title\n") and text.endswith("\nLast words.\n")
    (docs / "results.md").write_text(text)
    assert rendered(docs, rows) == files, "made once more, the page is the same"
    return text


def line_of(page: str, row: str) -> list[str]:
    """Cells of a row."""
    (line,) = [line for line in page.splitlines() if line.startswith(f"| [{row}](")]
    return line.strip("| ").split(" | ")


def test_the_committed_page_is_what_the_records_say() -> None:
    docs = ROOT / "docs"
    files = rendered(docs, read_definitions(docs / "results" / "rows.yaml"))
    assert {path.name for path in docs.glob("results/*.svg")} == {
        path.name for path in files if path.suffix == ".svg"
    }
    for path, text in files.items():
        assert path.read_text("utf-8") == text, f"{path.name} is old: make tables"


def test_means_and_spreads_are_computed(tmp_path: Path) -> None:
    slow = {**COST, "minutes": 4.0, "cpu_minutes": 2.5, "peak_memory_mib": 1234.4}
    page = page_of(tmp_path, {"hcl": {"0": finished(0.44), "1": finished(0.46, cost=slow)}})
    assert line_of(page, "hcl") == [
        "[hcl](results/hcl.json)", "2", "40.00 +- 0.00", "45.00 +- 1.41", "+5.00 +- 1.41", "+4.00",
        "3.0", "2.0", "1,234", "5", "`method=hcl method.lr=1`",
    ]  # fmt: skip
    assert (
        "- 1 of 2 rows are measured with sfseg" in page and "not with every seed: `tent`." in page
    )
    assert "19 classes; weights: last." in page
    assert "Measured on Abacus 9 (2 cores, one thread), torch 2.14.1; commit `cccccccccc`." in page


def test_the_largest_gain_is_first_unless_the_order_is_given(tmp_path: Path) -> None:
    records = {"tent": {"0": finished(0.44)}, "hcl": {"0": finished(0.5)}}
    by_gain = page_of(tmp_path / "a", records)
    as_given = page_of(tmp_path / "b", records, table={"in_order": True})
    assert re.findall(r"^\| \[(\w+)", by_gain, re.MULTILINE) == ["hcl", "tent"]
    assert re.findall(r"^\| \[(\w+)", as_given, re.MULTILINE) == ["tent", "hcl"]


def test_a_missing_seed_is_seen(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"tent": {"0": finished(0.44)}})
    cells = line_of(page, "tent")
    assert cells[1:6] == ["1 of 2", "40.00", "44.00", "+4.00", "+4.00"]
    assert "- 0 of 2 rows are measured" in page


def test_a_failed_run_is_shown_with_its_reason(tmp_path: Path) -> None:
    reason = "exit code 4: loss `ce` | is NaN"
    records = {"tent": {"0": failed(reason), "1": finished(0.44)}, "hcl": {"0": failed(reason)}}
    page = page_of(tmp_path, records)
    assert line_of(page, "tent")[1:4] == ["1 of 2", "40.00", "44.00"]
    assert line_of(page, "hcl")[1:9] == ["0 of 2", "-", "failed", "-", "-", "-", "-", "-"]
    assert "- **`tent`, seed 0, failed**: `exit code 4: loss 'ce' | is NaN`" in page
    assert "- **`hcl`, seed 0, failed**" in page and "every seed: `tent`, `hcl`." in page


def test_a_cancelled_run_is_none_that_failed(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"tent": {"0": {**failed(""), "status": "cancelled"}}})
    assert line_of(page, "tent")[3] == "cancelled"
    assert "- `tent`, seed 0, was cancelled." in page and "failed" not in page


def test_a_dirty_tree_and_an_unknown_commit_are_said(tmp_path: Path) -> None:
    own = finished(0.5)["sfseg"]
    page = page_of(
        tmp_path,
        {
            "tent": {"0": finished(0.44, sfseg={**own, "dirty": True})},
            "hcl": {"0": finished(0.44, sfseg={**own, "commit": None, "dirty": None})},
        },
    )
    assert "commit `cccccccccc` **with changes of its own**; unknown." in page


def test_costs_of_a_run_that_was_interrupted_are_not_taken_for_the_whole(tmp_path: Path) -> None:
    part = {**COST, "minutes": 0.1, "cpu_minutes": 0.1, "steps": 20}
    page = page_of(tmp_path, {
        "tent": {"0": finished(0.44), "1": finished(0.46, cost=part)},
        "hcl": {"0": finished(0.44, cost=part)},
    })  # fmt: skip
    assert line_of(page, "tent")[6:9] == ["2.0", "1.5", "1,000"]
    assert line_of(page, "hcl")[6:9] == ["-", "-", "-"]


def test_rows_of_another_version_are_not_counted_as_measured(tmp_path: Path) -> None:
    old = {**finished(0.5)["sfseg"], "version": "0.0.1"}
    page = page_of(tmp_path, {"tent": {"0": finished(0.44, sfseg=old)}}, seeds=(0,))
    assert "- 0 of 2 rows are measured" in page and line_of(page, "tent")[3] == "44.00"


def test_a_record_of_other_settings_than_now_is_not_shown(tmp_path: Path) -> None:
    docs = docs_of(tmp_path / "docs", {"one": {"rows": ROWS}}, PAGE.format("table one"))
    rows = read_definitions(docs / "results" / "rows.yaml")
    record = new_record(rows.rows["tent"]) | {"seeds": {"0": finished(0.44)}}
    write_record(docs / "results" / "tent.json", {**record, "overrides": ["method=ld"]})
    assert "| [tent]" not in rendered(docs, rows)[docs / "results.md"]


def test_a_record_without_a_row_is_an_error(tmp_path: Path) -> None:
    docs = docs_of(tmp_path / "docs", {"one": {"rows": ROWS}}, PAGE.format("table one"))
    rows = read_definitions(docs / "results" / "rows.yaml")
    record = {**new_record(rows.rows["tent"]), "name": "gone"}
    write_record(docs / "results" / "gone.json", record)
    with pytest.raises(ConfigError, match=r"records of no row: .'gone'.; remove them"):
        rendered(docs, rows)


@pytest.mark.parametrize("block", ["table two", "tables one", "picture one"])
def test_a_page_asks_for_what_there_is(tmp_path: Path, block: str) -> None:
    with pytest.raises(ConfigError, match=f"asks for '{block}'; there are table, scores, chart"):
        page_of(tmp_path, {}, block=block)


@pytest.mark.parametrize("end", ["", "<!-- end --> and more"])
def test_a_part_of_the_page_without_end_takes_nothing_along(tmp_path: Path, end: str) -> None:
    mark = "<!-- generated: table one -->\n"
    page = f"{mark}{end}\nWhat a person wrote.\n{mark}<!-- end -->\n"
    docs = docs_of(tmp_path / "docs", {"one": {"rows": ROWS}}, page)
    with pytest.raises(ConfigError, match=r"every <!-- generated: ... --> is closed by"):
        rendered(docs, read_definitions(docs / "results" / "rows.yaml"))


def test_papers_and_corrected_labels_have_columns_where_there_are_any(tmp_path: Path) -> None:
    table = {"rows": {**ROWS, "tent": {**ROWS["tent"], "words": "full", "paper": 56.2}}}
    corrected = [
        {"classes": 2, "known": 20, "right_before": 6, "right_after": 14},
        {"classes": 3, "known": 10, "right_before": 1, "right_after": 9},
    ]
    own = {str(k): finished(0.44, correction=c) for k, c in enumerate(corrected)}
    page = page_of(tmp_path, {"tent": own, "hcl": {"0": finished(0.44)}}, table=table)
    assert "| row | paper | runs |" in page
    line = next(
        line for line in page.splitlines() if line.startswith("| [full](results/tent.json)")
    )
    assert "| 56.20 | 2 |" in line and "| 2 to 3 | 20% -> 80% | `method=tent` |" in line
    assert line_of(page, "hcl")[-3:-1] == ["-", "-"]


def test_a_row_is_judged_on_the_domain_of_its_table(tmp_path: Path) -> None:
    seed = finished(0.44)
    seed["scores"]["source"] = finished(0.1, before=0.7)["scores"]["target"]
    page = page_of(tmp_path, {"tent": {"0": seed}}, table={"judged_on": "source"})
    assert line_of(page, "tent")[2:5] == ["70.00", "10.00", "-60.00"]


def test_a_table_that_is_judged_on_what_has_no_scores_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"judged_on: foggy, of which row tent .* of target"):
        page_of(tmp_path, {"tent": {"0": finished(0.44)}}, table={"judged_on": "foggy"})


def test_what_scores_are_worth_is_computed_from_the_curves(tmp_path: Path) -> None:
    page = page_of(
        tmp_path, {"tent": {"0": finished(0.44), "1": finished(0.46)}}, block="scores one"
    )
    assert "6 evaluations of 2 runs:" in page
    combined = next(line for line in page.splitlines() if line.startswith("| combined"))
    # It picks the last one of each run, 4 and 2 below the best.
    assert combined.endswith("| 0.50 | 3.00 +- 1.41 | 3.00 +- 1.41 |")


def test_a_chart_is_linked_where_there_is_one(tmp_path: Path) -> None:
    table, block = {"chart": True}, "chart one"
    assert "Nothing is measured yet." in page_of(tmp_path / "a", {}, table=table, block=block)
    shown = page_of(tmp_path / "b", {"tent": {"0": finished(0.44)}}, table=table, block=block)
    assert "](results/one.svg)" in shown
