"""What this package does while Ultralytics trains: new blocks learn faster, and how far they open is logged."""
