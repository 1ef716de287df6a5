"""Score cards: what is better or worse than a reference, and whether that is more than chance."""

import numpy as np
import pytest
import xarray as xr
from factory import make_series

from stforecast.baselines import Persistence
from stforecast.errors import ErrorKind, StforecastError
from stforecast.verification import evaluate, score_card, score_card_table

SERIES = make_series(160, levels=(850.0, 500.0), variables=("t", "q"))
INITS = SERIES["time"].to_numpy()[20:120]
HALVES = {"north": (slice(0, 90), slice(None)), "south": (slice(-90, 0), slice(None))}


def forecast_with(errors: dict[str, float], *, noise: float = 0.0, seed: int = 0) -> xr.Dataset:
    """The truth with errors of a size, of either sign, in each variable."""
    forecast = Persistence().predict(SERIES, init_times=INITS, horizon=2)
    rng = np.random.default_rng(seed)
    valid = forecast["valid_time"].to_numpy().ravel()
    for name, size in errors.items():
        truth = SERIES[name].reindex(time=valid).to_numpy().reshape(forecast[name].shape)
        forecast[name].data = truth + size * (1 + noise * rng.standard_normal(truth.shape))
    return forecast


SCORES = evaluate(
    forecast_with({"t": 0.9, "q": 1.2}, noise=0.1),
    SERIES,
    reference={"old": forecast_with({"t": 1.0, "q": 1.0}, noise=0.1, seed=1)},
    regions=HALVES,
    confidence=0.9,
    resamples=100,
)


def test_a_card_tells_better_from_worse_by_row_and_lead_time() -> None:
    card = score_card(SCORES)
    assert card["row"].to_numpy().tolist() == [
        f"{name}, level {level}, {region}" for name in "tq" for level in (850, 500) for region in ("north", "south")
    ]
    assert card["variable"].to_numpy().tolist() == ["t"] * 4 + ["q"] * 4
    assert card["level"].to_numpy().tolist() == [850, 850, 500, 500] * 2
    np.testing.assert_allclose(card["relative_difference"].sel(row=card["variable"] == "t"), -10, atol=1)
    np.testing.assert_allclose(card["relative_difference"].sel(row=card["variable"] == "q"), 20, atol=2)
    np.testing.assert_array_equal(card["significance"].sel(row=card["variable"] == "t"), -1)
    np.testing.assert_array_equal(card["significance"].sel(row=card["variable"] == "q"), 1)
    rmse = SCORES["t"].sel(metric="rmse", level=500, region="north")
    expected = 100 * (rmse.sel(source="forecast") / rmse.sel(source="old") - 1)
    np.testing.assert_allclose(card["relative_difference"].sel(row="t, level 500, north"), expected)
    assert (card["lower"] < card["relative_difference"]).all()
    assert (card["relative_difference"] < card["upper"]).all()
    assert card.attrs["reference"] == "old"


def test_variables_can_be_left_out_of_a_card() -> None:
    card = score_card(SCORES.drop_vars("q"))
    assert set(card["variable"].to_numpy().tolist()) == {"t"}
    np.testing.assert_array_equal(card["upper"], score_card(SCORES)["upper"][:4])


def test_what_may_be_chance_is_not_flagged() -> None:
    forecast, other = (forecast_with({"t": 1.0, "q": 1.0}, noise=1.0, seed=seed) for seed in (2, 3))
    card = score_card(evaluate(forecast, SERIES, reference={"old": other}, confidence=0.95))
    assert (card["relative_difference"] != 0).all()
    assert (card["significance"] == 0).mean() > 0.7
    same = score_card(evaluate(forecast, SERIES, reference={"old": forecast}, confidence=0.9))
    np.testing.assert_array_equal(same["significance"], 0)
    np.testing.assert_array_equal(same["relative_difference"], 0)


def test_the_table_of_a_card_has_what_is_sure_in_bold() -> None:
    one = SCORES.sel(level=[500.0], region=["north"])
    card = score_card(one, metric="mae")
    card["relative_difference"][:] = [[-10.04, 0.0], [20.0, np.nan]]
    card["significance"][:] = [[-1, 0], [1, 0]]
    assert score_card_table(card).splitlines() == [
        "mae of the forecast relative to old (%), below 0 is better, bold where the 90% interval leaves out 0",
        "",
        "|                     |       6 h | 12 h |",
        "| :------------------ | --------: | ---: |",
        "| t, level 500, north | **-10.0** | +0.0 |",
        "| q, level 500, north | **+20.0** | +nan |",
    ]


@pytest.mark.parametrize(
    ("scores", "options", "match"),
    [
        (SCORES, {"reference": "new"}, "unknown reference 'new'; there are old"),
        (SCORES, {"metric": "acc"}, "unknown metric 'acc'; there are bias, mae, rmse"),
        (SCORES, {"metric": "bias"}, "bias has no perfect score"),
        (SCORES[["t"]], {}, r"leave variables out by drop_vars"),
        (SCORES.drop_vars(["t_skill", "q_skill"]), {}, "evaluate with reference= and confidence=0.95"),
    ],
)
def test_scores_that_make_no_card_are_refused(scores: xr.Dataset, options: dict, match: str) -> None:
    with pytest.raises(StforecastError, match=match) as error:
        score_card(scores, **options)
    assert error.value.kind == ErrorKind.ARGUMENT


def test_seasons_without_a_forecast_have_no_row() -> None:
    forecast, other = forecast_with({"t": 0.9, "q": 1.2}, noise=0.1), forecast_with({"t": 1.0, "q": 1.0}, noise=0.1)
    options = {"by": ["season"], "confidence": 0.9, "resamples": 20}
    scores = evaluate(forecast, SERIES, reference={"old": other}, **options)
    assert score_card(scores)["season"].to_numpy().tolist() == ["DJF"] * 4
    scores["t_skill"][:], scores["q_skill"][:] = np.nan, np.nan
    with pytest.raises(StforecastError, match="no rmse can be compared with that of old"):
        score_card(scores)
