"""The CURVAS-PDACVI challenge (MICCAI 2025) for TwinTrack: its metrics, its ranking, and a reader of its folders.

Each challenge metric has two readings. `official` gives the number that the challenge's evaluation gives, quirks
included; `exact` gives what the metric is meant to say.
"""
