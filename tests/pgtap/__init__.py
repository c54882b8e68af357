"""Tests of the pgTAP files in sql/pgtap/."""
