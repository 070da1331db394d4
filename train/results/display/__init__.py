"""What one looks at: events in 3D with their wire planes, as a page that opens offline or served for a whole store."""
