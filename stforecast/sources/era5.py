"""ERA5's variables as WeatherBench 1 and 2 name them: long names, short names and units."""

# Of ECMWF's parameter database, https://codes.ecmwf.int/grib/param-db/; stores made by regridding often lose the units.
_NAMES = """
    10m_u_component_of_wind          u10    m s**-1
    10m_v_component_of_wind          v10    m s**-1
    10m_wind_speed                   si10   m s**-1
    2m_dewpoint_temperature          d2m    K
    2m_temperature                   t2m    K
    divergence                       d      s**-1
    geopotential                     z      m**2 s**-2
    geopotential_at_surface          z_sfc  m**2 s**-2
    land_sea_mask                    lsm    1
    latitude_of_cell                 lat2d  degrees_north
    longitude_of_cell                lon2d  degrees_east
    mean_sea_level_pressure          msl    Pa
    orography                        orog   m
    potential_vorticity              pv     K m**2 kg**-1 s**-1
    relative_humidity                r      %
    sea_ice_cover                    siconc 1
    sea_surface_temperature          sst    K
    snow_depth                       sd     m
    soil_type                        slt    1
    specific_humidity                q      kg kg**-1
    surface_pressure                 sp     Pa
    temperature                      t      K
    toa_incident_solar_radiation     tisr   J m**-2
    total_cloud_cover                tcc    1
    total_column_water_vapour        tcwv   kg m**-2
    total_precipitation              tp     m
    total_precipitation_12hr         tp12   m
    total_precipitation_24hr         tp24   m
    total_precipitation_6hr          tp6    m
    u_component_of_wind              u      m s**-1
    v_component_of_wind              v      m s**-1
    vertical_velocity                w      Pa s**-1
    vorticity                        vo     s**-1
    wind_speed                       ws     m s**-1
"""
_ROWS = [line.split(maxsplit=2) for line in _NAMES.split("\n") if line.strip()]

# Short name by long name.
SHORT_NAMES = {long_name: short_name for long_name, short_name, _ in _ROWS}
LONG_NAMES = {short_name: long_name for long_name, short_name in SHORT_NAMES.items()}
_UNITS = {long_name: units for long_name, _, units in _ROWS}


def units_of(name: str) -> str | None:
    """The units of a variable of this long or short name; None if it is none of ERA5's.

    >>> units_of("2m_temperature"), units_of("z"), units_of("traffic")
    ('K', 'm**2 s**-2', None)
    """
    return _UNITS.get(LONG_NAMES.get(name, name))
