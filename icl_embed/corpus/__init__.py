"""The corpus: files read into records, records into rows, rows into verified data sets."""
