"""Images of two domains in one step: none is left out, none comes twice, whatever the processes."""

import re
from fractions import Fraction

import pytest

from sfseg.data.shares import Share
from sfseg.errors import ConfigError


@pytest.mark.parametrize(
    ("share", "world_size"),
    [
        (Fraction(287, 1000), 1), (Fraction(287, 1000), 2), (Fraction(2, 3), 1),
        (Fraction(2, 3), 2), (Fraction(1, 2), 4), (Fraction(1, 8), 1),
    ],
)  # fmt: skip
def test_every_image_of_both_comes_once_and_in_its_turn(share: Fraction, world_size: int) -> None:
    batch_size, steps = 8 // world_size, 60
    seen: dict[bool, list[int]] = {False: [], True: []}
    for number in range(steps):
        of_step = 0
        for rank in range(world_size):
            own = 0
            for is_rest in seen:
                positions = Share(share, is_rest).positions(
                    number, batch_size=batch_size, rank=rank, world_size=world_size
                )
                assert len(positions) >= 1
                seen[is_rest] += positions
                own += len(positions)
                of_step += 0 if is_rest else len(positions)
            assert own == batch_size
        assert abs(of_step - 8 * share) < 1
    for positions in seen.values():
        assert positions == list(range(len(positions)))
    assert abs(len(seen[False]) - 8 * steps * share) < 1


def test_a_factor_is_how_often_an_image_comes() -> None:
    """CLOUDS with GTA5: 24,904 images and 5,000 generated ones twice are 28.7 % generated."""
    share = Share.repeated(2.0, source=24904, target=5000, is_rest=False)
    assert float(share.target) == pytest.approx(10000 / 34904)
    assert float(share.target) == pytest.approx(0.287, abs=5e-4)
    assert Share.repeated(0.5, source=10, target=10, is_rest=True) == Share(Fraction(1, 3), True)


@pytest.mark.parametrize("share", [Fraction(1, 5), Fraction(4, 5)])
def test_a_process_without_one_of_both_is_refused(share: Fraction) -> None:
    for is_rest in (False, True):
        with pytest.raises(ConfigError, match=r"repeat_factor makes .* raise data.adaptation"):
            Share(share, is_rest).expected(4, 2)
    assert Share(share, False).expected(5, 1) == 5 - Share(share, True).expected(5, 1) == 5 * share
    with pytest.raises(ConfigError, match=r"batch_size must be at least 2 .*, got 1"):
        Share(share, False).expected(2, 2)


def test_the_factors_that_a_refusal_names_work_and_no_smaller_or_larger_ones() -> None:
    def expected(factor: float) -> float:
        return Share.repeated(factor, source=24966, target=2975, is_rest=False).expected(4, 1)

    with pytest.raises(ConfigError) as refused:
        expected(1.0)
    least, most = map(
        float, re.findall(r"set it to ([\d.]+) up to ([\d.]+),", str(refused.value))[0]
    )
    assert expected(least) >= 1 and expected(most) <= 3
    for factor in (0.99 * least, 1.01 * most):
        with pytest.raises(ConfigError):
            expected(factor)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf"), "abc", True])
def test_a_factor_must_be_positive(factor: object) -> None:
    with pytest.raises(ValueError, match=r"method\.plan\.repeat_factor must be a positive number"):
        Share.repeated(factor, source=10, target=10, is_rest=False)  # type: ignore[arg-type]
