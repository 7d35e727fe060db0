"""Where compiled kernels are built; everything else about the package is in pyproject.toml."""

from setuptools import setup

setup()
