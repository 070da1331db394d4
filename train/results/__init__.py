"""What came out: curves and figures beside simple cuts, pages, and event displays."""
