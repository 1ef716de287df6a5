import numpy as np
import pytest
from factory import make_times
from hypothesis import given
from hypothesis import strategies as st

from stforecast.errors import ErrorKind, StforecastError
from stforecast.time_axis import check_gaps, check_times, find_gaps, parse_times, time_step


@given(
    absent=st.sets(st.integers(1, 38), max_size=12),
    step=st.sampled_from(["30m", "6h", "1D"]),
)
def test_gaps_and_frames_together_are_the_whole_axis(absent: set[int], step: str) -> None:
    whole = make_times(40, step=step)
    times = np.delete(whole, sorted(absent))
    one_step = whole[1] - whole[0]
    gaps = find_gaps(times, one_step)
    rebuilt = [times[:1]]
    rebuilt += [np.arange(gap.after + one_step, gap.before, one_step) for gap in gaps]
    assert sum(gap.missing for gap in gaps) == len(absent)
    np.testing.assert_array_equal(np.sort(np.concatenate([times, *rebuilt[1:]])), whole)


def test_the_step_is_what_most_frames_are_apart() -> None:
    assert time_step(make_times(20, absent=(3, 4, 9))) == np.timedelta64(6, "h")


@pytest.mark.parametrize(
    ("times", "kind", "match"),
    [
        (["2016-01-01", "2016-01-02", "2016-01-02"], ErrorKind.TIME_DUPLICATE, r"1 duplicate timestamp \(2016-01-02"),
        (["2016-01-01", "2016-01-03", "2016-01-02"], ErrorKind.TIME_ORDER, "2016-01-02T00:00 follows 2016-01-03"),
        (["2016-01-01", "NaT", "2016-01-02"], ErrorKind.TIME_NAT, "at row 1"),
    ],
)
def test_an_unusable_axis_is_refused_by_its_first_bad_timestamp(times: list[str], kind: ErrorKind, match: str) -> None:
    with pytest.raises(StforecastError, match=match) as caught:
        check_times(np.array(times, "datetime64[ns]"))
    assert caught.value.kind == kind


def test_unsorted_duplicates_are_duplicates() -> None:
    with pytest.raises(StforecastError, match="duplicate"):
        check_times(np.array(["2016-01-02", "2016-01-01", "2016-01-02"], "datetime64[ns]"))


def test_a_frame_off_the_step_is_named() -> None:
    times = np.append(make_times(10), np.datetime64("2016-01-03T09:00", "ns"))
    with pytest.raises(StforecastError, match="steps by 6 h but 2016-01-03T09:00 comes 3 h after 2016-01-03T06:00"):
        time_step(times)


def test_one_frame_has_no_step() -> None:
    with pytest.raises(StforecastError, match="1 frame"):
        time_step(make_times(1))


def test_gaps_are_refused_by_name_and_count() -> None:
    times = make_times(40, absent=(3, 10, 11, 20, 30))
    with pytest.raises(StforecastError, match=r"4 gaps .*1 missing between 2016-01-01T12:00 and 2016-01-02T00:00.*…"):
        check_gaps(times, np.timedelta64(6, "h"))


@pytest.mark.parametrize(
    ("times", "match"),
    [
        ("soon", "are not times"),
        ([], "is empty"),
        ("2016-01-10T00:00+02:00", "carry a time zone"),
        (["2016", "2016"], "duplicate"),
    ],
)
def test_what_is_no_list_of_times_is_refused(times: object, match: str) -> None:
    with pytest.raises(StforecastError, match=match):
        parse_times(times, name="init_times")
