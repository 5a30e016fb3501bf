#!/usr/bin/env bash
# skada 0.6.0, scikit-learn 1.9.1, numpy 2.4.6: PredictionEntropyScorer is entropy by the class.
#
# Expected: reduction="none" is the entropy of each sample, (n_samples,), as documented, and "mean"
#   their mean; log K for a model that knows nothing.
# Seen: "none" is the table (n_samples, K) of -p log p, and "mean" the mean of its n * K entries: the
#   entropy divided by the number of classes. A uniform prediction over 2, 10 and 50 classes scores
#   -0.347, -0.230 and -0.078, where its entropy grows: 0.693, 2.303, 3.912.
# What follows: among models with one label space the order stays; across label spaces, or beside a
#   threshold that is a share of log K, the score says the opposite of what it is named for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    skada==0.6.0 POT==0.9.7.post1 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cat > "$folder/entropy.py" <<'PY'
import numpy as np
from skada import make_da_pipeline
from skada.metrics import PredictionEntropyScorer
from sklearn.dummy import DummyClassifier

for classes in (2, 10, 50):
    X = np.random.default_rng(0).normal(size=(400, 2))
    y = np.arange(400) % classes
    domain = np.array([1] * 200 + [-2] * 200)
    model = make_da_pipeline(DummyClassifier(strategy="uniform"))
    model.fit(X, y, sample_domain=domain)
    each = PredictionEntropyScorer(reduction="none")(model, X, y, sample_domain=domain)
    mean = PredictionEntropyScorer()(model, X, y, sample_domain=domain)
    print(f"{classes} classes: none {each.shape}, mean {mean:.3f}, entropy {np.log(classes):.3f}")
    assert each.shape == (200, classes)
    assert np.isclose(mean, -np.log(classes) / classes)
PY
"$folder/venv/bin/python" "$folder/entropy.py"
