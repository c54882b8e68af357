"""How a migrated database is compared with what its revision makes."""
