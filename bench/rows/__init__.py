"""One file per row: `ABOUT`, and `measure(seconds)`, which returns a BenchmarkResult. The folder is the list."""
