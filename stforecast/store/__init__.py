"""Normalized Zarr stores: built beside, verified, published in one step, appended to, opened in physical units."""

from stforecast.store.append import Appended, append
from stforecast.store.build import prepare
from stforecast.store.reading import Validation, group_of, open_store, validate
from stforecast.store.versions import is_store

__all__ = ["Appended", "Validation", "append", "group_of", "is_store", "open_store", "prepare", "validate"]
