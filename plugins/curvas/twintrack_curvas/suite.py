"""All metrics of the challenge under one name."""

from __future__ import annotations

from twintrack_core.metrics import Suite

SUITE = Suite(
    name="curvas",
    metrics=(
        "tdsc",
        "dsc",
        "ece_official",
        "ece_exact",
        "crps_official",
        "crps_exact",
        "crps_empirical",
        "vi_official",
        "vi_exact",
    ),
    description="The metrics of the CURVAS-PDACVI challenge, as its evaluation gives them and as they are meant",
)
