"""Tests that cross the package: adoption, journeys through the revisions, kills, clients at work."""
