"""Tests of momentum.connect."""
