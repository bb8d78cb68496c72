"""Studies: many runs for one question, in one folder."""

from fedtl.studies.record import Cell, Planned, Study, is_study

__all__ = ["Cell", "Planned", "Study", "is_study"]
