"""An HTTP client that measures: the schedule is drawn first, and a slow server never slows it down."""
