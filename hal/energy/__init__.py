"""What computing costs: one file per device's energy and latency model."""
