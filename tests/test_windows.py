import numpy as np
import torch
from factory import make_times
from hypothesis import given
from hypothesis import strategies as st

from stforecast.windows import WindowLoader, window_starts, windows_cut_by_gaps

STEP = np.timedelta64(6, "h")


def brute_force(times: np.ndarray, length: int, part: range) -> list[int]:
    """Every row from which `length` frames follow one another by one step, all of them inside the part."""
    return [
        row for row in part if all(row + k in part and times[row + k] == times[row] + k * STEP for k in range(length))
    ]


@given(
    absent=st.sets(st.integers(0, 39), max_size=25),
    length=st.integers(1, 12),
    bounds=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_i08_windows_equal_brute_force_on_gappy_axes(absent: set[int], length: int, bounds: tuple[int, int]) -> None:
    times = make_times(40, absent=tuple(sorted(absent)))
    first, behind = sorted(min(bound, len(times)) for bound in bounds)
    starts = window_starts(times, STEP, length, part=slice(first, behind))
    assert starts.tolist() == brute_force(times, length, range(first, behind))


def test_i08_c13_windows_cut_by_gaps_are_counted() -> None:
    times = make_times(20, absent=(8,))
    # Of 16 windows of 5 frames on the whole axis, the 5 that hold frame 8 are cut.
    assert windows_cut_by_gaps(times, STEP, 5) == 5
    assert len(window_starts(times, STEP, 5)) == 11


def loader(**options: object) -> WindowLoader:
    frames = torch.arange(30.0)[:, None, None, None].expand(30, 2, 3, 4)
    return WindowLoader(frames, np.arange(0, 25), 4, 2, 8, **options)


def test_a_batch_holds_the_frames_that_its_windows_begin_with() -> None:
    for history, target, starts in loader(seed=3):
        assert history.shape[1:] == (4, 2, 3, 4)
        assert target.shape[1:] == (2, 2, 3, 4)
        np.testing.assert_array_equal(history[:, :, 0, 0, 0], starts.numpy()[:, None] + np.arange(4))
        np.testing.assert_array_equal(target[:, :, 0, 0, 0], starts.numpy()[:, None] + np.arange(4, 6))


def test_each_pass_takes_every_window_once_in_an_order_of_seed_and_pass() -> None:
    def order(seed: int, number: int) -> list[int]:
        return torch.cat([starts for _, _, starts in loader(seed=seed).epoch(number)]).tolist()

    assert sorted(order(1, 0)) == list(range(25))
    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert len(loader()) == len(list(loader())) == 4


def test_unshuffled_windows_come_in_order_of_time() -> None:
    assert torch.cat([starts for _, _, starts in loader()]).tolist() == list(range(25))


def test_frames_stay_on_their_device() -> None:
    # "meta" has shapes and no values; nothing of it can be gathered by NumPy.
    for history, target, _ in WindowLoader(torch.empty(30, 2, 3, 4, device="meta"), np.arange(25), 4, 2, 10):
        assert history.is_meta
        assert target.is_meta
        assert history.shape[1:] == (4, 2, 3, 4)
        assert target.shape[1:] == (2, 2, 3, 4)


def test_starts_count_on_the_axis_whose_rows_the_frames_are() -> None:
    windows = WindowLoader(torch.arange(100.0, 130.0)[:, None, None, None], np.arange(103, 120), 4, 2, 8, first_row=100)
    for history, _, starts in windows:
        assert torch.equal(history[:, 0, 0, 0, 0].int(), starts)
