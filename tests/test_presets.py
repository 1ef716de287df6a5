"""Presets are configurations that one can read, begin with and change."""

from dataclasses import replace
from pathlib import Path

import pytest
from factory import make_city, make_series

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.presets import PRESETS
from stforecast.store import prepare

SMALLER = {"hidden_spatial": 4, "hidden_temporal": 8, "temporal_layers": 2}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_fitted_and_each_of_its_parts_may_be_replaced(tmp_path: Path, name: str) -> None:
    series = make_series(240) if name == "weather" else make_city(900)
    stored = prepare(series, tmp_path / "s.zarr", stf.Split.by_fraction(series["time"].to_numpy()))
    preset = stf.preset_of(name)
    network, training = replace(preset.network, **SMALLER), replace(preset.training, epochs=1)
    forecaster = stf.fit(stored, preset=name, network=network, training=training)
    assert (forecaster.history, forecaster.horizon) == (preset.history, preset.horizon)
    assert forecaster.config.first_guess == "regression"
    assert stf.fit(stored, preset=name, history=3, network=network, training=training).history == 3
    scores = stf.evaluate(
        forecaster.predict(stored, init_times=forecaster.init_times(stored, part="test")),
        stored,
        reference=["persistence"],
    ).sel(metric="rmse")
    for variable in scores.data_vars.values():
        assert (variable.sel(source="forecast") < variable.sel(source="persistence")).mean() > 0.9


def test_an_unknown_preset_is_refused_with_those_there_are(tmp_path: Path) -> None:
    series = make_series()
    stored = prepare(series, tmp_path / "s.zarr", stf.Split.by_fraction(series["time"].to_numpy()))
    with pytest.raises(StforecastError, match="no preset 'rivers'; there are weather, traffic") as caught:
        stf.fit(stored, preset="rivers")
    assert caught.value.kind == ErrorKind.ARGUMENT
