"""Videos whose names say what happens when they are opened; the processes of tests import it as well."""

import os
import time

from input_pipeline.media import Files


class Troubled(Files):
    """Files, but those called "hangs", "slow" or "crashes" do so."""

    def open(self, index: int):
        name = os.path.basename(self.name(index))
        if "hangs" in name:
            time.sleep(1000)
        if "slow" in name:
            time.sleep(3)
        if "crashes" in name:
            os.kill(os.getpid(), 9)
        return super().open(index)
