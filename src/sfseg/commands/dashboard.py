"""``sfseg-dashboard``: what runs have logged as a page, and as a saved view of W&B."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from sfseg.commands.compare import matching
from sfseg.config.composition import as_typed, command
from sfseg.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from sfseg.report.dashboard import Section

log = logging.getLogger(__name__)
MARK = b'"displayName": "sfseg"'
"""Near the beginning of every file of ``json=``."""


def main() -> None:
    """Entry point of ``sfseg-dashboard``."""
    command(dashboard, "dashboard")


def dashboard(cfg: DictConfig) -> None:
    """Read what the runs have logged; draw it, write it as JSON, or save it in a project.

    Raises:
        ConfigError: nothing to do, a pattern that no run matches, a place where no file can be, or
            W&B cannot be given the view.
        DataError: a folder in which nothing was logged.
        OutputError: a file cannot be written.
    """
    from sfseg.report.html import require_place, write_page
    from sfseg.report.logged_run import name_apart, read_logged
    from sfseg.report.pages.dashboard_page import context, layout_of
    from sfseg.report.pages.page import render

    out, json, project = (_given(cfg, name) for name in ("out", "json", "project"))
    _require_work(cfg, out, json, project)
    if out:
        require_place(Path(out).expanduser())
    runs = [read_logged(folder) for folder in folders_of(cfg)]
    name_apart(runs)
    for run in runs:
        log.info("%s: read from %s", run.label, run.source)
        for note in run.notes:
            log.warning("%s: %s", run.label, note)
    # A project holds many runs, whatever number of them is named here.
    sections = layout_of(runs, compares=True)
    if out:
        content = render("dashboard.html.j2", context(runs))
        write_page(Path(out).expanduser(), content)
        log.info("%s: %.1f MB, of %d runs", out, len(content) / 1e6, len(runs))
    if json:
        _write_json(Path(json).expanduser(), sections, cfg)
    if project:
        from sfseg.report.workspace import save

        address = save(
            sections, project=project, entity=_given(cfg, "entity"), view=_given(cfg, "view")
        )
        log.info("saved view: %s", address)


def folders_of(cfg: DictConfig) -> list[Path]:
    """The runs' folders, each once; of a pattern, those folders in which something was logged.

    Raises:
        ConfigError: a name or a pattern that no run has.
    """
    from sfseg.report.logged_run import is_logged

    given = list(cfg.run) if OmegaConf.is_list(cfg.run) else [as_typed(cfg, "run")]
    found: list[Path] = []
    for word in map(str, given):
        path = Path(word).expanduser()
        matches = [path] if path.is_dir() else matching(path)
        runs = matches if path.is_dir() else [match for match in matches if is_logged(match)]
        if not runs:
            seen = f"; {len(matches)} that match are no folders of runs" if matches else ""
            raise ConfigError(
                f"run={word} is no folder of a run and no pattern of some{seen}; name those of "
                "sfseg-train, such as logs/train/runs/<date> or 'logs/train/multiruns/*/*'"
            )
        found += runs
    if not found:
        raise ConfigError("run must be at least one folder of a run, got none")
    return list({folder.resolve(): folder for folder in found}.values())


def _given(cfg: DictConfig, name: str) -> str | None:
    return None if cfg[name] is None else as_typed(cfg, name)


def _require_work(cfg: DictConfig, out: str | None, json: str | None, project: str | None) -> None:
    if not (out or json or project):
        raise ConfigError("out, json and project are all null, so there is nothing to do; set one")
    for name in ("entity", "view"):
        if cfg[name] is not None and not project and not (name == "entity" and json):
            raise ConfigError(f"{name}={cfg[name]} is of W&B's saved view; set project= too")
    if json:
        _require_own(Path(json).expanduser())


def _require_own(path: Path) -> None:
    """Refuse to replace what is no earlier file of this command."""
    if path.is_dir():
        raise ConfigError(f"json={path} is a folder; name a file, such as {path}/dashboard.json")
    if path.exists():
        with path.open("rb") as file:
            if MARK not in file.read(500):
                raise ConfigError(f"json={path} is there and no dashboard; choose another name")


def _write_json(path: Path, sections: "list[Section]", cfg: DictConfig) -> None:
    from sfseg.report.workspace import sent, workspace
    from sfseg.storage.atomic import write_whole

    view = workspace(
        sections, entity=_given(cfg, "entity") or "", project=_given(cfg, "project") or "sfseg"
    )
    text = sent(view)
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise OutputError(f"json={path} cannot be written: {error}") from error
    log.info("%s: what W&B would be sent, %d sections", path, len(sections))


if __name__ == "__main__":
    main()
