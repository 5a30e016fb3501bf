"""``sfseg-report``: one page on a run that explains it; ``sfseg-train`` writes it at its end."""

import logging
import sys
from pathlib import Path

from omegaconf import DictConfig

from sfseg.config.bare_folders import as_setting
from sfseg.config.composition import as_typed, command

log = logging.getLogger(__name__)
PAGE = "report.html"


def main() -> None:
    """Entry point of ``sfseg-report``."""
    sys.argv[1:] = as_setting(sys.argv[1:], "run")
    command(report, "run_report")


def report(cfg: DictConfig) -> None:
    """Read a run's folder and write the page on it.

    Raises:
        ConfigError: a place where no page can be.
        DataError: the folder is no run's.
        OutputError: the page cannot be written.
    """
    from sfseg.report.html import require_place

    folder = Path(as_typed(cfg, "run")).expanduser()
    out = folder / PAGE if cfg.out is None else Path(as_typed(cfg, "out")).expanduser()
    require_place(out)
    size = write_report(folder, out)
    log.info("%s: %.1f MB", out, size / 1e6)


def write_report(folder: Path, out: Path) -> int:
    """Write the page on a run; returns its number of bytes.

    Args:
        folder: of the run.
        out: the page.

    Raises:
        DataError: the folder is no run's.
        OutputError: the page cannot be written.
    """
    from sfseg.report.html import write_page
    from sfseg.report.pages.page import render
    from sfseg.report.pages.run_files import read_run
    from sfseg.report.pages.sections import context
    from sfseg.runs.default_settings import changed_settings

    run = read_run(folder)
    changed = changed_settings(run.config, run.overrides)
    content = render("report.html.j2", context(run, changed))
    write_page(out, content)
    return len(content)


def write_at_end(folder: Path) -> None:
    """Write the page into a run's own folder; what fails is a warning: the run is done."""
    try:
        write_report(folder, folder / PAGE)
    except Exception as error:
        log.warning(
            "no page on the run (%s: %s); sfseg-report run=%s tries again, report=false makes none",
            type(error).__name__, error, folder,
        )  # fmt: skip
    else:
        log.info("page on the run: %s", folder / PAGE)


if __name__ == "__main__":
    main()
