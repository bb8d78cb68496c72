"""Patients of four hospitals, and whether their coronary arteries are narrowed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fedtl.choice import ConfigError
from fedtl.data.dataset import Dataset
from fedtl.data.own.columns import Missing
from fedtl.data.sets.files import Files
from fedtl.data.sets.place import readable

PLACE = Path("heart-disease")
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


class HeartDisease(Files):
    """920 patients of hospitals in Cleveland, Budapest, Zurich and Long Beach, each of which is a client.

    UCI Heart Disease (Detrano et al. 1989): 13 clinical features; class 1 is any degree of disease. As in FLamby
    (Ogier du Terrail et al. 2022, arXiv 2210.04620) the columns slope, ca and thal, which hardly any hospital but
    Cleveland has, are left out, and so are rows with gaps: 740 patients stay.

    Attributes:
        path: the folder of the four files, ``processed.cleveland.data`` and so on.
        root: the folder that has them in ``heart-disease``; the environment variable FEDTL_DATA if not given.
    """

    header = (
        *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak"),
        *("slope", "ca", "thal", "target"),
    )

    name: str = "heart-disease"
    path: str = ""
    root: str | None = None
    label: str = "target"
    positive: tuple[str, ...] = ("1", "2", "3", "4")
    missing: Missing = "drop"
    leave_out: tuple[str, ...] = ("slope", "ca", "thal")

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Choice`."""
        return {"root": "path names the folder"} if self.path else {}

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        root = self.root or os.environ.get("FEDTL_DATA")
        if not self.path and not root:
            raise ConfigError(
                f"data.name = {self.name!r}: set data.root or the environment variable FEDTL_DATA to the folder that "
                f"has {PLACE}"
            )
        key, path = ("data.path", self.path) if self.path else ("data.root", str(root))
        with readable(path, "folder", key) as place:
            folder = place if self.path else place / PLACE
            files = [folder / f"processed.{hospital}.data" for hospital in HOSPITALS]
            for file in files:
                if not file.is_file():
                    raise ConfigError(f"data.name = {self.name!r}: {folder} has no {file.name}")
        return self.of_clients(files)
