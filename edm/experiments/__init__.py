"""An experiment a file, and the stages they are made of."""
