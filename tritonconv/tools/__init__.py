"""What looks at calls and prepares them: explain, warmup and verify, with the table of allowed errors."""
