#!/usr/bin/env bash
# huggingface_hub 2.4.0: a model card's results of two data sets of one type become results of one.
#
# Expected: EvalResult has dataset_name, "a pretty name", and results that differ in it are shown as of
#   two data sets, such as the target that a model was adapted to and the source it came from.
# Seen: results are grouped by the data set's type, configuration, split and revision alone. Both
#   scores stand below the name of the first, and read back the source's score is the target's. A
#   dataset_config of its own for each keeps them apart.
# What it did to us: a card of an adapted model said that its target had the source's mIoU too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet huggingface_hub==2.4.0 pyyaml==6.0.3
cat > "$folder/look.py" <<'PY'
from huggingface_hub import EvalResult, ModelCard, ModelCardData


def read_back(**told_apart):
    """Name of the data set by score, as another program reads the card."""
    results = [
        EvalResult(
            task_type="image-segmentation", dataset_type="folder", dataset_name=name,
            metric_type="mean_iou", metric_value=value,
            **{key: name for key in told_apart},
        )
        for name, value in (("rainy streets", 0.61), ("a game's streets", 0.74))
    ]
    data = ModelCardData(model_name="adapted", eval_results=results)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n# adapted\n")
    return {result.metric_value: result.dataset_name for result in card.data.eval_results}


merged, apart = read_back(), read_back(dataset_config=True)
print("by name alone:", merged)
print("with a configuration each:", apart)
assert merged == {0.61: "rainy streets", 0.74: "rainy streets"}
assert apart == {0.61: "rainy streets", 0.74: "a game's streets"}
PY
"$folder/venv/bin/python" "$folder/look.py"
