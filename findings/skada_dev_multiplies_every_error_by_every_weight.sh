#!/usr/bin/env bash
# skada 0.6.0, scikit-learn 1.9.1, numpy 2.4.6: deep embedded validation weighs no error.
#
# Expected: DeepEmbeddedValidation() is the risk of You et al. (ICML 2019): the mean over source
#   images of weight_i * error_i, with the weights' control variate.
# Seen: weights are (n, 1) and the errors of the default loss (n,), so that their product is the
#   table (n, n) of every weight with every error. Its mean is mean weight * mean error, which does
#   not know which errors are heavy; and the covariance of the control variate is that of its first
#   two columns, both the weights times one number. Seeds 0, 1, 2: 0.2203, 0.1841, 0.2213 in place of
#   0.2139, 0.2131, 0.1750: within 0.001 of mean weight * mean error, and in another order.
#   With loss_func returning (n, 1) the value is the paper's to the last digits.
# What follows: a comparison of label-free scores that takes DEV from here compares the source's own
#   error instead, unless loss_func is given.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    skada==0.6.0 POT==0.9.7.post1 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cat > "$folder/dev.py" <<'PY'
import numpy as np
from skada import make_da_pipeline
from skada.metrics import DeepEmbeddedValidation
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

rng, n = np.random.default_rng(0), 300
X = np.concatenate([rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + [1.0, 0.0]])
y = (X[:, 0] + X[:, 1] + 0.5 * rng.normal(size=2 * n) > 0).astype(int)
domain = np.array([1] * n + [-2] * n)
model = make_da_pipeline(LogisticRegression()).fit(X, y, sample_domain=domain)


def weights_and_errors(seed):
    """Of the held-out source, split as the scorer splits it."""
    source = domain > 0
    train, held, _, label, _, ids = train_test_split(
        X[source], y[source], domain[source], test_size=0.33,
        random_state=np.random.RandomState(seed),
    )
    target = X[~source]
    which = LogisticRegression().fit(
        np.concatenate((train, target)), [1] * len(train) + [0] * len(target)
    )
    share = which.predict_proba(held)
    weight = len(train) / len(target) * share[:, 0] / share[:, 1]
    predicted = model.predict_proba(held, sample_domain=ids, allow_source=True)
    return weight, -np.log(predicted[np.arange(len(label)), label])


def risk(products, weight, covariance):
    eta = -covariance / np.var(weight, ddof=1)
    return products.mean() + eta * weight.mean() - eta


def column(label, predicted):
    return np.array([[-np.log(p[k])] for k, p in zip(label, predicted)])


for seed in range(3):
    weight, error = weights_and_errors(seed)
    paper = risk(weight * error, weight, np.cov(weight * error, weight)[0, 1])
    table = weight[:, None] * error
    outer = risk(table, weight, np.cov(table[:, 0], table[:, 1])[0, 1])
    seen = -DeepEmbeddedValidation(random_state=seed)(model, X, y, sample_domain=domain)
    given = DeepEmbeddedValidation(random_state=seed, loss_func=column)
    mended = -given(model, X, y, sample_domain=domain)
    plain = weight.mean() * error.mean()
    print(f"seed {seed}: skada {seen:.4f}, paper {paper:.4f}, table {outer:.4f}, "
          f"mean weight * mean error {plain:.4f}, loss of (n, 1) {mended:.4f}")
    assert np.isclose(seen, outer, rtol=1e-9) and abs(seen - plain) < 1e-3
    assert np.isclose(mended, paper, rtol=1e-9) and abs(seen - paper) > 0.005
PY
"$folder/venv/bin/python" "$folder/dev.py"
