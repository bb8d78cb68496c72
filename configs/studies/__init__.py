"""Studies that ship with fedtl, by the names that ``fedtl sweep`` knows them by."""
