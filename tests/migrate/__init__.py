"""Tests of momentum.migrate."""
