"""Networks of other software as denoisers: what their files say, and how they are called."""
