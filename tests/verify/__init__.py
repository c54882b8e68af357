"""Tests of momentum.verify."""
