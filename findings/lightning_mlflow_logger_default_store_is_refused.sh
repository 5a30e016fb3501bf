#!/usr/bin/env bash
# lightning 2.6.6, mlflow-skinny 3.17.2: Lightning's MLFlowLogger cannot log with its own defaults.
#
# Expected: MLFlowLogger(), as Lightning's pages show it, logs to the folder ./mlruns.
# Seen: it raises MlflowException when it is made: the file store, which the logger's default names as
#   "file:./mlruns", is in maintenance mode and refused unless MLFLOW_ALLOW_FILE_STORE=true. With a
#   tracking_uri of SQLite the same logger works.
# What it did to us: a run that had loaded its data ended before its first step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet lightning==2.6.6 torch==2.14.1 mlflow-skinny==3.17.2 \
    sqlalchemy==2.1.9 alembic==1.20.1
cat > "$folder/look.py" <<'PY'
import os

from lightning.pytorch.loggers import MLFlowLogger
from mlflow.exceptions import MlflowException

for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
    os.environ.pop(name, None)


def log(logger):
    logger.log_metrics({"loss": 0.5}, step=0)
    return logger.experiment.get_run(logger.run_id).data.metrics


try:
    MLFlowLogger()
except MlflowException as error:
    print("refused:", str(error)[:80])
    refused = "maintenance mode" in str(error)
else:
    refused = False
assert refused
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
print("allowed:", log(MLFlowLogger()))
del os.environ["MLFLOW_ALLOW_FILE_STORE"]
found = log(MLFlowLogger(tracking_uri="sqlite:///runs.db"))
print("with a database:", found)
assert found == {"loss": 0.5}
PY
cd "$folder" && "$folder/venv/bin/python" look.py 2> errors.txt || { tail -5 errors.txt; exit 1; }
