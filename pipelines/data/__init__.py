"""Reading what a shop has: queries, tables and files, as they are written."""
