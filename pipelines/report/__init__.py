"""Reports: the page of a run, its figures, tables on the terminal."""
