"""One file per figure, and the style that figures share."""
