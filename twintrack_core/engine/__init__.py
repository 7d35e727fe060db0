"""Whole cohorts: accumulate and apply as streams of chunks, and the runner that schedules them."""
