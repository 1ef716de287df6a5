"""Maps of forecasts, courses at a place and curves of skill: figures drawn without pyplot and without a network."""

from stforecast.plot.courses import meteogram, profile
from stforecast.plot.curves import score_card, skill_curve, training_curve
from stforecast.plot.diagnostics import reliability, spectra
from stforecast.plot.maps import anomaly, comparison, forecast_map, interval, panels
from stforecast.plot.movies import animation
from stforecast.plot.pictures import save

__all__ = [
    "animation",
    "anomaly",
    "comparison",
    "forecast_map",
    "interval",
    "meteogram",
    "panels",
    "profile",
    "reliability",
    "save",
    "score_card",
    "skill_curve",
    "spectra",
    "training_curve",
]
