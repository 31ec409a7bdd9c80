"""Pure functions over values: pressure, forecast, the plan, what to tell. No file, clock, environment or log."""
