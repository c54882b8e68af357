"""Tests of momentum.testing."""
