"""The dashboard's layout as a saved view of a W&B project, by ``wandb-workspaces``."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sfseg.errors import ConfigError
from sfseg.report.dashboard import Panel, Section
from sfseg.report.wandb_server import why_unusable

PACKAGE = "wandb-workspaces"
TESTED = "0.4.13"
INSTALL = "pip install 'sfseg[wandb]'"
NAME = "sfseg"
"""Of the view, in the project's list of saved views."""
COLUMNS = 4
STEP = "trainer/global_step"
TIME = "RelativeTime(Process)"
OFFLINE = "out=<page>.html draws the same without network, json=<file> writes what would be sent"


def workspace(sections: Sequence[Section], *, entity: str, project: str) -> Any:
    """The view as an object of ``wandb_workspaces``; nothing is sent.

    Args:
        sections: of the layout, for lines that are runs.
        entity: user or team that the project belongs to.
        project: name of the project.

    Raises:
        ConfigError: the package is not there, or another version than this is written for.
    """
    with_reports, with_workspaces = _package()
    try:
        return with_workspaces.Workspace(
            entity=entity,
            project=project,
            name=NAME,
            sections=[_section(one, with_reports, with_workspaces) for one in sections],
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise _refused(error) from error


def sent(view: Any) -> str:
    """What :func:`save` would send, as JSON; panels have new random ids every time.

    Raises:
        ConfigError: another version of the package than this is written for.
    """
    try:
        model = view._to_model()
        text: str = model.model_dump_json(by_alias=True, exclude_none=True, indent=2)
    except (AttributeError, TypeError, ValueError) as error:
        raise _refused(error) from error
    return text


def save(sections: Sequence[Section], *, project: str, entity: str | None, view: str | None) -> str:
    """Save the layout in a project; returns the view's address.

    Args:
        sections: of the layout, for lines that are runs.
        project: where it is saved.
        entity: None takes the one that the key belongs to.
        view: address of a saved view whose panels are replaced; None makes a new view.

    Raises:
        ConfigError: the package, the key or the network is missing, or the server refuses.
    """
    import wandb

    _package()
    if reason := why_unusable(wandb.setup().settings):
        raise ConfigError(f"project={project} cannot be given its view: {reason}; {OFFLINE}")
    try:
        return _save(sections, project, entity, view)
    except Exception as error:
        if not _is_of_wandb(error):
            raise
        raise ConfigError(
            f"project={project} was not given its view ({type(error).__name__}: {error}); see that "
            f"project, entity and view are right and that the key may write there; {OFFLINE}"
        ) from error


def _save(sections: Sequence[Section], project: str, entity: str | None, view: str | None) -> str:
    import wandb

    owner = entity or wandb.Api().default_entity
    if not owner:
        raise ConfigError("entity must be named: the key of W&B belongs to no one by default")
    made = workspace(sections, entity=owner, project=project)
    if view is not None:
        _, with_workspaces = _package()
        old = with_workspaces.Workspace.from_url(view)
        if (old.entity, old.project) != (owner, project):
            raise ConfigError(
                f"view={view} must be of the project {owner}/{project}, but is of "
                f"{old.entity}/{old.project}"
            )
        old.sections = made.sections
        made = old
    address: str = made.save().url
    return address


def _is_of_wandb(error: Exception) -> bool:
    """Whether W&B has failed: its own errors, or what its package makes of an unexpected answer."""
    own = type(error).__module__.split(".")[0] in {"wandb", "wandb_workspaces"}
    return own or isinstance(error, OSError | LookupError | TypeError | ValueError)


def _package() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as with_reports
        import wandb_workspaces.workspaces as with_workspaces
    except ImportError as error:
        raise ConfigError(
            f"project= and json= need {PACKAGE}, which cannot be imported ({error}); {INSTALL}"
        ) from error
    return with_reports, with_workspaces


def _refused(error: Exception) -> ConfigError:
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        found = "of unknown version"
    return ConfigError(
        f"{PACKAGE} {found} does not take the layout ({type(error).__name__}: {error}); "
        f"pip install '{PACKAGE}=={TESTED}' is what this was written for"
    )


def _section(section: Section, with_reports: Any, with_workspaces: Any) -> Any:
    rows = -(-len(section.panels) // COLUMNS)
    return with_workspaces.Section(
        name=section.title,
        panels=[_panel(panel, with_reports) for panel in section.panels],
        is_open=section.is_open,
        # All of a section at once: behind pages nobody looks for a class.
        layout_settings=with_workspaces.SectionLayoutSettings(columns=COLUMNS, rows=max(rows, 1)),
    )


def _panel(panel: Panel, with_reports: Any) -> Any:
    names = list(panel.names)
    if panel.kind == "bars":
        return with_reports.BarPlot(title=panel.title, metrics=names)
    if panel.kind == "pictures":
        return with_reports.MediaBrowser(title=panel.title, media_keys=names, num_columns=1)
    if panel.kind == "system":
        keys = [f"system/{name}" for name in names]
        return with_reports.LinePlot(title=panel.title, x=TIME, y=keys)
    return with_reports.LinePlot(title=panel.title, x=STEP, y=names)
