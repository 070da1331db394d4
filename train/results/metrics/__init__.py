"""Figures of merit of scores and charges: as functions of histograms, and as torchmetrics classes whose states add."""
