"""Verification: scores by lead time, region and season, their intervals, score cards and spectra."""

from stforecast.verification.bootstrap import usual_block_length
from stforecast.verification.coverage import coverage
from stforecast.verification.evaluation import Reference, evaluate
from stforecast.verification.groups import Region, region_masks
from stforecast.verification.metrics import (
    ACC,
    FSS,
    MAE,
    MAPE,
    METRICS,
    PSNR,
    RMSE,
    SSIM,
    Bias,
    Metric,
    frame_sums,
    metric_of,
    units_of,
)
from stforecast.verification.spectra import spectrum
from stforecast.verification.tables import score_card, score_card_table, score_table

__all__ = [
    "ACC",
    "FSS",
    "MAE",
    "MAPE",
    "METRICS",
    "PSNR",
    "RMSE",
    "SSIM",
    "Bias",
    "Metric",
    "Reference",
    "Region",
    "coverage",
    "evaluate",
    "frame_sums",
    "metric_of",
    "region_masks",
    "score_card",
    "score_card_table",
    "score_table",
    "spectrum",
    "units_of",
    "usual_block_length",
]
