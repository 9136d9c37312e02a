"""Pure functions on arrays: matrix products, attention, position tables, resizing, scans."""
