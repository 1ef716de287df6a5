"""Weather and traffic forecasting on xarray."""
