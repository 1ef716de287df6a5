"""What the scores of the last days come to. Read apart from scoring, which loads much more than a look at it needs."""

from typing import Any

import numpy as np

from stforecast.operations.archive import Archive
from stforecast.operations.cycles import name_of
from stforecast.operations.pipeline import Pipeline
from stforecast.store.versions import recall

SCORES = "scores"


def skill(pipeline: Pipeline, archive: Archive) -> dict[str, Any]:
    """The root mean square errors of the last days' forecasts by lead time and source, of those that have come true."""
    inits = archive.inits()
    if not len(inits):
        return {}
    since = inits[-1] - np.timedelta64(pipeline.scores.days, "D")
    found = [recall(pipeline.output / SCORES / f"{name_of(init)}.json") for init in inits[inits >= since]]
    scored = [one for one in found if one is not None and one["scores"]]
    if not scored:
        return {}
    pooled: dict[str, dict[str, dict[int, list[float]]]] = {}
    for one in scored:
        for name, sources in one["scores"].items():
            whole = [
                row
                for row in range(len(one["lead_seconds"]))
                if all(metrics["rmse"][row] is not None for metrics in sources.values())
            ]
            for source, metrics in sources.items():
                by_lead = pooled.setdefault(name, {}).setdefault(source, {})
                for row in whole:
                    by_lead.setdefault(one["lead_seconds"][row], []).append(metrics["rmse"][row] ** 2)
    return {
        "from": scored[0]["init"],
        "to": scored[-1]["init"],
        "forecasts": len(scored),
        "degraded": sum(one["is_degraded"] for one in scored),
        "units": scored[-1]["units"],
        "rmse": {
            name: {
                source: {lead: float(np.sqrt(np.mean(squares))) for lead, squares in sorted(by_lead.items())}
                for source, by_lead in sources.items()
            }
            for name, sources in pooled.items()
        },
    }
