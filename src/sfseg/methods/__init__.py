"""One LightningModule a method, one file each."""
