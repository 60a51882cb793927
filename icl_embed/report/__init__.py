"""The report of a run: one HTML page and one Markdown file that say what happened and how sure we are."""
