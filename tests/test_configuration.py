from datetime import timedelta
from pathlib import Path

import pytest

from stforecast.configuration import Duration, Section, checked, read_yaml
from stforecast.errors import ErrorKind, StforecastError


class Inner(Section):
    wait: Duration
    steps: int = 1


class Outer(Section):
    name: str
    inner: Inner | None = None
    several: tuple[Inner, ...] = ()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


def test_settings_are_read_and_checked(tmp_path: Path) -> None:
    path = written(tmp_path, "name: air\ninner: {wait: 45m}\nseveral: [{wait: 6h}, {wait: 30d, steps: 2}]")
    settings = checked(read_yaml(path), Outer, where=path)
    assert settings.inner == Inner(wait=timedelta(minutes=45))
    assert settings.several == (Inner(wait=timedelta(hours=6)), Inner(wait=timedelta(days=30), steps=2))


@pytest.mark.parametrize(
    ("settings", "fault", "kind"),
    [
        ({"nam": "air"}, "name is missing; unknown key nam; the nearest is name", ErrorKind.CONFIG_UNKNOWN_KEY),
        (
            {"name": "air", "inner": {"wait": "1h", "step": 3}},
            r"unknown key inner\.step; the nearest is inner\.steps",
            ErrorKind.CONFIG_UNKNOWN_KEY,
        ),
        (
            {"name": "air", "several": [{"wait": "1h", "wit": 3}]},
            r"unknown key several\.0\.wit; the nearest is several\.0\.wait",
            ErrorKind.CONFIG_UNKNOWN_KEY,
        ),
        ({"name": "air", "inner": {"wait": 45}}, r"inner\.wait: wanted a length of time with its unit", "ARGUMENT"),
        ({"name": "air", "inner": {"wait": "soon"}}, r"such as 45m, 6h or 30d, got 'soon'", "ARGUMENT"),
        ({"name": "air", "inner": {"wait": "-1h"}}, r"30d, got '-1h'", "ARGUMENT"),
    ],
)
def test_k03_k11_what_is_not_known_is_refused_with_the_nearest_key(settings: dict, fault: str, kind: str) -> None:
    with pytest.raises(StforecastError, match=fault) as caught:
        checked(settings, Outer, where="settings.yaml")
    assert caught.value.kind == kind


def test_k01_tags_that_would_make_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match="plain values, without tags") as caught:
        read_yaml(written(tmp_path, "name: !!python/object/apply:os.getcwd []"))
    assert caught.value.kind == ErrorKind.CONFIG_UNSAFE


def test_k06_aliases_of_aliases_are_counted_before_they_are_spelled_out(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]
    with pytest.raises(StforecastError, match="stands for more than 10,000 values") as caught:
        read_yaml(written(tmp_path, "\n".join(lines)))
    assert caught.value.kind == ErrorKind.FILE_TOO_LARGE
    with pytest.raises(StforecastError, match="settings have 1,048,576 at most"):
        read_yaml(written(tmp_path, "#" * 2**21))


def test_a_key_that_is_no_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match="found unhashable key") as caught:
        read_yaml(written(tmp_path, "{city}: bonn"))
    assert caught.value.kind.exit_status == 2


def test_files_that_are_no_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match="there is no file"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(StforecastError, match="is a folder; wanted the YAML file"):
        read_yaml(tmp_path)
    for text, fault in (
        ("name: [", "is no YAML: while parsing"),
        ("air", "has no settings, wanted lines such as"),
        ("name: air\ncycle: 1h\nname: sea", "has the key name in line 1 and again in line 3; keep one"),
        ("inner:\n- {wait: 1h, wait: 2h}", "has the key wait in line 2 and again in line 2"),
    ):
        with pytest.raises(StforecastError, match=fault) as caught:
            read_yaml(written(tmp_path, text))
        assert caught.value.kind == ErrorKind.ARGUMENT
