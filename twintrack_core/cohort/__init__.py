"""Cohorts on disk: cases, the Zarr store, readers and writers of images, regions of interest."""
