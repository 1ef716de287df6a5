"""Scheduled forecasts: found, made, checked, published, scored and cleaned up, with nobody watching."""
