"""Networks of other software as denoisers: reading their files, and calling them."""
