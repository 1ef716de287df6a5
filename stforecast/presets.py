"""What to fit on which kind of data: the configurations that did best on the validation periods of real series."""

from dataclasses import dataclass
from typing import Literal, get_args

from stforecast.errors import ErrorKind, StforecastError
from stforecast.networks import NetworkConfig
from stforecast.training import TrainingConfig

PresetName = Literal["weather", "traffic"]


@dataclass(frozen=True)
class Preset:
    """A configuration to begin with; each part may be replaced in the call of `fit`.

    Attributes:
        history: frames that the network sees.
        horizon: frames that it is fitted to forecast.
        network: the network's size and what it is told.
        training: how it is fitted.
    """

    history: int
    horizon: int
    network: NetworkConfig
    training: TrainingConfig


# docs/results.md has the scores behind these. Both series are short, a year and a half of 6-hourly frames and two
# months of half-hourly ones, so the networks are small and see each window few times. Of the two of the weather each
# sees a window four times.
PRESETS = {
    "weather": Preset(
        history=6,
        horizon=12,
        network=NetworkConfig(
            hidden_spatial=8,
            hidden_temporal=48,
            temporal_layers=2,
            mlp_ratio=3.0,
            drop=0.1,
            drop_path=0.1,
            first_guess="regression",
            frames_per_call=6,
            members=2,
        ),
        training=TrainingConfig(
            epochs=8,
            batch_size=32,
            learning_rate=2e-3,
            weight_averaging=0.99,
            weight_decay=0.05,
            divergence_weight=0.0,
            area_weighted=True,
            lead_weighted=True,
        ),
    ),
    "traffic": Preset(
        history=8,
        horizon=8,
        network=NetworkConfig(
            hidden_spatial=8,
            hidden_temporal=32,
            temporal_layers=2,
            mlp_ratio=3.0,
            drop=0.2,
            drop_path=0.1,
            first_guess="regression",
            lags=("1D",),
            embedding=4,
        ),
        training=TrainingConfig(
            epochs=4,
            batch_size=32,
            learning_rate=1e-3,
            weight_averaging=0.99,
            weight_decay=0.1,
            divergence_weight=0.0,
        ),
    ),
}


def preset_of(name: str) -> Preset:
    """The preset of a name.

    Raises:
        StforecastError: ARGUMENT for an unknown name.

    Examples:
        >>> preset_of("weather").history, preset_of("weather").horizon
        (6, 12)
    """
    if name not in PRESETS:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"there is no preset {name!r}; there are {', '.join(get_args(PresetName))}"
        )
    return PRESETS[name]
