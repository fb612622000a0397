"""One file per experiment, and the stages that experiments are made of."""
