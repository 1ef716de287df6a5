"""No row of the fault catalogues lacks a test.

Two lists name the faults. The list of reliability has the rows s01 to s15 (stores), i01 to i14 (inputs) and m01 to m11
(models and runs). The fault catalogue has the rows a01 to p07. Asked for here are those that ingest, stores, scores,
training, prediction, scheduled runs and configuration answer. A test answers a row if its name begins with the row's
id: `test_s02_g02_…` answers two. Both lists have rows with i and m; those of the fault catalogue are called `cat_i01`
or `cat_m01`, and a bare i01 or m01 is always of the list of reliability.

A row that names several places is answered by a test in one of them. What hangs (cat_m05) has a deadline where a raw
file is opened (a05) and in a scheduled run. A build and a fit have none, because nothing tells how long a shard may
take on a disk that nobody knows; they can be interrupted (g18) and go on later (s15).
"""

import ast
import functools
import re
from pathlib import Path

import pytest

RELIABILITY = {
    f"{letter}{number:02}" for letter, last in (("s", 15), ("i", 14), ("m", 11)) for number in range(1, last + 1)
}

CATALOGUE_ROWS = """
    a01 a02 a03 a04 a05 a06 a07 a08 a09
    b01 b04 b05 b06 b07 b08 b10 b11 b12 b13
    c01 c02 c03 c04 c05 c06 c07 c08 c10 c11 c12 c13 c14 c16 c17
    d01 d02 d04 d05 d06 d07 d08 d09 d10 d12 d13
    u01 u02 u03 u04 u05 u06
    f01 f02 f03 f04 f06 f07 f08 f09 f10 f12 f13
    g01 g02 g03 g04 g05 g06 g07 g09 g10 g11 g12 g13 g14 g16 g18 g19
    h01 h02 h03 h04 h05 h06 h07 h08 h09 h10 h11
    cat_i01 cat_i02 cat_i03 cat_i04 cat_i05 cat_i06 cat_i07 cat_i08
    j01 j02 j03 j04 j05 j07 j09 j10
    k01 k03 k04 k05 k06 k07 k08 k10 k11 k12 k13 k14
    l01 l02 l03 l04 l05 l07
    cat_m01 cat_m02 cat_m03 cat_m04 cat_m05 cat_m06
    n01 n02 n03 n04 n05 n07 n08 n09 n10 n11 n12
    o01 o02 o03 o04 o05 o06 o07
    p05 p06 p07
"""
CATALOGUE = set(CATALOGUE_ROWS.split())

EXEMPT = {
    "h10": "a rule of design: icechunk is not offered, so there is no commit of its own to hold our lock around",
    "cat_m04": "no process that could be killed by itself loads windows: a thread of the fit reads them. The adapter "
    "for a caller's own DataLoader (OnePass) leaves its workers to torch, which names one that was killed",
    "l07": "windows are read by a thread of the fit, so there are no workers to count and nothing in /dev/shm",
}


@functools.cache
def names_of_tests() -> set[str]:
    """Names of all test functions beside this file."""
    return {
        node.name
        for file in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def ids_in(name: str) -> set[str]:
    """The rows that a test's name says it answers."""
    head = re.match(r"test((?:_cat_[im]\d\d|_[a-z]\d\d)*)(?:_|$)", name)
    return set(re.findall(r"cat_[im]\d\d|(?<=_)[a-z]\d\d(?=_|$)", head[1])) if head else set()


def test_ids_are_read_from_the_head_of_a_name() -> None:
    assert ids_in("test_s01_g10_cat_i01_a_store_of_b12") == {"s01", "g10", "cat_i01"}
    assert ids_in("test_no_row") == set()


@pytest.mark.parametrize("row", sorted(RELIABILITY | CATALOGUE))
def test_every_row_has_a_test_or_a_reason(row: str) -> None:
    answered = [name for name in names_of_tests() if row in ids_in(name)]
    assert bool(answered) != (row in EXEMPT), f"{row}: {answered or 'no test'}"


def test_every_id_in_a_name_may_be_a_row() -> None:
    # Rows of maps are not asked for here, but they are rows too.
    named = {row for name in names_of_tests() for row in ids_in(name)}
    assert not {row for row in named if not re.fullmatch(r"[a-dfghijklmnopsu]\d\d|cat_[im]\d\d", row)}
    assert {row for row in named if re.fullmatch(r"[is]\d\d", row)} <= RELIABILITY
    assert {row for row in named if re.fullmatch(r"m\d\d", row)} <= {f"m{number:02}" for number in range(1, 12)}
