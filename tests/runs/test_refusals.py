"""Settings that are refused before training begins; the commands' tests see most of them."""

import pytest

from sfseg.errors import ConfigError
from sfseg.runs.refusals import check_precision

HALF = ["bf16-true", "16-true", "transformer-engine", "transformer-engine-float16"]


@pytest.mark.parametrize("precision", HALF)
def test_weights_in_half_precision_are_refused(precision: str) -> None:
    with pytest.raises(ConfigError, match=rf"precision={precision} .* set .*bf16-mixed or 32-true"):
        check_precision(precision)


@pytest.mark.parametrize(
    "precision", ["32-true", "64-true", "bf16-mixed", "16-mixed", "bf16", "16", "32", "64", "None"]
)
def test_others_are_not(precision: str) -> None:
    check_precision(precision)
