"""One sampling loop; the schedule is data."""
