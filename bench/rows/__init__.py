"""
One file per row: `ABOUT`, and `measure(seconds)`, which returns a BenchmarkResult. A row prints no result,
since `bench/report.py` does.

The folder is the list.
"""
