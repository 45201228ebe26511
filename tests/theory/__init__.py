"""Theory the methods rest on, checked on tabular processes."""
