#!/usr/bin/env bash
# wandb-workspaces 0.4.13: a view called "lr=0.1" is refused as if it held an emoji.
#
# Expected: the check of a view's name refuses emojis, as its message says; names of ASCII letters,
#   digits and signs are none. The app takes them.
# Seen: all of "= + < > ~ | $ ^ `" are refused, since their Unicode categories are Sm, Sc and Sk:
#   "Emojis are not allowed :(". A view that the app has saved under such a name cannot be read
#   either: its name passes the same check.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet wandb-workspaces==0.4.13 wandb==0.31.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import string
from importlib.metadata import version

import wandb_workspaces.workspaces as ws

print("wandb-workspaces", version("wandb-workspaces"), "wandb", version("wandb"))


def refusal(call) -> str:
    try:
        call()
    except ValueError as error:
        return str(error).splitlines()[2].strip().partition(" [")[0]
    return ""


named = {name: refusal(lambda: ws.Workspace(entity="e", project="p", name=name))
         for name in ("lr 0.1", "lr=0.1", "IoU > 50 %", "seeds 0|1")}
for name, text in named.items():
    print(f"{name!r}: {text or 'taken'}")
assert not named["lr 0.1"] and all("Emojis" in named[n] for n in ("lr=0.1", "IoU > 50 %", "seeds 0|1"))

signs = [c for c in string.punctuation
         if refusal(lambda: ws.Workspace(entity="e", project="p", name=c))]
print("ASCII that is an emoji:", *signs)
assert set(signs) == set("=+<>~|$^`")

# As a view of this name comes from the server.
saved = ws.Workspace(entity="e", project="p", name="lr 0.1")._to_model()
saved.display_name = "lr=0.1"
text = refusal(lambda: ws.Workspace._from_model(saved))
print("a saved view called 'lr=0.1', read:", text or "taken")
assert "Emojis" in text
PY
