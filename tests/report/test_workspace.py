"""The layout as W&B's saved view, built by W&B's own package; nothing is sent."""

import json
import socket
from pathlib import Path

import pytest
import wandb

from sfseg.errors import ConfigError
from sfseg.report import workspace as module
from sfseg.report.dashboard import Panel, Section, layout
from sfseg.report.workspace import save, sent, workspace

wr = pytest.importorskip("wandb_workspaces.reports.v2")
ws = pytest.importorskip("wandb_workspaces.workspaces")
internal = ws.internal

SECTIONS = [
    Section(
        "All kinds",
        (
            Panel("mIoU", ("source_only/target/mIoU", "val/target/mIoU"), "bars"),
            Panel("IoU, traffic light", ("val/target/IoU/traffic light",)),
            Panel("panels/target", ("panels/target",), "pictures"),
            Panel("CPU", ("cpu",), "system"),
            Panel("Step", ("train/loss",)),
        ),
        is_open=True,
    ),
    Section("Other", (Panel("x", ("x",)),)),
]
STEP = "trainer/global_step"


def without_ids(node):
    if isinstance(node, dict):
        return {key: without_ids(value) for key, value in node.items() if key != "__id__"}
    return [without_ids(part) for part in node] if isinstance(node, list) else node


def spec_of(sections=SECTIONS):
    return without_ids(json.loads(sent(workspace(sections, entity="lab", project="seg"))))


def test_what_is_sent_has_all_panels_in_order():
    view = spec_of()
    assert (view["entity"], view["project"], view["displayName"]) == ("lab", "seg", "sfseg")
    # Not W&B's own panels beside these.
    assert view["spec"]["section"]["settings"]["shouldAutoGeneratePanels"] is False
    first, other = view["spec"]["section"]["panelBankConfig"]["sections"]
    assert (first["name"], first["isOpen"], other["isOpen"]) == ("All kinds", True, False)
    # Five panels in rows of four: all of them at once.
    assert (first["flowConfig"]["columnsPerPage"], first["flowConfig"]["rowsPerPage"]) == (4, 2)
    found = [(panel["viewType"], panel["config"]) for panel in first["panels"]]
    kinds = ["Bar Chart", "Run History Line Plot", "Media Browser"]
    assert [kind for kind, _ in found] == [*kinds, kinds[1], kinds[1]]
    bars, line, pictures, machine, _ = (config for _, config in found)
    assert bars["metrics"] == ["source_only/target/mIoU", "val/target/mIoU"]
    assert (line["xAxis"], line["metrics"]) == (STEP, ["val/target/IoU/traffic light"])
    assert pictures["mediaKeys"] == ["panels/target"]
    assert (machine["xAxis"], machine["metrics"]) == ("_runtime", ["system/cpu"])
    assert spec_of() == view


def test_the_layout_of_a_large_run_is_taken_whole():
    names = [f"val/{d}/IoU/c{k}" for d in ("mean", "fog", "rain") for k in range(19)]
    sections = layout([*names, "train/loss", "label_free/combined"], compares=True)
    found = spec_of(sections)["spec"]["section"]["panelBankConfig"]["sections"]
    drawn = [panel["config"]["metrics"] for one in found for panel in one["panels"]]
    assert drawn == [list(panel.names) for section in sections for panel in section.panels]


class Api:
    """What the package asks of W&B's client."""

    default_entity = "lab"
    app_url = "https://wandb.example"

    @property
    def __dict__(self):
        return {"_service_api": self}

    def execute_graphql(self, query, variables):
        raise AssertionError("not without a fake answer")


@pytest.fixture
def service(monkeypatch):
    """A server that can be reached, a key, and what was sent to it: a saved view comes back."""
    calls = []

    def answer(api, query, variables):
        calls.append(variables)
        if "upsertView" in query:
            view = {"id": variables.get("id", "new"), "name": variables["name"]}
            return {"upsertView": {"view": view}}
        old = workspace([Section("Old", ())], entity="lab", project="seg")._to_model()
        spec = old.spec.model_dump_json(by_alias=True, exclude_none=True)
        node = {"id": "old", "displayName": "mine", "spec": spec}
        return {"project": {"allViews": {"edges": [{"node": node}]}}}

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setattr(wandb, "Api", Api)
        monkeypatch.setattr(internal, "execute_graphql", answer)
        yield calls


def arguments(**changed):
    return {"project": "seg", "entity": None, "view": None, **changed}


def test_a_view_is_saved_as_json_says(service):
    address = save(SECTIONS, **arguments())
    (call,) = service
    assert address.startswith("https://wandb.example/lab/seg?nw=")
    assert (call["entityName"], call["projectName"], "id" in call) == ("lab", "seg", False)
    assert without_ids(json.loads(call["spec"])) == spec_of()["spec"]


def test_a_view_keeps_its_name_when_its_panels_are_replaced(service):
    view = "https://wandb.example/lab/seg?nw=abc123"
    assert save(SECTIONS, **arguments(view=view)) == view
    call = service[-1]
    assert (call["id"], call["displayName"], call["name"]) == ("old", "mine", "nw-abc123-v")
    sections = json.loads(call["spec"])["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == ["All kinds", "Other"]


@pytest.mark.parametrize("view", ["https://wandb.example/lab/other?nw=a", "nonsense"])
def test_a_view_of_another_project_is_left_alone(service, view):
    with pytest.raises(ConfigError, match="view"):
        save(SECTIONS, **arguments(view=view))
    assert not any("spec" in call for call in service)


def test_what_the_server_refuses_is_a_setting(service, monkeypatch):
    def refuse(*_):
        raise wandb.errors.CommError("permission denied")

    monkeypatch.setattr(internal, "execute_graphql", refuse)
    with pytest.raises(ConfigError, match=r"permission denied.*that the key may write there"):
        save(SECTIONS, **arguments())
    monkeypatch.setattr(internal, "execute_graphql", lambda *_: {"upsertView": None})
    with pytest.raises(ConfigError, match=r"project=seg was not given its view \(TypeError"):
        save(SECTIONS, **arguments())
    monkeypatch.setattr(Api, "default_entity", None)
    with pytest.raises(ConfigError, match="entity must be named"):
        save(SECTIONS, **arguments())


def test_no_key_and_no_network_are_told(service, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9 cannot be reached; out=<page>"):
        save(SECTIONS, **arguments())
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"no key for http://127.*wandb login"):
        save(SECTIONS, **arguments())
    assert service == []


def test_a_package_that_is_not_there_or_another_one(monkeypatch):
    monkeypatch.delattr(wr, "BarPlot")
    with pytest.raises(ConfigError, match=r"wandb-workspaces \d\S* does not take the layout"):
        workspace(SECTIONS, entity="e", project="p")
    monkeypatch.setattr(wr, "BarPlot", lambda **_: 3, raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'wandb-workspaces==\d"):
        workspace(SECTIONS, entity="e", project="p")
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(ConfigError, match=r"need wandb-workspaces.*pip install 'sfseg\[wandb\]'"):
        workspace(SECTIONS, entity="e", project="p")


def test_the_version_that_it_was_written_for_is_the_one_that_is_allowed():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'"{module.PACKAGE}>={module.TESTED},<' in project
