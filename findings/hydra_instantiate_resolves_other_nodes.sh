#!/usr/bin/env bash
# hydra-core 1.3.8, omegaconf 2.3.1: hydra.utils.instantiate(cfg.b) changes cfg.a.
#
# Expected: instantiate works on a deep copy of the node that it gets, as its source says in the
#   line that calls copy.deepcopy, so that the configuration around the node stays as composed.
# Seen: the copy keeps its parent, and OmegaConf.resolve then resolves every node that an
#   interpolation leads to where it stands: in the caller's configuration, outside the node. A copy
#   of the whole configuration taken afterwards has lost its links: cfg.size changes, cfg.a does not.
#   A scalar link (cfg.c) is only read and stays a link.
# What it did to us: a checkpoint's record of its run said other things before and after the data
#   were built, and later overrides of "size" were silently without effect.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hydra-core==1.3.8 omegaconf==2.3.1
"$folder/venv/bin/python" - <<'PY'
import hydra
import omegaconf
from omegaconf import OmegaConf

print("hydra-core", hydra.__version__, "omegaconf", omegaconf.__version__)
cfg = OmegaConf.create(
    {
        "size": 3,
        "a": {"crop": "${size}"},
        "b": {"_target_": "builtins.dict", "view": "${a}"},
        "c": {"_target_": "builtins.dict", "crop": "${size}"},
    }
)


def shown() -> dict:
    return OmegaConf.to_container(cfg, resolve=False)


before = shown()
hydra.utils.instantiate(cfg.c)
assert shown() == before, shown()
print("a scalar link:       nothing changed")
hydra.utils.instantiate(cfg.b)
after = shown()
print("a link to a mapping:", after["a"], "in the caller's configuration")
assert before["a"] == {"crop": "${size}"} and after["a"] == {"crop": 3}, after
assert after["b"] == before["b"], "the node itself was copied"
cfg.size = 4
print("after cfg.size = 4: ", OmegaConf.to_container(cfg.a, resolve=True))
assert cfg.a.crop == 3
PY
