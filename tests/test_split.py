import numpy as np
import pytest
from factory import make_series, make_times

from stforecast.errors import ErrorKind, StforecastError
from stforecast.split import Split, parse_period

YEARS = Split(train=("2013", "2014"), validation=("2015", "2015-06-30"), test=("2015-07", "2016"))


def test_both_ends_belong_to_a_period() -> None:
    times = make_times(4 * 365 + 1, step="1D", start="2013-01-01")
    rows = YEARS.rows(times)
    assert times[rows["train"]][[0, -1]].astype("M8[D]").astype(str).tolist() == ["2013-01-01", "2014-12-31"]
    assert times[rows["validation"]][[0, -1]].astype("M8[D]").astype(str).tolist() == ["2015-01-01", "2015-06-30"]
    assert times[rows["test"]][[0, -1]].astype("M8[D]").astype(str).tolist() == ["2015-07-01", "2016-12-31"]


def test_fractions_cover_every_frame_once() -> None:
    times = make_times(103)
    rows = Split.by_fraction(times).rows(times)
    covered = np.concatenate([np.arange(103)[rows[part]] for part in ("train", "validation", "test")])
    np.testing.assert_array_equal(covered, np.arange(103))
    assert (rows["train"].stop, rows["validation"].stop) == (72, 82)


def test_a_split_survives_its_json() -> None:
    assert Split.from_attrs({"split": YEARS.to_json()}) == YEARS


def test_selecting_a_part_is_selecting_its_rows() -> None:
    series = make_series(20)
    split = Split.by_fraction(series["time"].to_numpy())
    assert split.select(series, "test").sizes["time"] == 4
    with pytest.raises(StforecastError, match="unknown part 'tests'"):
        split.select(series, "tests")


@pytest.mark.parametrize(
    ("periods", "match"),
    [
        ((("2013", "2014"), ("2014", "2015"), ("2016", "2016")), "train period 2013..2014 and the validation.*overlap"),
        ((("2013", "2014"), ("2016", "2016"), ("2016", "2016")), "validation period 2016..2016 and the test.*overlap"),
        ((("2014", "2013"), ("2015", "2015"), ("2016", "2016")), "train period 2014..2013 ends before it starts"),
        ((("2013", "2014"), ("soon", "2015"), ("2016", "2016")), "validation period .'soon', '2015'. is not two dates"),
        ((("2013", ""), ("2015", "2015"), ("2016", "2016")), "train period .'2013', ''. is not two dates"),
    ],
)
def test_cat_i07_periods_that_make_no_split_are_refused(periods: tuple, match: str) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        Split(*periods)
    assert (caught.value.kind == ErrorKind.LEAK) == ("overlap" in match)


def test_a_period_outside_the_data_is_named_with_both_ranges() -> None:
    with pytest.raises(StforecastError, match=r"train period 2013..2014 holds no frame; the data run from 2016-01-01"):
        YEARS.rows(make_times(10))


def test_fractions_that_empty_a_part_are_refused() -> None:
    with pytest.raises(StforecastError, match="leave a part of 10 frames empty"):
        Split.by_fraction(make_times(10), train=0.95, validation=0.05)


def test_a_series_without_a_split_says_where_one_comes_from() -> None:
    with pytest.raises(StforecastError, match="carries no split"):
        Split.from_attrs({})


def test_a_period_with_an_open_end_is_no_single_day() -> None:
    assert parse_period("2016-01-01..") == ("2016-01-01", "")
    assert parse_period("..2016") == ("", "2016")


def test_times_come_as_xarray_and_pandas_have_them() -> None:
    series = make_series(40)
    expected = Split.by_fraction(series["time"].to_numpy())
    assert Split.by_fraction(series["time"]) == Split.by_fraction(series.indexes["time"]) == expected
    with pytest.raises(StforecastError, match="time is in the calendar '360_day'") as caught:
        Split.by_fraction(series.convert_calendar("360_day", align_on="date", use_cftime=True)["time"].to_numpy())
    assert caught.value.kind == ErrorKind.TIME_UNITS
