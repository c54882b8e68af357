"""Tests of momentum.backfill."""
