"""What a run leaves in its directory beside checkpoints: tables, logs, versions, and the page that explains them."""
