"""The tests; the folder mirrors momentum/."""
