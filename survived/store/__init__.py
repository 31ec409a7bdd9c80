"""What must last, on the data disk: marker, trees, staging, journal, history, outbox."""
