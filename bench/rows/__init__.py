"""One file per row: `ABOUT`, and `measure(seconds)` which gives a Row. The folder is the list."""
