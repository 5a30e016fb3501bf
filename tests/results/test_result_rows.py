from pathlib import Path

import pytest
from handwritten import docs_of
from hydra import compose, initialize_config_dir
from results_record import ROOT
from results_rows import read_definitions

from sfseg.config.composition import CONF
from sfseg.errors import ConfigError

TENT = {"tent": {"set": ["method=tent"]}}


def test_every_row_composes_and_no_two_are_the_same_run() -> None:
    rows = read_definitions(ROOT / "docs" / "results" / "rows.yaml").rows
    runs = [frozenset(row.overrides) for row in rows.values()]
    assert len(runs) > 60 and len(set(runs)) == len(runs)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for row in rows.values():
            cfg = compose("train", overrides=list(row.overrides))
            assert cfg.method.lr > 0 and cfg.trainer.accelerator == "cpu"


def test_a_row_is_what_all_share_what_its_table_says_and_its_own(tmp_path: Path) -> None:
    tables = {
        "a": {"overrides": ["eval_every=9"], "rows": {"x": {"set": ["method=tent", "seed=4"]}}},
        "b": {"in_order": True, "rows": {"x": {"words": "again", "paper": 1.5}}},
    }
    found = read_definitions(docs_of(tmp_path / "docs", tables) / "results" / "rows.yaml")
    assert found.rows["x"].overrides == ("trainer=cpu", "eval_every=9", "method=tent", "seed=4")
    assert (found.rows["x"].table, found.seeds) == ("a", (0, 1))
    (entry,) = found.tables["b"].entries
    assert (entry.row, entry.words, entry.paper) == ("x", "again", 1.5)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"a": {"rows": TENT, "colour": 1}}, "table a has .'colour'."),
        ({"a": {"rows": {"x": {"sets": []}}}}, "row x has .'sets'."),
        ({"a": {"rows": {"x": {}}}}, "rows .'x'. have no `set`"),
        ({"a": {"rows": TENT}, "b": {"rows": TENT}}, "tent is defined by a and by b"),
        ({"a": {"rows": {"../x": {"set": []}}}}, "'../x': a name is of"),
        ({"a": {"rows": {"x": {"set": ["data.root=/home/me"]}}}}, "is a place of one machine"),
        ({"a": {"rows": {"x": {"set": ["data.root=~/data"]}}}}, "is a place of one machine"),
        ({"a": {"rows": {"x": {"set": "method=tent"}}}}, "set of row x must be a list"),
        ({"a": {"overrides": "seed=1", "rows": TENT}}, "overrides of table a must be a list"),
        ({"a": {"rows": {"x": {"set": [3]}}}}, "set of row x must be a list"),
        ({"a": {"rows": "tent"}}, "no attribute|must be a mapping"),
    ],
)
def test_definitions_that_cannot_work_are_refused(
    tmp_path: Path, tables: dict[str, object], message: str
) -> None:
    path = docs_of(tmp_path / "docs", tables) / "results" / "rows.yaml"
    with pytest.raises(ConfigError, match=message):
        read_definitions(path)


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_are_different_numbers(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    docs = docs_of(tmp_path / "docs", {"a": {"rows": TENT}}, seeds=seeds)
    with pytest.raises(ConfigError, match="seeds must be different numbers"):
        read_definitions(docs / "results" / "rows.yaml")
