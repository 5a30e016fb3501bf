"""W&B's logger without W&B."""

from lightning.pytorch.loggers import WandbLogger


class Recorder(WandbLogger):
    """W&B's logger, as far as a callback sees it."""

    def __init__(self):
        self.images, self.tables = [], []

    def log_image(self, key, images, **other):
        self.images += [(key, image) for image in images]

    def log_table(self, key, columns, data):
        self.tables.append((key, columns, data))
