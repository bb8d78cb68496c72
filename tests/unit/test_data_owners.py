"""Whose a sample is: those without an owner are named, and who is different stays different."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.dataset import Dataset
from fedtl.data.sets.npz import Npz

N = 12
WHO = np.arange(N) % 3


def file_of(tmp_path: Path, **owners: Any) -> str:
    file = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(N, 2)), "y": np.arange(N) % 2}
    if "user_test" in owners:
        arrays |= {"x_test": rng.normal(size=(N, 2)), "y_test": np.arange(N) % 2}
    np.savez(file, **arrays, **owners)
    return str(file)


def sentence(tmp_path: Path, **owners: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Npz(path=file_of(tmp_path, **owners)).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


DATES = np.datetime64("2024-01-01") + WHO


@pytest.mark.parametrize(
    "user",
    [WHO, WHO - 5, WHO / 2, WHO[:, None], WHO == 1, DATES, DATES - DATES[0], WHO.astype(str), WHO.astype("S2")],
    ids=lambda user: f"{user.dtype} {user.shape}",
)
def test_owners_of_any_kind(tmp_path: Path, user: NDArray[Any]) -> None:
    owner = Npz(path=file_of(tmp_path, user=user)).load().owner
    assert owner is not None
    assert owner.tolist() == (WHO == 1 if user.dtype == bool else WHO).astype(int).tolist()


def with_gap(user: NDArray[Any], gap: Any) -> NDArray[Any]:
    user = user.copy()
    user[[4, 7]] = gap
    return user


MISSING = ("", "  ", "nan", "None", "NaT", "<NA>")


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (with_gap(WHO / 1, np.nan), "no owner but nan"),
        (with_gap(WHO / 1, np.inf), "no owner but inf"),
        (with_gap(DATES, np.datetime64("NaT")), "no owner but NaT"),
        (with_gap(DATES - DATES[0], np.timedelta64("NaT")), "no owner but NaT"),
        *(
            (with_gap(np.full(N, "hospital"), w), f"no owner but {w!r}")
            for w in ("", "  ", "nan", "None", "NaT", "<NA>")
        ),
        (with_gap(np.full(N, b"hospital"), b""), "no owner but ''"),
    ],
)
@pytest.mark.parametrize("key", ["user", "user_test"])
def test_samples_without_an_owner_are_named(tmp_path: Path, user: NDArray[Any], message: str, key: str) -> None:
    full = np.where(np.isin(np.arange(N), [4, 7]), user[0], user)
    begin = f"{tmp_path / 'a.npz'}: {key}: 2 samples, the first at 4, have "
    text = f"{begin}{message}; give each one, or leave these samples out"
    assert sentence(tmp_path, **({"user": full} | {key: user})) == text


def test_what_is_no_owner(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    assert sentence(tmp_path, user=WHO * 1j) == f"{file}: user holds complex128; owners are numbers or words"
    assert sentence(tmp_path, user=WHO[:5]) == f"{file}: user has shape [5]; its samples need [12]"
    assert "an array of Python objects is never unpickled" in sentence(
        tmp_path, user=np.array([None, *WHO[1:]], object)
    )
    assert sentence(tmp_path, user=np.full(N, b"\xff")).startswith(f"{file}: user holds bytes that are no words")


@pytest.mark.parametrize(
    ("user", "user_test", "message"),
    [
        (WHO, WHO.astype(str), "user_test holds words, but user numbers; save both alike"),
        (DATES, WHO, "user_test holds numbers, but user dates; save both alike"),
        (
            WHO + 2**53,
            (WHO + 2**53).astype(np.uint64),
            "user holds int64 and user_test uint64; save both as int64",
        ),
    ],
)
def test_both_arrays_must_mean_the_same(tmp_path: Path, user: Any, user_test: Any, message: str) -> None:
    assert sentence(tmp_path, user=user, user_test=user_test) == f"{tmp_path / 'a.npz'}: {message}"
    Npz(path=file_of(tmp_path, user=user, user_test=user)).load()


def test_in_a_folder_files_are_the_owners(tmp_path: Path) -> None:
    file_of(tmp_path, user=WHO)
    with pytest.raises(ConfigError, match=r"a\.npz: in a folder each file is one client's, but its user has several"):
        Npz(path=str(tmp_path)).load()
    file_of(tmp_path, user=np.full(N, "me"))
    Npz(path=str(tmp_path)).load()


@pytest.mark.parametrize("owner", [np.array([0.0, np.nan]), np.array([0, -2])])
def test_a_data_sets_owners_are_whole_numbers(owner: Any) -> None:
    one = np.ones(1, np.float32)
    with pytest.raises(ValueError, match=r"a data set's owner must be 0, 1, 2, ..., or -1 for nobody, as int64"):
        Dataset(np.zeros((2, 1), np.float32), np.zeros(2, np.int64), 1, one, one, owner=owner)
