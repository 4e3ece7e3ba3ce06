"""The paper's claims (2412.00127) tested in the small world: arms, their runs, and the verdicts."""
