"""Curated rows -> a dataset folder with Parquet, card and statistics, and its push to the Hub."""
