"""A misspelt setting is answered with those that may have been meant."""

import pytest
from conftest import Cli

from sfseg.config.composition import CONF
from sfseg.config.misspelt import elsewhere, explain


@pytest.mark.parametrize(
    ("key", "others", "way_out"),
    [
        ("method.gama", ["method=sfda"], "did you mean method.gamma"),
        ("batch_size", [], "did you mean data.batch_size, "),
        # Of several jobs, or with another word wrong, the defaults' settings are looked through.
        ("data.szie", ["method=tent,minent"], "did you mean data.size"),
        ("data.szie", ["nowhere.x=1"], "did you mean data.size"),
        ("zzzzzz", [], "--cfg job lists all"),
    ],
)
def test_close_settings_are_named(key: str, others: list[str], way_out: str) -> None:
    error = ValueError(f"Could not override '{key}'.\nTo append to your config use +{key}=1")
    said = explain(error, str(CONF), "train", [*others, f"{key}=1"])
    assert said is not None and said.startswith(f"{key} is no setting; {way_out}")


def test_a_setting_of_other_data_is_said_to_be_theirs(cli: Cli) -> None:
    done = cli("sfseg-train", "data=gta5_to_cityscapes", "data.value_range=percentile")
    said = "data.value_range is no setting here, but of data=folder and data=gta5_to_folder"
    assert done.code == 2 and said in done.output


def test_settings_that_an_option_takes_over_from_another_are_its_own() -> None:
    assert "data=cityscapes_to_rio" in elsewhere(str(CONF), "data.city")
    assert "data=toyscapes" not in elsewhere(str(CONF), "data.city")
    assert elsewhere(str(CONF), "nothing.city") == []


@pytest.mark.parametrize("name", ["sfseg-train", "sfseg-data check"])
def test_what_is_added_and_not_read_is_refused(cli: Cli, name: str) -> None:
    done = cli(*name.split(), "data=gta5_to_cityscapes", "+data.value_range=percentile")
    said = (
        "data.value_range=percentile has no effect: nothing refers to it; it is a setting of data=f"
    )
    assert done.code == 2 and said in done.output


def test_other_errors_are_left_to_hydra() -> None:
    error = ValueError("Could not find 'method/sdfa'")
    assert explain(error, str(CONF), "train", ["method=sdfa"]) is None


def test_a_command_says_so(cli: Cli) -> None:
    done = cli("sfseg-train", "method=sfda", "method.gama=0.1")
    assert done.code == 2
    assert "sfseg: method.gama is no setting; did you mean method.gamma" in done.output
