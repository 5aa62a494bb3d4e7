"""Measurements: side by side in one run, medians and ratios, never asserted as a time."""
