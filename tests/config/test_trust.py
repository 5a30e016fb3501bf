"""What a configuration may name; the hostile ones are in ``test_hostile.py``."""

import pytest

from sfseg.config.trust import require_allowed, trusting
from sfseg.errors import ConfigError
from sfseg.ops import entropy, styles


@pytest.mark.parametrize(
    "target",
    [
        "sfseg.ops.styles._noise",
        "sfseg.ops.consistency._Divergence",
        "sfseg.networks.teacher.__builtins__",
        "torch.nn.modules.batchnorm._BatchNorm",
        "lightning.pytorch.callbacks.weight_averaging._no_such_name",
    ],
)
def test_private_names_are_refused_beside_public_ones_of_their_module(target: str) -> None:
    with pytest.raises(ConfigError, match="must not be called by a configuration"):
        require_allowed({"_target_": target}, is_built=True)


def test_a_private_function_is_one_that_would_pass_but_for_its_name() -> None:
    assert callable(styles._noise) and callable(entropy.entropy)
    require_allowed({"_target_": "sfseg.ops.entropy.entropy"}, is_built=True)
    with trusting(["sfseg.ops.styles._noise"]):
        require_allowed({"_target_": "sfseg.ops.styles._noise"}, is_built=True)


def test_modules_that_are_trusted_do_not_show_what_is_private_to_them() -> None:
    with trusting(["sfseg.randomness"]):
        require_allowed({"_target_": "sfseg.randomness.seed32"}, is_built=True)
        with pytest.raises(ConfigError, match="no class or function"):
            require_allowed({"_target_": "sfseg.randomness.__loader__"}, is_built=True)
