"""A method without a source model that labels the target itself: empty labels, kills, processes."""

import pytest
from test_kills import command, require_same_run
from test_ranks import TWO, settings
from zygote import Parent, Zygote

from sfseg.pseudo.reader import PseudoLabels


@pytest.fixture(scope="module")
def zygote(parent: Parent, tmp_path_factory: pytest.TempPathFactory) -> Zygote:
    return Zygote(parent, tmp_path_factory.mktemp("own_labels"))


def run(zygote: Zygote, folder: str, *more: str, step: int = 99, ranks: int = 1) -> int:
    """A run whose last process is killed once, before the batch that follows a step; its code."""
    bomb = {"marker": f"{folder}.marker", "moment": "train", "step": step, "rank": ranks - 1}
    arguments = [f"+callbacks.bomb.{key}={value}" for key, value in bomb.items()]
    arguments += ["+callbacks.bomb._target_=bomb.Bomb", f"hydra.run.dir={folder}"]
    own = [*settings("own_labels"), *TWO] if ranks > 1 else command("own_labels")
    code, _ = zygote.train(*own, *arguments, *more, ranks=ranks)
    return code


# After the labels but before the checkpoint that has them, and with them in one.
@pytest.mark.parametrize("step", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_without_labels_at_first_is_killed_and_goes_on(zygote: Zygote, step: int) -> None:
    whole, cut = (zygote.folder / name for name in ("whole", f"cut-{step}"))
    if not whole.exists():
        assert run(zygote, whole.name) == 0, zygote.log.read_text()[-3000:]
    assert run(zygote, cut.name, step=step) == -9
    assert run(zygote, cut.name, "resume=auto", step=step) == 0, zygote.log.read_text()[-3000:]
    require_same_run(whole, cut)
    assert PseudoLabels(whole / "pseudo_labels").class_counts().sum() > 0


@pytest.mark.slow
def test_two_processes_label_and_one_of_them_is_killed(zygote: Zygote) -> None:
    assert run(zygote, "two", ranks=2) == 0, zygote.log.read_text()[-3000:]
    assert run(zygote, "two-cut", step=3, ranks=2) == 6
    assert run(zygote, "two-cut", "resume=auto", step=3, ranks=2) == 0
    require_same_run(zygote.folder / "two", zygote.folder / "two-cut")
