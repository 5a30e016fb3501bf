"""``sfseg-compare``: one page on several runs."""

import logging
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sfseg.config.bare_folders import as_list
from sfseg.config.composition import as_typed, command
from sfseg.errors import ConfigError

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of ``sfseg-compare``."""
    sys.argv[1:] = as_list(sys.argv[1:], "runs")
    command(compare, "compare")


def compare(cfg: DictConfig) -> None:
    """Read the runs' folders and write the page.

    Raises:
        ConfigError: fewer than two runs, or a place where no page can be.
        DataError: a folder is no run's, or the runs have other classes.
        OutputError: the page cannot be written.
    """
    from sfseg.report import tables
    from sfseg.report.html import require_place, write_page
    from sfseg.report.pages.comparison import compare as compared
    from sfseg.report.pages.comparison import context
    from sfseg.report.pages.page import render
    from sfseg.report.pages.run_files import read_run

    out = Path(as_typed(cfg, "out")).expanduser()
    require_place(out)
    folders = folders_of(cfg)
    found = compared([read_run(folder) for folder in folders])
    content = render("compare.html.j2", context(found))
    write_page(out, content)
    for text in found.warnings:
        log.warning(text)
    for table in found.tables:
        rows = [[g.label, g.seeds, g.before, g.after, g.gain] for g in table.groups]
        header = ["settings", "seeds", "source-only", "adapted", "gain"]
        tables.show(f"{table.domain}: mIoU in %\n{table.protocol}", header, rows)
    log.info("%s: %.1f MB, of %d runs", out, len(content) / 1e6, len(folders))


def folders_of(cfg: DictConfig) -> list[Path]:
    """The runs' folders, each once, in the order in which they were named.

    Raises:
        ConfigError: a pattern that nothing matches, or fewer than two folders.
    """
    given = list(cfg.runs) if OmegaConf.is_list(cfg.runs) else [as_typed(cfg, "runs")]
    found: list[Path] = []
    for word in map(str, given):
        path = Path(word).expanduser()
        matches = [path] if path.exists() else matching(path)
        if not matches:
            raise ConfigError(f"runs: nothing is called or matches {word}; name folders of runs")
        found += matches
    once = list({folder.resolve(): folder for folder in found}.values())
    if len(once) < 2:
        raise ConfigError(
            f"runs must be at least two folders, got {len(once)}; sfseg-report run=<folder> makes "
            "a page on one"
        )
    return once


def matching(pattern: Path) -> list[Path]:
    """Folders that a pattern stands for, in the order of their names."""
    root = Path(pattern.anchor)
    return sorted(path for path in root.glob(str(pattern.relative_to(root))) if path.is_dir())


if __name__ == "__main__":
    main()
