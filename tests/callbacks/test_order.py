"""The order of callbacks, and what each is handed."""

import itertools
from pathlib import Path

import pytest
import yaml
from conftest import DEBUG, Cli
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping

from sfseg.callbacks.early_learning import EarlyLearning
from sfseg.callbacks.early_learning_report import EarlyLearningReport
from sfseg.callbacks.ema import WeightAverage
from sfseg.callbacks.fakes import Fakes
from sfseg.callbacks.label_correction import LabelCorrection
from sfseg.callbacks.label_free_score import LabelFreeScore
from sfseg.callbacks.order import DEFAULT, Ordered, ordered
from sfseg.callbacks.results import Results
from sfseg.callbacks.selection import Selection
from sfseg.config.composition import CONF
from sfseg.errors import ConfigError


class Stopping(EarlyStopping):
    """Of Lightning's."""

    def __init__(self) -> None:
        super().__init__("loss")


class First(Ordered):
    pass


class Second(Ordered):
    needs = (First,)


class Third(Ordered):
    after = (Second,)
    before = (Stopping,)


KINDS = (First, Second, Third, Stopping)


@pytest.mark.parametrize("kinds", list(itertools.permutations((*KINDS, Callback))))
def test_every_order_becomes_one_that_suits_all(kinds: tuple[type[Callback], ...]) -> None:
    made = [kind() for kind in kinds]
    found = ordered(made)
    assert sorted(map(id, found)) == sorted(map(id, made))
    places = {type(callback): k for k, callback in enumerate(found)}
    assert places[First] < places[Second] < places[Third] < places[Stopping]
    first, second, third = (found[places[kind]] for kind in (First, Second, Third))
    assert isinstance(second, Second) and second.needed(First) is first
    assert isinstance(third, Third) and third.given(Second) == [second] and not third.given(First)


def test_what_suits_all_stays_as_it_is() -> None:
    made = [Callback(), First(), Callback(), Second(), Callback(), Third(), Callback(), Stopping()]
    assert ordered(made) == made
    assert ordered({str(k): callback for k, callback in enumerate(made)}) == made
    assert ordered([]) == []


def test_the_others_keep_their_places_among_each_other() -> None:
    others = [Callback() for _ in range(4)]
    made = [others[0], Second(), others[1], others[2], First(), others[3]]
    assert [callback for callback in ordered(made) if callback in others] == others


def test_what_is_wanted_but_not_needed_may_be_absent() -> None:
    third = Third()
    assert ordered([third]) == [third] and third.given(Second) == []


def test_subclasses_are_what_they_derive_from() -> None:
    class Special(First):
        pass

    second, special = Second(), Special()
    assert ordered([second, special]) == [special, second] and second.needed(First) is special


def test_what_is_missing_is_named_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.mine needs callbacks\.test_order; add it"):
        ordered({"mine": Second()})
    with pytest.raises(ConfigError) as raised:
        ordered({"label_correction": LabelCorrection()})
    assert str(raised.value) == (
        "callbacks.label_correction needs callbacks.early_learning; add it: callbacks="
        "[default,early_learning,label_correction], or leave out what needs it: "
        "~callbacks.label_correction"
    )


def test_a_circle_is_named() -> None:
    class Fourth(Ordered):
        before = (First,)
        after = (Third,)

    with pytest.raises(ConfigError, match="callbacks want to run") as raised:
        ordered({"a": First(), "b": Second(), "c": Third(), "d": Fourth(), "e": Callback()})
    text = str(raised.value)
    assert all(f"callbacks.{name}" in text for name in "abcd") and "callbacks.e" not in text


def test_a_trainer_of_ones_own_is_told_before_training() -> None:
    class Mine(Ordered):
        needs = (First,)

    with pytest.raises(ConfigError, match=r"Mine needs First .*ordered\(\[First\(.*Mine\("):
        Mine().setup(None, None, "fit")  # type: ignore[arg-type]
    mine = Mine()
    ordered([mine, First()])
    mine.setup(None, None, "fit")  # type: ignore[arg-type]


def test_default_is_what_the_configuration_says() -> None:
    assert set(yaml.safe_load((CONF / "callbacks" / "default.yaml").read_text())["defaults"]) == (
        DEFAULT
    )


def test_every_callback_is_called_as_its_file() -> None:
    """As messages call one that is missing."""
    for kind in (EarlyLearning, LabelFreeScore):
        name = kind.__module__.rpartition(".")[2]
        node = yaml.safe_load((CONF / "callbacks" / f"{name}.yaml").read_text())[name]
        assert node["_target_"] == f"{kind.__module__}.{kind.__name__}"


def test_the_library_orders_itself(tmp_path: Path) -> None:
    folder = str(tmp_path)
    made = [
        WeightAverage(), Results(folder, "title"), EarlyLearningReport(folder), Fakes(folder),
        LabelCorrection(), Selection(folder, "label_free"), LabelFreeScore(folder), EarlyLearning(),
    ]  # fmt: skip
    kinds = [type(callback) for callback in ordered(made)]
    for early, late in (
        (EarlyLearning, LabelCorrection), (LabelCorrection, EarlyLearningReport),
        (LabelFreeScore, Selection), (Selection, Results),
        (LabelFreeScore, WeightAverage), (Fakes, WeightAverage),
    ):  # fmt: skip
        assert kinds.index(early) < kinds.index(late)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("callbacks=[default,label_correction]", "callbacks=[default,early_learning,label_correct"),
        ("~callbacks.label_free_score", "callbacks.selection needs callbacks.label_free_score"),
    ],
)
def test_a_run_is_refused_before_it_takes_its_folder(cli: Cli, setting: str, words: str) -> None:
    done = cli("sfseg-train", "method=minent", *DEBUG, "select=label_free", setting)
    assert done.code == 2 and words in done.output
    assert not list(done.folder.rglob("run.json")) and not list(done.folder.rglob("*.ckpt"))
