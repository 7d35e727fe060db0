"""Figures, from statistics and maps alone."""
