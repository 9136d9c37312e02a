"""Videos whose names say what happens when they are opened; imported by the processes of tests."""

import os
import time

from input_pipeline.media import Files


class Troubled(Files):
    """Files, but those called "hangs" or "crashes" do so."""

    def open(self, index: int):
        name = self.name(index)
        if "hangs" in name:
            time.sleep(1000)
        if "crashes" in name:
            os.kill(os.getpid(), 9)
        return super().open(index)
