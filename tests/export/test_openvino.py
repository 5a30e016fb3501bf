"""OpenVINO's files, in a process of their own: once loaded, it upsets pytest's capturing."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from small_network import CLASSES

PROGRAM = """
import json, sys
import torch
from scripting import script
from small_network import small_network
from sfseg.export.agreement import compare, require_agreement
from sfseg.export.deployed import Deployed
from sfseg.export.openvino_file import OpenVino, OpenVinoFile
from sfseg.export.tracing import traced
import openvino

pictures = script("export_tables").pictures()
torch.manual_seed(0)
model = Deployed(small_network(), "labels", confidence=True).eval()
file = OpenVinoFile(traced(model), model, {"classes": "[1]"})
require_agreement(model, compare(model, file, pictures))
from pathlib import Path
file.write(Path("model.xml"))
file.publish()
written = file.write(Path("new/labels.xml"))
read = openvino.Core().read_model("new/labels.xml")
made = OpenVino(read, threads=1)(pictures[1])
equal = (made["labels"] == model(pictures[1])[1]).float().mean().item()
said = read.get_rt_info(["sfseg", "classes"]).value
json.dump([written, list(made), equal, said], open("found.json", "w"))
"""


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")
@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch exports from 2.7")
def test_openvino_reads_what_is_written_and_runs_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "export.md"
    (code,) = re.findall(r"```python\n(# run_openvino.py\n.*?)```", page.read_text(), re.S)
    shown = "\nprint(logits.shape)"
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    for program in (PROGRAM, code + shown):
        ran = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"(1, {CLASSES}, 160, 224)\n"
    written, names, equal, said = json.loads((tmp_path / "found.json").read_text())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "labels.bin",
        "labels.xml",
    ]
    assert written == sum(path.stat().st_size for path in (tmp_path / "new").iterdir())
    assert names == ["labels", "confidence"] and equal > 0.999 and said == "[1]"
