"""Weather and traffic forecasting on xarray: one labelled Dataset in, a labelled, verified forecast out."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stforecast import baselines, plot, verification
    from stforecast.errors import ErrorKind, StforecastError
    from stforecast.exploration import explore
    from stforecast.fitting import fit
    from stforecast.forecaster import Forecaster
    from stforecast.forecasts import open_forecast, write_forecast
    from stforecast.harmonisation import harmonise
    from stforecast.inspection import inspect
    from stforecast.interchange import to_weatherbench2
    from stforecast.networks import NetworkConfig
    from stforecast.operations.archive import open_forecasts
    from stforecast.prediction import predict
    from stforecast.presets import Preset, preset_of
    from stforecast.pretrained import packaged_models
    from stforecast.sources import open_dataset
    from stforecast.sources.sample import write_sample
    from stforecast.split import Split
    from stforecast.store import append, open_store, prepare, validate
    from stforecast.training import TrainingConfig
    from stforecast.verification import evaluate, score_table

# Where each public name lives. Names are imported when they are asked for, so that `import stforecast` costs next to
# nothing and neither torch nor matplotlib is loaded by who only opens a store.
_HOMES = {
    "ErrorKind": "errors",
    "Forecaster": "forecaster",
    "NetworkConfig": "networks",
    "Preset": "presets",
    "preset_of": "presets",
    "Split": "split",
    "StforecastError": "errors",
    "TrainingConfig": "training",
    "append": "store",
    "baselines": "",
    "evaluate": "verification",
    "explore": "exploration",
    "fit": "fitting",
    "harmonise": "harmonisation",
    "inspect": "inspection",
    "open_dataset": "sources",
    "open_forecast": "forecasts",
    "open_forecasts": "operations.archive",
    "open_store": "store",
    "packaged_models": "pretrained",
    "plot": "",
    "predict": "prediction",
    "prepare": "store",
    "score_table": "verification",
    "to_weatherbench2": "interchange",
    "validate": "store",
    "verification": "",
    "write_forecast": "forecasts",
    "write_sample": "sources.sample",
}

__all__ = [
    "ErrorKind",
    "Forecaster",
    "NetworkConfig",
    "Preset",
    "Split",
    "StforecastError",
    "TrainingConfig",
    "append",
    "baselines",
    "evaluate",
    "explore",
    "fit",
    "harmonise",
    "inspect",
    "open_dataset",
    "open_forecast",
    "open_forecasts",
    "open_store",
    "packaged_models",
    "plot",
    "predict",
    "prepare",
    "preset_of",
    "score_table",
    "to_weatherbench2",
    "validate",
    "verification",
    "write_forecast",
    "write_sample",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stforecast' has no attribute {name!r}")
    home = _HOMES[name]
    if not home:
        return importlib.import_module(f"stforecast.{name}")
    return getattr(importlib.import_module(f"stforecast.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
